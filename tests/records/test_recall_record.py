"""The recipe of the recall record trains what it says, and measures every stage."""

import itertools

import pytest
import torch

from course_utils.models import DecoderLM
from course_utils.records import load_record, recall, verdict

STAGES = ["sparse, untrained indexer", "sparse, indexer trained", "sparse, both trained"]


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
    expected = {variant.name} | (set(STAGES) if variant.name == "latent" else set())
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
    whole = len(recall.TRAINED)  # so many batches have every number that has been taken in
    spans = [range(start, start + whole) for start in range(0, 90, whole)]
    most = [max(texts(step).pairs for step in span) for span in spans]
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
    states = [bytes_of[f"linear {width} x {width}"] for width in (4, 8, 16)]
    assert states == sorted(set(states)) and states[-1] < bytes_of["full"]
    assert bytes_of["window"] < bytes_of["window + full"] < bytes_of["full"]
    assert bytes_of["linear 4 x 4"] < bytes_of["linear 4 x 4 + full"] < bytes_of["full"]
    assert bytes_of["latent"] < bytes_of["full"]


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


def right(variant: str, pairs: int, column: str = "accuracy") -> list[float]:
    rows = load_record(recall.RECORD).rows
    return [row[column] for row in rows if (row["variant"], row["pairs"]) == (variant, pairs)]


def test_the_record_is_whole():
    rows = load_record(recall.RECORD).rows
    found = [(row["variant"], row["seed"], row["pairs"]) for row in rows]
    variants = [variant.name for variant in recall.VARIANTS] + STAGES
    assert sorted(found) == sorted(itertools.product(variants, (0, 1, 2), recall.PAIRS))
    assert len({row["code"] for row in rows}) == 1


def test_what_the_chapter_says_of_who_recalls():
    for variant in ("full", "window + full", "linear 4 x 4 + full", "latent"):
        assert min(right(variant, 64)) > 0.999
    assert max(right("window", 4)) < 0.4 and max(right("window", 64)) < 0.15  # 1 / 8 by chance
    for width, best in ((16, 1.0), (8, 0.6), (4, 0.3)):
        few, many = right(f"linear {width} x {width}", 4), right(f"linear {width} x {width}", 64)
        assert max(many) < best and all(b < a for a, b in zip(few, many, strict=True))
    assert min(right("linear 16 x 16", 64)) > 0.98
    assert (
        min(right("full", 4, "accuracy_early"))
        > 0.9
        > max(right("linear 4 x 4 + full", 4, "accuracy_early"))
    )


def test_what_the_chapter_says_of_the_indexer():
    wrong = {name: [1 - x for x in right(name, 64)] for name in ("latent", *STAGES)}
    untrained, *trained = STAGES
    assert "latent is better" in verdict("latent", wrong["latent"], "o", wrong[untrained])
    for stage in trained:
        assert "no verdict" in verdict("latent", wrong["latent"], "o", wrong[stage])
        assert max(wrong[stage]) < 0.05
