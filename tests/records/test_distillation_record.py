"""The records of chapter 10: whole, equal where they say so, and the shipped student as it says."""

import csv
from functools import partial
from statistics import mean

import pytest
import torch

from course_utils.accounting.ledger import ledger_rows
from course_utils.data.tokenizer import course_tokenizer
from course_utils.distillation import distill, distillation_loss, forward_kl
from course_utils.models import DecoderLM, shipped
from course_utils.models.checkpoints import SHIPPED, read_header
from course_utils.records import distillation, load_record, recorded, student, verdict
from course_utils.records.distillation_setup import (
    FULL,
    SMALL,
    VARIANTS,
    flops_per_token,
    groups,
    loss_of,
    steps_of,
    student_config,
)
from course_utils.records.small_models import prepared_corpus
from course_utils.training import TrainingConfig, evaluate

ROWS = load_record("c10_distillation").rows
CURVES = load_record("c10_student").rows


def of(name: str, column: str = "nats_per_token") -> list[float]:
    return [row[column] for row in ROWS if row["variant"] == name]


def test_rows_are_of_the_grid_and_each_once():
    found = [(row["variant"], row["seed"]) for row in ROWS]
    assert found == [(v.name, seed) for v in VARIANTS for seed in range(3)]
    assert len(set(found)) == len({row["nats_per_token"] for row in ROWS}) == len(ROWS)
    for column in ("code", "corpus"):
        assert len({row[column] for row in ROWS}) == 1


def test_one_rate_for_labels_and_one_for_the_rest():
    for labels in (True, False):
        rates = {row["learning_rate"] for row in ROWS if (row["alpha"] == 0) == labels}
        assert len(rates) == 1 and rates <= {*FULL.rates}


def test_same_tokens_and_the_teachers_compute():
    own, teachers = flops_per_token()
    assert len({row["tokens"] for row in ROWS if row["variant"] in ("labels alone", "JSD")}) == 1
    for row in ROWS:
        each = own + (teachers if row["alpha"] else 0)
        assert row["flops"] == pytest.approx(row["tokens"] * each, rel=1e-6)


def test_same_compute_is_that():
    own, teachers = flops_per_token()
    variant = next(v for v in VARIANTS if v.length == "same compute")
    for scale in (SMALL, FULL):
        paid = scale.steps * (own + teachers)
        assert steps_of(variant, scale) * own == pytest.approx(paid, rel=0.01)
    assert {row["steps"] for row in ROWS if row["variant"] == variant.name} == {
        steps_of(variant, FULL)
    }


def test_the_large_form_has_all_variants():
    assert sorted(v.name for group in groups(FULL) for v in group) == sorted(
        v.name for v in VARIANTS
    )
    longer = next(v for v in VARIANTS if v.length == "longer")
    assert steps_of(longer, FULL) == 8 * FULL.steps


def test_side_by_side_is_one_after_the_other():
    config = TrainingConfig(3, 2, 16, 1e-2, 1)
    stream_N = torch.randint(4096, (200,), generator=torch.Generator().manual_seed(0))
    variants = [v for v in VARIANTS if v.name in ("T=2", "reverse KL")]
    together = [DecoderLM(student_config(), seed=0) for _ in variants]
    distillation.distill_together(variants, together, stream_N, config)
    for variant, found in zip(variants, together, strict=True):
        alone = DecoderLM(student_config(), seed=0)
        distill(alone, shipped("moe"), stream_N, config, loss=loss_of(variant), progress=False)
        for one, other in zip(alone.parameters(), found.parameters(), strict=True):
            assert torch.equal(one, other)


def test_the_teacher_answers_once():
    asked = []

    class Teacher(torch.nn.Module):
        config = None

        def forward(self, ids):
            asked.append(ids)
            return ids.float()

    once, ids = distillation.AnswersOnce(Teacher()), torch.arange(4)[None]
    assert torch.equal(once(ids), once(ids.clone())) and len(asked) == 1
    assert torch.equal(once(ids + 1), ids + 1.0) and len(asked) == 2


def test_without_the_square_the_factor_is_undone():
    logits = torch.randn(2, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 5, dtype=torch.long)
    variant = next(v for v in VARIANTS if not v.square)
    T, alpha = variant.temperature, variant.alpha
    expected = alpha * forward_kl(*logits, T).mean()
    expected += (1 - alpha) * distillation_loss(*logits, labels, alpha=0.0)
    torch.testing.assert_close(loss_of(variant)(*logits, labels), expected)
    squared = partial(distillation_loss, temperature=T, alpha=alpha)
    assert squared(*logits, labels) > expected


def test_a_cut_grid_is_kept_and_gone_on_with(tmp_path, monkeypatch):
    trained = []

    def start(grid, *_):
        for group, seed, rate in grid:
            trained.append((group[0].name, seed, rate))
            row = {"seed": seed, "learning_rate": rate, "nats_per_token": 1.0}
            yield [{"variant": variant.name, **row} for variant in group]

    for module in (distillation, recorded):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(distillation, "start", start)
    command = ["x", "--rates", "1e-3", "2e-3"]
    monkeypatch.setattr("sys.argv", command)
    distillation.main()
    path, whole = tmp_path / "c10_distillation.csv", len(trained)
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == 3 * sum(map(len, groups())) and {rate for *_, rate in trained} == {
        1e-3,
        2e-3,
    }
    recorded.save_record("c10_distillation", rows[:-3])  # the last variant was not reached
    monkeypatch.setattr("sys.argv", [*command, "--resume"])
    distillation.main()
    assert trained[whole:] == [(rows[-1]["variant"], seed, 1e-3) for seed in range(3)]
    assert list(csv.DictReader(path.open())) == rows


def better(one: str, other: str) -> str | None:
    """Which of two variants is better by the course's rule, if one is."""
    said = verdict(one, of(one), other, of(other))
    return None if "no verdict" in said else said.rpartition(": ")[2].removesuffix(" is better")


def test_what_the_chapter_says_of_a_teachers_worth():
    assert better("labels alone", "forward KL") == "forward KL"
    assert mean(of("labels alone")) - mean(of("forward KL")) == pytest.approx(0.17, abs=0.01)
    compute = "labels, same compute"
    assert better("forward KL", compute) == compute
    assert mean(of("forward KL")) - mean(of(compute)) == pytest.approx(0.29, abs=0.01)
    assert better(compute, "labels, longer") == compute
    assert max(of("labels, longer", "entropy")) < min(of(compute, "entropy"))
    assert better("forward KL", "labels, longer") is None
    assert better("labels alone", "labels, all text") is None
    assert better("forward KL", "distilled, all text") is None


def test_what_the_chapter_says_of_losses():
    assert better("T=1", "T=4") == "T=1"
    for other in ("T=2", "forward KL"):
        assert better("T=1", other) is None
    assert better("T=4", "T=4 without T^2") is None
    for other in ("reverse KL", "JSD"):
        assert better("forward KL", other) == "forward KL"
        assert mean(of(other)) - mean(of("forward KL")) > 1
    assert better("forward KL", "top 16 of the logits") is None
    jsd, forward, reverse = (of(name, "entropy") for name in ("JSD", "forward KL", "reverse KL"))
    assert all(a < b < c for a, b, c in zip(jsd, forward, reverse, strict=True))


def test_what_the_chapter_says_of_the_curves():
    nats = {(row["student"], row["step"]): row["nats_per_token"] for row in CURVES}
    gains = [nats["labels alone", step] - nats["distilled", step] for step in (1000, 2000, 3000)]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0.1
    own, teachers = flops_per_token()
    assert 1000 * (own + teachers) == pytest.approx(3000 * own, rel=0.01)
    assert nats["labels alone", 3000] < nats["distilled", 1000]


def test_the_shipped_student_is_what_its_header_says():
    path, model = SHIPPED / "student.safetensors", shipped("student")
    assert path.stat().st_size < 1_100_000 and model.config == student_config()
    share = shipped("moe").activated_parameters(embedding=False)
    assert share / model.count_parameters(embedding=False) == pytest.approx(10, rel=0.05)
    lineage = read_header(path)["lineage"]
    assert (lineage["base"], lineage["teacher"]) == (None, "moe")
    last = {row["student"]: row for row in CURVES}
    assert lineage["validation_bits_per_byte"] == last["distilled"]["bits_per_byte"]
    assert lineage["tokens"] == last["distilled"]["tokens"] == last["labels alone"]["tokens"]
    (row,) = [row for row in ledger_rows() if row.chapter == "10"]
    assert row.model == "student" and row.parameters == model.count_parameters()
    bytes_V, corpus = course_tokenizer().token_bytes(), prepared_corpus()
    scored = evaluate(model, corpus, bytes_V, split="test", windows=16)["all"]  # as all rows
    assert row.bits_per_byte == pytest.approx(scored.bits_per_byte, abs=0.002)


@pytest.mark.parametrize("module", (distillation, student))
def test_they_can_be_made_again(module):
    assert recorded.RECIPES[module.RECORD] == module.__name__
    columns = load_record(module.RECORD).rows[0]
    assert set(module.KEYS) | set(module.TOLERANCE) <= set(columns)
