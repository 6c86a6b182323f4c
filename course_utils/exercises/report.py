"""What `check` says: not attempted, right, or the smallest failing input and the likely mistake."""

import inspect
import itertools

from course_utils.exercises import words
from course_utils.exercises.judge import Failure, Verdict
from course_utils.exercises.panel import Block, Code, Labelled, Panel
from course_utils.exercises.spec import Case, ExerciseSpec


def not_attempted(spec: ExerciseSpec) -> Panel:
    """The stub is still a stub."""
    said = f"{spec.name}: not attempted. The course's version is used below."
    return Panel(said, (f"Why it matters: {spec.why}", *_help(spec)), "quiet")


def passing(spec: ExerciseSpec, verdict: Verdict, called: str) -> Panel:
    """The answer is right."""
    right = f"{spec.name}: {_right(verdict)}. Your {called} is used from here on."
    return Panel(right, _printed(verdict), "good")


def failing(spec: ExerciseSpec, verdict: Verdict, called: str, use_mine: bool) -> Panel:
    """The answer is wrong: what was seen, the likely mistake, and which version is used."""
    if use_mine:
        version = f"YOUR {called} is used from here on, although it is not right"
        closing: tuple[Block, ...] = (f"To return to the course's version: check({called})",)
    else:
        version = "THE COURSE'S VERSION is used below, not yours"
        closing = (
            "To go on with your own all the same:",
            Code(f"check({called}, use_mine=True)"),
        )
    said = f"{spec.name}: not right yet. {version}."
    blocks = (*evidence(spec, verdict), *_printed(verdict), *closing, *_help(spec))
    return Panel(said, blocks, "bad")


def evidence(spec: ExerciseSpec, verdict: Verdict) -> tuple[Block, ...]:
    """The smallest failing input, what differs, and the mistake that the answer behaves like."""
    failure = verdict.smallest
    if failure is None:
        return ()
    inputs = words.count(verdict.cases, "input")
    tried = f"It differs on {verdict.failed} of {inputs} tried. The smallest of them:"
    blocks: list[Block] = [tried, *_input(spec, failure.case), *_both(failure)]
    shown = {f"expected {b.text}, got {a.text}" for b, a in itertools.pairwise(_both(failure))}
    blocks += [Labelled("seen", text) for text in failure.differences if text not in shown]
    if failure.got.timed_out:
        blocks.append(
            "The limit cannot interrupt one long call in compiled code; "
            "it acts when that call returns. No further input was tried."
        )
    if verdict.mistake:
        blocks.append(Labelled(f"likely mistake ({verdict.mistake.name})", _diagnosis(verdict)))
    return tuple(blocks)


def message(spec: ExerciseSpec, verdict: Verdict) -> str:
    """The same evidence in one line, for tables."""
    failure = verdict.smallest
    if failure is None:
        return _right(verdict)
    given = ", ".join(f"{block.label} = {block.text}" for block in _input(spec, failure.case))
    return f"for {given}: {'; '.join(failure.differences)}"


def _right(verdict: Verdict) -> str:
    inputs = words.count(verdict.cases, "input")
    return f"right on {'its' if verdict.cases == 1 else 'all'} {inputs}"


def _diagnosis(verdict: Verdict) -> str:
    return " ".join(verdict.mistake.diagnosis.split()) if verdict.mistake else ""


def _input(spec: ExerciseSpec, case: Case) -> list[Labelled]:
    args, kwargs = case.build()
    named = inspect.signature(spec.reference).bind(*args, **kwargs).arguments
    shown = [Labelled(name, words.value(value)) for name, value in named.items()]
    return [Labelled("input", case.says), *shown] if case.says else shown


def _both(failure: Failure) -> list[Labelled]:
    """Expected and got, where both are values."""
    expected, got = failure.expected, failure.got
    if expected.raised or got.raised or got.timed_out:
        return []
    values = words.value(expected.value), words.value(got.value)
    return [Labelled("expected", values[0]), Labelled("got", values[1])]


def _printed(verdict: Verdict) -> tuple[Block, ...]:
    if not verdict.printed_characters:
        return ()
    start = verdict.printed.strip()[:120]
    more = "..." if verdict.printed_characters > len(start) + 1 else ""
    characters = words.count(verdict.printed_characters, "character")
    return (f"It printed {characters}: {start}{more}",)


def _help(spec: ExerciseSpec) -> tuple[Block, ...]:
    return ("For help, type in a new cell:", Code(f'hint("{spec.name}")\nsolution("{spec.name}")'))
