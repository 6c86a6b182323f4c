"""The verdict on an answer: right, or the smallest failing input and the mistake that it shows.

The answer runs on the cases of the exercise, generated from a seed, while the library's version
raises. When it fails, every wrong answer of the exercise runs on the same cases: one that shows
the same values, exceptions, side effects, work and gradients on all of them names the mistake.
Exceptions are the same when their type is, and their message but for the numbers in it.
Where the work is too much, but another amount, that is close enough if only one wrong answer fits.
When none does, nothing is guessed: the report says only what was seen.
"""

import random
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from course_utils.exercises import words
from course_utils.exercises.compare import Tolerance, difference
from course_utils.exercises.observe import Observation, observe
from course_utils.exercises.spec import Case, ExerciseSpec, WrongAnswer
from course_utils.exercises.surroundings import forbid

_DIFFERENT, _SIMILAR, _ALIKE = 0, 1, 2
_PATIENCE = 6  # how many times its time limit the reference may take
_VALUES_RIGHT = "the values are right, "


@dataclass(frozen=True)
class Task:
    """An exercise's cases for one seed, with what the reference showed on each."""

    spec: ExerciseSpec
    cases: Sequence[Case]
    expected: Sequence[Observation]
    _runs: dict[tuple, Observation] = field(default_factory=dict, compare=False, repr=False)

    def run(self, wrong: Callable[..., Any], case: int, limit: float | None) -> Observation:
        """A wrong answer on a case; run once, however many answers are compared with it."""
        key = (wrong, case, limit)
        if key not in self._runs:
            self._runs[key] = observe(self.spec, wrong, self.cases[case], limit)
        return self._runs[key]


@dataclass(frozen=True)
class Failure:
    """One failing case: the input, what differs, and both runs."""

    case: Case
    differences: tuple[str, ...]
    expected: Observation
    got: Observation

    @property
    def values_right(self) -> bool:
        """Only the gradient or the work is wrong: shown when no case has wrong values."""
        return self.differences[0].startswith(_VALUES_RIGHT)


@dataclass(frozen=True)
class Verdict:
    """What is known about an answer."""

    passed: bool
    cases: int  # how many were tried
    failed: int = 0
    smallest: Failure | None = None
    mistake: WrongAnswer | None = None
    printed: str = ""
    printed_characters: int = 0


def prepare(spec: ExerciseSpec, seed: int = 0) -> Task:
    """Generate the cases and run the reference on them, before any answer is near."""
    cases = list(spec.cases(random.Random(seed)))
    if not cases:
        raise ValueError(f"{spec.name}: cases(rng) returned no case")
    patience = _PATIENCE * spec.time_limit  # a busy machine is not the reference's fault
    expected = [observe(spec, spec.reference, case, patience) for case in cases]
    if any(seen.timed_out for seen in expected):
        raise ValueError(f"{spec.name}: the reference takes longer than {patience} s for a case")
    return Task(spec, cases, expected)


def judge(
    task: Task,
    answer: Callable[..., Any],
    *,
    time_limit: float | None = None,
    may_call_reference: bool = False,
) -> Verdict:
    """Run the answer on every case (none after one that took too long) and judge it."""
    got = []
    with nullcontext() if may_call_reference else forbid(task.spec.reference):
        for case in task.cases:
            got.append(observe(task.spec, answer, case, time_limit))
            if got[-1].timed_out:
                break
    return _verdict(task, got, time_limit)


def _verdict(task: Task, got: list[Observation], time_limit: float | None) -> Verdict:
    failures = [
        Failure(case, found, expected, seen)
        for case, expected, seen in zip(task.cases, task.expected, got, strict=False)
        if (found := differences(task.spec, expected, seen))
    ]
    noisiest = max(got, key=lambda seen: seen.printed_characters)
    printed = (noisiest.printed, noisiest.printed_characters)
    if not failures:
        return Verdict(True, len(got), 0, None, None, *printed)
    smallest = min(failures, key=lambda failure: (failure.values_right, size(failure.case)))
    mistake = _mistake(task, got, time_limit)
    return Verdict(False, len(got), len(failures), smallest, mistake, *printed)


def differences(spec: ExerciseSpec, expected: Observation, got: Observation) -> tuple[str, ...]:
    """Everything in which a run is not as it should be, in words."""
    if first := _ended_otherwise(expected, got):
        return (first,)
    tolerance = Tolerance(spec.rtol, spec.atol)
    found = [] if expected.raised else [_difference(expected.value, got.value, tolerance)]
    if changed := [name for name in got.changed if name not in expected.changed]:
        found.append(
            f"it changes its argument {' and '.join(changed)} in place: "
            "work on a copy, or use operations that return a new value"
        )
    if not any(found):
        found += [_too_much_work(spec, expected, got), _other_gradients(expected, got, tolerance)]
    return tuple(filter(None, found))


def _difference(expected: Any, got: Any, tolerance: Tolerance) -> str:
    """As `difference`, and in words for results that cannot even be compared (a sparse tensor)."""
    try:
        return difference(expected, got, tolerance)
    except Exception as error:
        return f"{words.kind(got)} came back that cannot be compared ({type(error).__name__})"


def _ended_otherwise(expected: Observation, got: Observation) -> str:
    """A run that took too long, or raised where the other did not."""
    if got.timed_out:
        return "it did not finish in time: is there a loop that never ends?"
    if got.raised and not expected.raised:
        at = f" ({got.line})" if got.line else ""
        return f"it raised {got.raised}{at}: {_explained(got)}"
    if expected.raised and not got.raised:
        why = f" ({expected.message})" if expected.message else ""
        return f"it returned {words.value(got.value)}, expected {expected.raised}{why}"
    if expected.raised and expected.raised not in got.raised_types:
        return f"it raised {got.raised}, expected {expected.raised}: {_explained(got)}"
    return ""


def _explained(got: Observation) -> str:
    if got.raised == "SystemExit":
        return "an answer must return, not end the program"
    if got.raised == "RecursionError":
        return "it calls itself without end"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", got.message) or "no message"


def _too_much_work(spec: ExerciseSpec, expected: Observation, got: Observation) -> str:
    if not spec.work or expected.work is None or got.work is None:
        return ""
    if got.work <= expected.work * spec.work_slack:
        return ""
    enough = f"{expected.work} {'suffices' if expected.work == 1 else 'suffice'}"
    return f"{_VALUES_RIGHT}with too much work: {got.work} {spec.work}, {enough}"


def _other_gradients(expected: Observation, got: Observation, tolerance: Tolerance) -> str:
    if got.gradient_error and not expected.gradient_error:
        return f"{_VALUES_RIGHT}but the gradient cannot be computed: {got.gradient_error}"
    for name, gradient in expected.gradients.items():
        found = got.gradients.get(name)
        if gradient is not None and found is None and bool((gradient != 0).any()):
            lost = "is it lost in detach(), item(), no_grad() or a rounding?"
            return f"{_VALUES_RIGHT}but no gradient reaches {name}: {lost}"
        if gradient is None or found is None:
            gradient = found * 0 if gradient is None and found is not None else gradient
            found = gradient * 0 if found is None and gradient is not None else found
        if gradient is not None and (other := difference(gradient, found, tolerance)):
            return f"{_VALUES_RIGHT}but not the gradient of {name}: {other}"
    return ""


def _mistake(task: Task, got: list[Observation], limit: float | None) -> WrongAnswer | None:
    """The wrong answer that behaves like the answer on every case that ran."""
    closeness = [
        (max(_closeness(task, form, got, limit) for form in wrong.forms), wrong)
        for wrong in task.spec.wrong_answers
    ]
    alike = [wrong for close, wrong in closeness if close == _ALIKE]
    similar = [wrong for close, wrong in closeness if close == _SIMILAR]
    return alike[0] if alike else similar[0] if len(similar) == 1 else None


def _closeness(
    task: Task, wrong: Callable[..., Any], got: list[Observation], limit: float | None
) -> int:
    """How like a wrong answer the runs are on all cases: in all, in all but the work, or not."""
    closeness = _ALIKE
    for case, answer in enumerate(got):
        seen, expected = task.run(wrong, case, limit), task.expected[case]
        closeness = min(closeness, _closeness_of_runs(task.spec, expected, seen, answer))
        if closeness == _DIFFERENT:
            break
    return closeness


def _closeness_of_runs(
    spec: ExerciseSpec, expected: Observation, seen: Observation, answer: Observation
) -> int:
    """The same on one case; `expected` tells whether both do too much work."""
    if seen.timed_out or answer.timed_out:
        return _ALIKE if seen.timed_out == answer.timed_out else _DIFFERENT
    if (seen.raised, seen.changed) != (answer.raised, answer.changed):
        return _DIFFERENT
    if not expected.raised and _wording(seen.message) != _wording(answer.message):
        return _DIFFERENT
    if differences(replace(spec, work=""), seen, answer):
        return _DIFFERENT
    if not spec.work or seen.work == answer.work:
        return _ALIKE
    too_much = [bool(_too_much_work(spec, expected, run)) for run in (seen, answer)]
    return _SIMILAR if too_much[0] == too_much[1] else _DIFFERENT


def _wording(message: str) -> str:
    """An exception's message without sizes and addresses, which say nothing about the mistake."""
    return re.sub(r"0x[0-9a-fA-F]+|\d+", "0", message)


def size(case: Case) -> int:
    """How much there is to look at in an input: its number of elements."""
    args, kwargs = case.build()
    return _elements((args, tuple(kwargs.values())))


def _elements(value: Any) -> int:
    if words.is_tensor(value) or words.is_array(value):
        return int(value.numel() if words.is_tensor(value) else value.size)
    if isinstance(value, str | bytes):
        return max(1, len(value))
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return sum(map(_elements, value))
    return 1
