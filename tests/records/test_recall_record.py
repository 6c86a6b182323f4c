"""The recipe of the recall record trains what it says, and measures every stage."""

import itertools

import pytest
import torch

from course_utils.models import DecoderLM
from course_utils.records import load_record, recall


@pytest.fixture
def short(monkeypatch):
    """A few batches of a few texts."""
    for name in ("INDEXER_STEPS", "SPARSE_STEPS"):
        monkeypatch.setattr(recall, name, 2)
    monkeypatch.setattr(recall, "BATCH", 2)
    monkeypatch.setattr(recall, "PAIRS", (4, 8))
    measure = recall.measure_recall
    monkeypatch.setattr(recall, "measure_recall", lambda *a, **k: measure(*a, texts=2))


@pytest.mark.parametrize("variant", recall.VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_makes_its_rows(short, variant):
    rows = recall.run(variant, 0, "cpu", steps=2)
    stages = {"sparse, untrained indexer", "sparse, indexer trained", "sparse, both trained"}
    expected = {variant.name} | (stages if variant.name == "latent" else set())
    assert {row["variant"] for row in rows} == expected
    assert len(rows) == 2 * len(expected)
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert {*recall.KEYS, *recall.TOLERANCE, "code", "corpus"} <= set(rows[0])


def test_only_the_indexer_is_trained_to_imitate(short):
    model = DecoderLM(recall.model_config(recall.VARIANTS[-1]))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config = recall.training_config(2, 1e-2, 0)
    weights = recall.indexer_parameters(model)
    recall.descend(weights, lambda ids, _: recall.indexer_loss(model, ids), config, "cpu")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) == ("indexer" not in name), name


def test_the_caches_differ_as_the_kinds_of_attention_do():
    kept = {}
    for variant in recall.VARIANTS:
        model = DecoderLM(recall.model_config(variant))
        with torch.no_grad():
            model(torch.zeros(1, 96, dtype=torch.long), cache := model.new_cache(1, 96))
        kept[variant.name] = cache.bytes()
    assert kept["window"] < kept["window + full"] < kept["full"]
    assert kept["linear"] < kept["linear + full"] < kept["full"]


def test_the_grid_has_the_named_variants_with_three_seeds():
    grid = recall.grid(recall.RECORDED, ["a", "b"])
    assert [variant.name for variant, _, _ in grid[::3]] == recall.RECORDED
    assert {seed for _, seed, _ in grid} == {0, 1, 2}
    assert [device for *_, device in grid[:3]] == ["a", "b", "a"]


def test_the_record_is_whole_and_full_attention_holds_where_a_window_fails():
    rows = load_record(recall.RECORD).rows
    found = {(row["variant"], row["seed"], row["pairs"]): row["accuracy"] for row in rows}
    wanted = itertools.product(recall.RECORDED, (0, 1, 2), recall.PAIRS)
    assert set(found) == set(wanted)
    assert len(rows) == len(found)
    for seed, pairs in itertools.product((0, 1, 2), recall.PAIRS):
        assert found["full", seed, pairs] > 0.9
        assert found["window", seed, pairs] < 0.25  # one of 8 values by chance
