"""The recipe of chapter 11: what students are shown, and that compute is equal."""

import json

import pytest

from course_utils.data import puzzles
from course_utils.records import reasoning, reasoning_setup
from course_utils.records.reasoning import METHODS, WRONG, budget, pairs_of, spent_before

SHOWN = puzzles.questions(1, 40)


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
    monkeypatch.setattr(reasoning, "QUESTIONS", 40)
    monkeypatch.setattr(reasoning, "student_questions", lambda: SHOWN)


def test_students_are_shown_what_their_method_says(traces):
    for method in METHODS:
        pairs = pairs_of(method, seed=0)
        share = sum(puzzles.verify(*pair) for pair in pairs) / len(pairs)
        wanted = {"answers": 0, "unfiltered": 0.75} | {name: 1 - w for name, w in WRONG.items()}
        assert share == pytest.approx(wanted.get(method, 1), abs=0.01), method
        assert {question for question, _ in pairs} == set(SHOWN)
    assert all(puzzles.answer_is_right(*pair) for pair in pairs_of("answers", 0))


def test_a_method_pays_for_the_texts_that_its_teacher_wrote():
    assert spent_before("answers") == spent_before("worked steps") == 0
    assert 0 < 4 * spent_before("unfiltered") == spent_before("kept traces")
    assert budget(100) - budget(0) == 100 * (budget(1) - budget(0)) > 0
    assert budget(0) == spent_before("on policy")


def test_the_sampler_has_room_for_every_question_and_right_completion():
    longest = reasoning_setup.PROMPT
    assert all(len(question) <= longest for question in puzzles.questions(5, 300))
    everything = puzzles.DIFFICULTIES[-1] + puzzles.EXTRAS  # steps after the given number
    assert len("a=3;") + 8 * everything + len("6.") <= reasoning_setup.NEW
    assert longest + reasoning_setup.NEW == reasoning_setup.LENGTH
    assert reasoning_setup.LENGTH <= reasoning_setup.STUDENT_CONFIG.max_position_embeddings
