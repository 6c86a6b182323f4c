"""The records of chapter 12: whole, comparable as they claim, and the checkpoint as it says."""

import json
from itertools import product

import pytest

from course_utils.accounting.ledger import dense_row, ledger_rows
from course_utils.data.skills import skill_pairs
from course_utils.models import shipped
from course_utils.models.checkpoints import SHIPPED, read_header
from course_utils.pruning.heal import healing_flops, steps_at_equal_compute
from course_utils.records import (
    adapters,
    load_record,
    pruning,
    recorded,
    smollm2_pruning,
    verdict,
)
from course_utils.training.adapter_files import load_adapter, read_adapter
from course_utils.training.lora import ATTENTION

ROWS = load_record("c12_healing").rows
SMOL = load_record("c12_smollm2").rows
ADAPTERS = load_record("c12_adapters").rows


def of(cut: str, way: str) -> list[float]:
    return [row["bits_per_byte"] for row in ROWS if (row["cut"], row["way"]) == (cut, way)]


def test_every_cut_and_way_has_three_seeds_once():
    found = [(row["cut"], row["way"], row["seed"]) for row in ROWS]
    scales = (pruning.SMALL, pruning.FULL)
    grids = [list(product(scale.cuts, scale.ways, (0, 1, 2))) for scale in scales]
    assert found in grids and len({row["bits_per_byte"] for row in ROWS}) == len(ROWS)


def test_the_sides_of_equal_compute_cost_the_same():
    for cut in {row["cut"] for row in ROWS}:
        flops = {row["way"]: row["flops"] for row in ROWS if row["cut"] == cut}
        assert flops[pruning.COMPUTE] == flops[pruning.SCRATCH]
        assert flops[pruning.DISTILLED] == pytest.approx(flops[pruning.COMPUTE], rel=0.01)


def test_what_the_chapter_says_of_the_record():
    distilled = of("width", pruning.DISTILLED)
    for other in (pruning.COMPUTE, pruning.SCRATCH):
        assert "distilled is better" in verdict("distilled", distilled, "o", of("width", other))
    healed = [row for row in ROWS if row["way"] == pruning.DISTILLED]
    assert all(row["bits_whole"] < row["bits_per_byte"] < row["bits_before"] for row in healed)


def test_a_teacher_costs_a_forward_pass():
    whole, small = (shipped(name).config.to_dict() for name in ("dense", "pruned"))
    alone, taught = (healing_flops(small, teacher, 256) for teacher in (None, whole))
    assert taught - alone == pytest.approx(healing_flops(whole, None, 256) / 3)
    steps = steps_at_equal_compute(600, small, whole, 256)
    assert steps * alone == pytest.approx(600 * taught, rel=1e-3)


def test_smollm2_lost_and_got_something_back():
    cuts = [(row["cut"], row["healed"]) for row in SMOL]
    assert len(set(cuts)) == 7 and SMOL[0]["cut"] == smollm2_pruning.WHOLE
    for domain in ("english_perplexity", "code_perplexity"):
        value = {(row["cut"], row["healed"]): row[domain] for row in SMOL}
        for cut in (smollm2_pruning.LAYERS, smollm2_pruning.HEADS):
            assert value["whole", "no"] < value[cut, "yes"] < value[cut, "no"]


def test_the_shipped_pruned_model_is_what_its_header_says():
    lineage = read_header(SHIPPED / "pruned.safetensors")["lineage"]
    assert lineage["base"] == "dense" and lineage["recipe"] == "course_utils.records.pruned"
    assert lineage["test_bits_per_byte"] < lineage["test_bits_per_byte_before_healing"]
    model, dense = shipped("pruned"), shipped("dense")
    assert model.count_parameters() < dense.count_parameters() / 2
    assert (SHIPPED / "pruned.safetensors").stat().st_size < 4_000_000
    assert json.dumps(lineage)
    (row,) = [row for row in ledger_rows() if row.chapter == "12"]
    assert row == dense_row("12", "pruned", model.config.to_dict(), row.bits_per_byte)
    assert round(row.bits_per_byte - ledger_rows()[0].bits_per_byte, 2) == 0.03
    healed = max(r["tokens"] for r in ROWS if r["way"] == pruning.DISTILLED)
    assert lineage["tokens"] == 150 * healed
    assert lineage["tokens"] * 8 == read_header(SHIPPED / "dense.safetensors")["lineage"]["tokens"]


def adapters_of(way: str, column: str) -> list[float]:
    return [row[column] for row in ADAPTERS if row["way"] == way]


def test_ranks_and_all_weights_have_three_seeds_and_their_size():
    assert [(row["way"], row["seed"]) for row in ADAPTERS] == list(product(adapters.WAYS, range(3)))
    for way, rank in adapters.WAYS.items():
        size = 3_935_936 if rank is None else rank * 8 * (192 + 192 + 192 + 64)
        assert set(adapters_of(way, "trained_parameters")) == {size}
        assert len(set(adapters_of(way, "learning_rate"))) == 1
    assert set(adapters_of(adapters.FULL, "accuracy_before")) == {0.0}


def test_what_the_chapter_says_of_adapters():
    assert min(row["accuracy"] for row in ADAPTERS) >= 0.9
    assert all(row["bits_per_byte"] > row["bits_before"] + 0.1 for row in ADAPTERS)
    lora, full = (
        adapters_of(way, "bits_per_byte") for way in (adapters.SHIPPED_WAY, adapters.FULL)
    )
    assert "full is better" in verdict("lora", lora, "full", full)


def test_the_shipped_adapter_is_a_recorded_row_and_has_its_skill():
    config, lineage, _ = read_adapter(SHIPPED / adapters.SKILL)
    assert (lineage["base"], config["r"], config["target_modules"]) == ("dense", 8, list(ATTENTION))
    (row,) = [r for r in ADAPTERS if (r["way"], r["seed"]) == (adapters.SHIPPED_WAY, 0)]
    assert lineage["test_accuracy"] == row["accuracy"] > 0.9
    model, pairs = shipped("dense"), skill_pairs(adapters.SKILL, "test", 40)
    assert adapters.accuracy(model, pairs) == 0
    load_adapter(model, SHIPPED / adapters.SKILL)
    assert adapters.accuracy(model, pairs) > 0.9
    files = sum(path.stat().st_size for path in (SHIPPED / adapters.SKILL).iterdir())
    assert files < 100_000


@pytest.mark.parametrize("module", (pruning, smollm2_pruning, adapters))
def test_they_can_be_made_again(module):
    assert recorded.RECIPES[module.RECORD] == module.__name__
    columns = load_record(module.RECORD).rows[0]
    assert set(module.KEYS) | set(module.TOLERANCE) <= set(columns)
