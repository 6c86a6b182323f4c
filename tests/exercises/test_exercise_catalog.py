"""Every exercise of every chapter keeps the contract; nothing here names an exercise.

A new exercise with two wrong answers, with a wrong answer that passes, or with one whose diagnosis
is another's is red without anybody writing a test for it.
"""

import inspect

import pytest
from exercise_samples import double, make_spec

from course_utils.exercises import Exercise, catalog, standin
from course_utils.exercises.judge import judge, prepare
from course_utils.exercises.solved import LONGEST_REFERENCE, reference_source
from course_utils.exercises.spec import Case, ExerciseSpec, WrongAnswer

SPECS = [spec for chapter in catalog.chapters() for spec in catalog.exercises_of(chapter)]
SEEDS = (0, 1, 2)
PATIENCE = 60.0  # seconds for a case: on a busy machine an answer is slow, and not endless
EVERY = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
_tasks: dict = {}


def task(spec: ExerciseSpec, seed: int):
    """Prepared once a seed: the reference is the slow part."""
    if (spec.name, seed) not in _tasks:
        _tasks[spec.name, seed] = prepare(spec, seed)
    return _tasks[spec.name, seed]


def undiagnosed(spec: ExerciseSpec, seeds: tuple[int, ...] = SEEDS) -> list[str]:
    """The wrong answers of a spec that pass, or fail with another's diagnosis."""
    problems = []
    for seed in seeds:
        for wrong in spec.wrong_answers:
            for form in wrong.forms:
                verdict = judge(
                    prepare_once(spec, seed), form, time_limit=PATIENCE, may_call_reference=True
                )
                if verdict.passed or verdict.mistake is not wrong:
                    shown = verdict.mistake.name if verdict.mistake else "no diagnosis"
                    what = "passes" if verdict.passed else f"shows {shown}"
                    problems.append(f"seed {seed}: {wrong.name!r} {what}")
    return problems


def prepare_once(spec: ExerciseSpec, seed: int):
    """From the cache for the course's own exercises, fresh for the specs made up here."""
    return task(spec, seed) if spec in SPECS else prepare(spec, seed)


@EVERY
def test_a_stub_is_not_attempted(spec: ExerciseSpec) -> None:
    def stub(*args):
        """Nothing yet."""
        ...

    answer = Exercise(spec, stub, 1, 1)
    assert answer.status == "not attempted"
    assert answer.check() is None
    assert answer.status == "not attempted" and not answer.uses_learners


@EVERY
@pytest.mark.parametrize("seed", SEEDS)
def test_the_reference_passes(spec: ExerciseSpec, seed: int) -> None:
    verdict = judge(task(spec, seed), spec.reference, time_limit=PATIENCE, may_call_reference=True)
    assert verdict.passed, verdict.smallest.differences


@EVERY
def test_every_wrong_answer_fails_with_its_own_diagnosis(spec: ExerciseSpec) -> None:
    assert undiagnosed(spec) == []


@EVERY
def test_the_spec_is_complete_and_its_reference_short(spec: ExerciseSpec) -> None:
    assert len(spec.wrong_answers) >= 3
    assert len({wrong.diagnosis for wrong in spec.wrong_answers}) == len(spec.wrong_answers)
    assert len(set(spec.hints)) == 3
    assert len(reference_source(spec).splitlines()) <= LONGEST_REFERENCE
    module = inspect.getmodule(spec.reference).__name__
    assert module.startswith("course_utils.") and not module.startswith("course_utils.exercises")


@EVERY
def test_what_is_checked_and_used_is_the_learners_object(spec: ExerciseSpec) -> None:
    """A copy of the reference that counts its calls: checked, then used, nothing in between."""
    calls = []
    copied = _copy_of(inspect.unwrap(spec.reference))

    def counting(*args, **kwargs):
        calls.append(args)
        return copied(*args, **kwargs)

    answer = Exercise(spec, counting, 1, 1)
    args, kwargs = task(spec, 0).cases[-1].build()
    answer(*args, **kwargs)
    assert calls == [], "unchecked, the course's version must be used"
    verdict = answer.check()
    assert verdict.passed, verdict.smallest.differences
    assert len(calls) >= verdict.cases
    calls.clear()
    args, kwargs = task(spec, 0).cases[-1].build()
    answer(*args, **kwargs)
    assert len(calls) == 1


@EVERY
def test_a_failing_answer_is_not_used_unless_forced(spec: ExerciseSpec) -> None:
    calls = []
    wrong = spec.wrong_answers[0].function

    def counting(*args, **kwargs):
        calls.append(args)
        return "not an answer" if args else wrong(*args, **kwargs)

    answer = Exercise(spec, counting, 1, 1)
    assert not answer.check().passed
    calls.clear()
    args, kwargs = task(spec, 0).cases[-1].build()
    answer(*args, **kwargs)
    assert calls == [] and answer.status == "failed"
    answer.check(use_mine=True)
    calls.clear()
    assert answer(*args, **kwargs) == "not an answer" and len(calls) == 1


def _copy_of(function):
    """The same computation as another object, so that forbidding the reference spares it."""
    copied = type(function)(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def test_two_wrong_answers_are_too_few() -> None:
    with pytest.raises(ValueError, match=r"2 wrong answers: name at least three"):
        make_spec(wrong_answers=make_spec().wrong_answers[:2])


def test_a_wrong_answer_that_passes_is_found() -> None:
    right = WrongAnswer("right after all", lambda x: x + x, "This is not wrong.")
    spec = make_spec(wrong_answers=(*make_spec().wrong_answers, right))
    assert undiagnosed(spec, (0,)) == ["seed 0: 'right after all' passes"]


def test_two_wrong_answers_that_look_the_same_are_found() -> None:
    again = WrongAnswer("nothing again", lambda x: x + 0, "You add nothing.")
    spec = make_spec(wrong_answers=(*make_spec().wrong_answers, again))
    assert undiagnosed(spec, (0,)) == ["seed 0: 'nothing again' shows same"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "double"}, r"a name looks like c02\.rms_norm"),
        ({"hints": ("one", "two")}, "2 hints: write three"),
        ({"hints": ("one", "two", " ")}, "none empty"),
        ({"why": ""}, "why"),
        ({"reference": len}, "plain Python function"),
        ({"work_slack": 0.5}, "work_slack must be >= 1"),
        ({"wrong_answers": (*make_spec().wrong_answers[:2], WrongAnswer("x", double, " "))}, "'x'"),
        ({"wrong_answers": make_spec().wrong_answers[:1] * 3}, "same name"),
    ],
)
def test_an_incomplete_spec_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_spec(**changes)


def test_a_reference_inside_a_function_is_refused() -> None:
    factor = 2

    def inner(x):
        return x * factor

    with pytest.raises(ValueError, match="top of its module"):
        make_spec(reference=inner)


def test_case_arguments_are_a_tuple_and_not_given_twice() -> None:
    with pytest.raises(ValueError, match=r"write a tuple, Case\(\(x,\)\)"):
        Case([1])
    with pytest.raises(ValueError, match="both args and make"):
        Case((1,), make=lambda: (1,))


def test_a_chapter_file_is_validated() -> None:
    spec = make_spec()
    with pytest.raises(ValueError, match="must define EXERCISES"):
        catalog.validated("c99", None, "c99_x.py")
    with pytest.raises(ValueError, match=r"defined twice: c99\.double"):
        catalog.validated("c99", [spec, spec], "c99_x.py")
    with pytest.raises(ValueError, match="another chapter than c98"):
        catalog.validated("c98", [spec], "c98_x.py")
    with pytest.raises(ValueError, match="no ExerciseSpec"):
        catalog.validated("c99", ["c99.double"], "c99_x.py")
    assert catalog.validated("c99", [spec], "c99_x.py") == (spec,)


@pytest.mark.parametrize("name", ["c77.nothing", "weight_bytes", "", None, "c00.no_such"])
def test_an_unknown_name_is_one_clear_error(name: object) -> None:
    with pytest.raises(ValueError, match="unknown exercise"):
        standin.exercise(name, difficulty=1, minutes=1)


@pytest.mark.parametrize("difficulty", [0, 6, "2", None])
def test_a_difficulty_outside_one_to_five_is_refused(difficulty: object) -> None:
    with pytest.raises(ValueError, match="whole number from 1 to 5"):
        standin.exercise("c00.weight_bytes", difficulty=difficulty, minutes=1)
