"""Records of models with experts: whole, comparable as they claim, and made by their recipes."""

import json
from itertools import product

import pytest

from course_utils.accounting.ledger import course_spec
from course_utils.models import moe_layers, shipped
from course_utils.models.checkpoints import SHIPPED, read_header
from course_utils.records import balance, dense_vs_moe, granularity, load_record
from course_utils.records.checkpoint import recipe
from course_utils.records.moe import moe_config
from course_utils.records.small_models import BALANCE, model_config, training_config

GRIDS = (dense_vs_moe, balance, granularity)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.RECORD)
def test_every_variant_has_three_seeds_once(grid):
    rows = load_record(grid.RECORD).rows
    expected = list(product([variant.name for variant in grid.VARIANTS], (0, 1, 2)))
    assert [(row["variant"], row["seed"]) for row in rows] == expected
    assert len({row["bits_per_byte"] for row in rows}) == len(rows)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.RECORD)
def test_a_row_is_what_its_variant_says(grid):
    variants = {variant.name: variant for variant in grid.VARIANTS}
    for row in load_record(grid.RECORD).rows:
        variant = variants[row["variant"]]
        count = course_spec(model_config(variant).to_dict()).count()
        assert (row["parameters"], row["active_parameters"]) == (count.total, count.activated)
        assert row["learning_rate"] == variant.rate
        assert row["tokens"] == training_config(0, variant.rate).tokens
        assert all((row[column] == "") == (variant.moe is None) for column in BALANCE)


@pytest.mark.parametrize("grid", (dense_vs_moe, granularity), ids=lambda grid: grid.RECORD)
def test_sides_use_equally_many_parameters_per_token(grid):
    active = {
        row["variant"]: row["active_parameters"]
        for row in load_record(grid.RECORD).rows
        if row["variant"] != "dense, all parameters"
    }
    assert max(active.values()) / min(active.values()) < 1.02  # a router each


def test_runs_in_two_records_are_the_same_runs():
    one, two = (load_record(grid.RECORD).rows for grid in (dense_vs_moe, granularity))
    for row in two:
        twins = [r for r in one if (r["variant"], r["seed"]) == (row["variant"], row["seed"])]
        assert all(twin["bits_per_byte"] == row["bits_per_byte"] for twin in twins)
    assert {row["variant"] for row in one} & {row["variant"] for row in two}


def test_violations_are_possible_ones():
    for row in load_record("c04_balance").rows:
        assert 0 <= row["max_violation"] <= row["max_violation_batch"] <= 16 / 2 - 1
        assert 0 < row["load_entropy"] <= 1


def test_the_moe_checkpoint_is_what_its_recipe_says():
    model, lineage = shipped("moe"), read_header(SHIPPED / "moe.safetensors")["lineage"]
    assert model.config == moe_config()
    assert len(moe_layers(model)) == 7
    last = load_record("c03_moe").rows[-1]
    assert lineage["recipe"] == "course_utils.records.moe" and lineage["seed"] == recipe().seed
    assert lineage["tokens"] == recipe().tokens == last["tokens"]
    assert lineage["validation_bits_per_byte"] == last["bits_per_byte"]
    assert last["corpus"] in lineage["data"] and json.dumps(lineage)
    for layer in moe_layers(model):
        assert layer.gate.e_score_correction_bias.abs().max() > 0  # the bias moved and was kept
