"""The shipped MTP module and the recorded acceptances: whole, possible, made by their recipes."""

import json
from itertools import product

import pytest
import torch

from course_utils.data.texts import DOMAINS
from course_utils.generation import MTPDraft, generate_greedy, generate_speculative, shipped_mtp
from course_utils.models import shipped
from course_utils.models.checkpoints import SHIPPED, read_header
from course_utils.records import acceptance, load_record
from course_utils.records.mtp import EVALUATE_EVERY, recipe


def test_the_module_is_what_its_recipe_says():
    header, last = read_header(SHIPPED / "mtp.safetensors"), load_record("c09_mtp").rows[-1]
    lineage = header["lineage"]
    assert header["config"] == shipped("dense").config.to_dict()
    assert lineage["base"] == "dense" and lineage["recipe"] == "course_utils.records.mtp"
    assert (lineage["tokens"], lineage["seed"]) == (recipe().tokens, recipe().seed)
    assert lineage["tokens"] == last["tokens"] and recipe().steps == last["step"]
    assert lineage["train_nats"] == last["train_nats"] and last["corpus"] in lineage["data"]
    assert json.dumps(lineage)


def test_the_curve_is_whole_and_the_module_has_learned():
    rows = load_record("c09_mtp").rows
    assert [row["step"] for row in rows] == list(
        range(EVALUATE_EVERY, recipe().steps + 1, EVALUATE_EVERY)
    )
    for domain in DOMAINS:
        assert all(0 < row[f"{domain}_as_trunk"] < 1 for row in rows)
        assert rows[-1][f"{domain}_as_trunk"] > rows[0][f"{domain}_as_trunk"]


def test_acceptance_has_every_row_once():
    rows = load_record("c09_acceptance").rows
    found = [tuple(row[key] for key in acceptance.KEYS) for row in rows]
    grid = product(acceptance.DRAFTS, DOMAINS, acceptance.TEMPERATURES, acceptance.SEEDS)
    assert found == list(grid)


def test_rounds_and_tokens_add_up():
    for row in load_record("c09_acceptance").rows:
        new = acceptance.PASSAGES * (acceptance.NEW - 1)  # the first token comes with the prompt
        assert row["rounds"] * row["tokens_per_round"] == pytest.approx(new, abs=0.5)
        assert 0 < row["proposals"] <= row["rounds"] and 1 <= row["tokens_per_round"] <= 4
        assert all(row[place] == "" or 0 <= row[place] <= 1 for place in acceptance.PLACES)


def test_with_the_shipped_module_the_text_is_the_models():
    trunk, mtp = shipped("dense").double(), shipped_mtp().double()
    draft, generator = MTPDraft(trunk, mtp), torch.Generator().manual_seed(0)
    for _ in range(3):
        prompt_T = torch.randint(4096, (8,), generator=generator)
        expected = generate_greedy(trunk, prompt_T, 40)
        assert torch.equal(generate_speculative(trunk, prompt_T, 40, draft, 3).ids_T, expected)
