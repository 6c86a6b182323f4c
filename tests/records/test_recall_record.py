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
    monkeypatch.setattr(recall, "TEXTS", 2)


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
    imitate = recall.Descent(
        weights, lambda ids, _: recall.indexer_loss(model, ids), recall.all_lengths, config
    )
    imitate.go_to(2)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) == ("indexer" not in name), name


def test_training_takes_in_more_pairs_until_half_of_it_is_done():
    texts = recall.growing(100)
    assert {texts(step).pairs for step in range(10)} == {2, 4}
    assert {texts(step).pairs for step in range(50, 60)} == set(recall.TRAINED)
    most = [max(texts(step).pairs for step in range(start, start + 5)) for start in range(0, 90, 5)]
    assert most == sorted(most)


def test_training_in_two_parts_is_training_in_one():
    found = []
    for stops in ((4,), (1, 4)):
        model, descent = recall.begin(recall.VARIANTS[0], 0, "cpu", 4)
        for stop in stops:
            descent.go_to(stop)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_caches_differ_as_the_kinds_of_attention_do():
    bytes_of = {}
    for variant in recall.VARIANTS:
        model = DecoderLM(recall.model_config(variant))
        with torch.no_grad():
            model(torch.zeros(1, 96, dtype=torch.long), cache := model.new_cache(1, 96))
        bytes_of[variant.name] = cache.bytes()
    assert bytes_of["linear 16 x 16"] < bytes_of["linear 16 x 16 + full"] < bytes_of["full"]
    assert bytes_of["window"] < bytes_of["latent"] < bytes_of["full"]


def test_the_grid_has_every_variant_with_three_seeds():
    grid = recall.grid(["a", "b"])
    pairs = [(variant.name, seed) for variant, seed, *_ in grid]
    assert sorted(pairs) == sorted(
        (variant.name, seed) for variant in recall.VARIANTS for seed in (0, 1, 2)
    )
    assert [device for _, _, device, _ in grid[:3]] == ["a", "b", "a"]


def test_a_finished_run_is_taken_from_its_folder_unless_the_code_changed(monkeypatch, tmp_path):
    made = []

    def run(variant, seed, device):
        made.append((variant.name, seed))
        return [{"code": recall.code_hash(recall.RECALL_CODE), "steps": recall.STEPS, "pairs": 4}]

    monkeypatch.setattr(recall, "run", run)
    first = recall.kept(recall.VARIANTS[0], 0, "cpu", tmp_path)
    assert recall.kept(recall.VARIANTS[0], 0, "cpu", tmp_path) == first
    recall.kept(recall.VARIANTS[0], 1, "cpu", tmp_path)
    assert made == [("full", 0), ("full", 1)]
    monkeypatch.setattr(recall, "STEPS", 3)
    recall.kept(recall.VARIANTS[0], 0, "cpu", tmp_path)
    assert made[2:] == [("full", 0)]


def test_the_record_is_whole_and_full_attention_holds_where_a_window_fails():
    rows = load_record(recall.RECORD).rows
    found = {(row["variant"], row["seed"], row["pairs"]): row["accuracy"] for row in rows}
    variants = {name for name, _, _ in found}
    assert set(found) == set(itertools.product(variants, (0, 1, 2), recall.PAIRS))
    assert len(rows) == len(found)
    for seed in (0, 1, 2):
        assert found["full", seed, 32] > 0.9
        assert found["window", seed, 32] < 0.25  # one of 8 values by chance
