"""The recipe of chapter 11: what students are shown, equal compute, and a tiny run of it."""

import json
from dataclasses import replace
from statistics import mean, stdev

import pytest

from course_utils.data import puzzles
from course_utils.records import load_record, reasoning, reasoning_setup, recorded
from course_utils.records.reasoning import FULL, SMALL, budget, methods, pairs_of, spent_before

SHOWN = puzzles.questions(1, 40)
TINY = replace(SMALL, questions=40, steps=2, batch=2, on_policy_batch=2, tested=6, tries=2)
TINY = replace(TINY, rounds=1, round_questions=2, shares=(0.25, 0.5, 1.0))


@pytest.fixture
def traces(tmp_path, monkeypatch):
    """Traces as a teacher could have written them: every fourth first sample is wrong."""
    right = [puzzles.worked(question) for question in SHOWN]
    wrong = ["a=1;1." for _ in SHOWN]
    samples = [[wrong[n] if n % 4 == 0 else right[n], right[n]] for n in range(40)]
    path = tmp_path / "traces.json"
    bad = dict(zip(SHOWN, ([text, 1.0] for text in wrong), strict=True))
    path.write_text(json.dumps({"samples": samples, "wrong": bad}), encoding="utf-8")
    monkeypatch.setattr(reasoning, "TRACES", path)


def test_students_are_shown_what_their_method_says(traces):
    wrong = reasoning.wrong_shares(TINY)
    assert list(wrong) == ["25% wrong", "50% wrong", "100% wrong"]
    for method in ["answers", "kept traces", "unfiltered", *wrong]:
        pairs = pairs_of(method, 0, TINY)
        share = sum(puzzles.verify(*pair) for pair in pairs) / len(pairs)
        wanted = {"answers": 0, "unfiltered": 0.75} | {name: 1 - w for name, w in wrong.items()}
        assert share == pytest.approx(wanted.get(method, 1), abs=0.01), method
        assert {question for question, _ in pairs} == set(SHOWN)
    assert all(puzzles.answer_is_right(*pair) for pair in pairs_of("answers", 0, TINY))


@pytest.mark.parametrize("scale", [SMALL, FULL])
def test_a_method_pays_for_the_texts_that_its_teacher_wrote(scale):
    kept, longer = spent_before("kept traces", scale), replace(scale, steps=2 * scale.steps)
    assert spent_before("answers", scale) == 0
    assert 0 < scale.samples * spent_before("unfiltered", scale) == kept
    assert budget(longer) - kept == 2 * (budget(scale) - kept) > 0
    assert spent_before("on policy", scale) == kept < budget(scale)


def test_the_sampler_has_room_for_every_question_and_right_completion():
    longest = max(map(len, puzzles.questions(5, 300)))
    everything = puzzles.DIFFICULTIES[-1] + puzzles.EXTRAS  # steps after the given number
    assert len("a=3;") + 8 * everything + len("6.") <= reasoning_setup.NEW
    room = reasoning_setup.STUDENT_CONFIG.max_position_embeddings
    assert longest + reasoning_setup.NEW <= room


def test_compute_is_counted_with_texts_as_long_as_they_are():
    asked = puzzles.questions(5, 300)
    found = sum(len(question + puzzles.worked(question)) for question in asked) / len(asked)
    assert found == pytest.approx(reasoning.TEXT, abs=4)


def test_completions_come_back_in_the_order_of_their_questions():
    model = reasoning_setup.new_model(reasoning_setup.STUDENT_CONFIG, 0, "cpu")
    asked = puzzles.questions(5, 6)[::-1]
    together = reasoning_setup.ask(model, asked, 2, 0.0, seed=0)
    assert together == [reasoning_setup.ask(model, [one], 2, 0.0, seed=0)[0] for one in asked]


def test_every_method_gives_rows_with_the_same_columns(traces, monkeypatch):
    shipped = []

    def load(path):
        kind = "STUDENT" if path.stem == "reasoner_base" else "TEACHER"
        return reasoning_setup.new_model(getattr(reasoning_setup, f"{kind}_CONFIG"), 0, "cpu")

    monkeypatch.setattr(reasoning, "ship", lambda *given: shipped.append(given[1:3]))
    monkeypatch.setattr(reasoning, "load_checkpoint", load)
    monkeypatch.setattr(reasoning, "learn", lambda *given: None)
    monkeypatch.setattr(reasoning, "measure", lambda *given: {"accuracy": 0.0})
    monkeypatch.setattr(reasoning, "NEW", 2)
    monkeypatch.setattr(reasoning_setup, "NEW", 2)
    rows = [row for method in methods(TINY) for row in reasoning.run(method, 0, "cpu", TINY)]
    assert shipped == [("reasoner_student", "reasoner_base")]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert sorted(rows, key=lambda row: reasoning.place_of(row, TINY)) == rows
    assert len({tuple(row[key] for key in reasoning.KEYS) for row in rows}) == len(rows) == 10
    steps = {row["method"]: row["steps"] for row in rows}
    assert steps["answers"] > steps["kept traces"] > steps["on policy"] > steps["base"] == 0


def test_the_record_is_whole_and_says_what_the_chapter_says():
    assert recorded.RECIPES[reasoning.RECORD] == reasoning.__name__
    rows, found = load_record(reasoning.RECORD).rows, {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    assert list(found) == methods(SMALL) and {row["seed"] for row in rows} == {0, 1, 2}
    assert len({tuple(row[key] for key in reasoning.KEYS) for row in rows}) == len(rows) == 37
    compute = {row["flops"] for row in rows if row["method"] in list(found)[1:-2]}
    assert compute == {budget(SMALL)}
    for better, worse, column in (
        ("kept traces", "answers", "hardest_third"),
        ("unfiltered", "kept traces", "hardest_third"),
        ("kept traces", "on policy", "hardest_third"),
        ("kept traces", "100% wrong", "verified"),
        ("kept traces", "unfiltered", "pass_1"),
    ):
        a, b = ([row[column] for row in found[name]] for name in (better, worse))
        assert mean(a) - mean(b) > 2 * max(stdev(a), stdev(b)), (better, worse)
    hardest = {name: [row["hardest_third"] for row in own] for name, own in found.items()}
    assert min(hardest["100% wrong"]) > hardest["base"][0]
    assert max(row["accuracy"] for row in found["answers"]) < found["base"][0]["accuracy"]
