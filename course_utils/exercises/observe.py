"""What one run of a function shows: its value, exception, side effects, work and gradients.

A run never gets out of hand: time limit, captured output, no input, restored random states. The
same observation is made of the reference, of the answer and of every wrong answer, so that the
three can be compared. Gradients come from a second run, since leaves that require gradients cannot
be changed in place and a run that does so should be told about that instead.
"""

import inspect
import linecache
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from course_utils.exercises import words
from course_utils.exercises.compare import Tolerance, difference
from course_utils.exercises.limits import TimeUp, call_with_limit
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.surroundings import undisturbed

EXTRACTED = "<answer"  # how the file names of answers taken out of a notebook begin


@dataclass
class Observation:
    """One run on one case. `raised` is the name of the exception's type, or empty."""

    value: Any = None
    raised: str = ""
    raised_types: tuple[str, ...] = ()  # the type and its bases
    message: str = ""
    line: str = ""  # the line of the function that raised
    timed_out: bool = False
    changed: tuple[str, ...] = ()  # arguments that are not what they were
    work: int | None = None
    gradients: dict[str, Any] = field(default_factory=dict)
    gradient_error: str = ""
    printed: str = ""
    printed_characters: int = 0


def observe(
    spec: ExerciseSpec, function: Callable[..., Any], case: Case, seconds: float | None = None
) -> Observation:
    """Run `function` on fresh arguments of `case`, surviving whatever it does."""
    seen, seconds = Observation(), seconds or spec.time_limit
    args, kwargs = case.build()
    untouched = _named(spec, *case.build())
    worked_before = _work(args, kwargs)
    with undisturbed() as printed:
        result = _run(seen, function, lambda: function(*args, **kwargs), seconds)
        if not seen.raised and not seen.timed_out:
            seen.value = _observed(spec, result, args)
    seen.printed, seen.printed_characters = printed.start, printed.total
    if worked_before is not None:
        seen.work = _work(args, kwargs) - worked_before
    if not spec.may_change_arguments:
        now = _named(spec, args, kwargs)
        seen.changed = tuple(name for name in now if _differs(untouched[name], now[name]))
    if spec.gradients and not seen.raised and not seen.timed_out:
        _add_gradients(seen, spec, function, case, seconds)
    return seen


def _run(seen: Observation, function: Any, call: Callable[[], Any], seconds: float) -> Any:
    """The result of the call; what went wrong is written into `seen`."""
    try:
        return call_with_limit(call, seconds)
    except TimeUp:
        seen.timed_out = True
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        seen.raised = type(error).__name__
        seen.raised_types = tuple(kind.__name__ for kind in type(error).__mro__)
        seen.message = str(error).strip().split("\n")[0][:200]
        seen.line = _line(function, error)
    return None


def _line(function: Any, error: BaseException) -> str:
    """The number and text of the line of the answer's own file where the exception passed last."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    if not own:
        return ""
    text = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    if own[-1].filename.startswith(EXTRACTED):
        return text  # the line has another number in the learner's notebook
    return f"line {own[-1].lineno}: {text}" if text else f"line {own[-1].lineno}"


def _observed(spec: ExerciseSpec, result: Any, args: tuple) -> Any:
    if spec.observe is None:
        return result
    try:
        return spec.observe(result, args)
    except Exception:
        return result  # of the wrong type: comparing it says so


def _named(spec: ExerciseSpec, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by the names that the reference gives them."""
    try:
        bound = inspect.signature(spec.reference).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{spec.name}: a case does not fit the reference: {error}") from None
    return dict(bound.arguments)


def _differs(before: Any, after: Any) -> bool:
    """True when a container or tensor is not what it was; other objects may change."""
    if words.is_tensor(before) or words.is_array(before):
        return bool(difference(before, after, Tolerance(0, 0)))
    if isinstance(before, dict):
        pairs = [(before[key], after.get(key)) for key in before]
        return before.keys() != after.keys() or any(_differs(*pair) for pair in pairs)
    if isinstance(before, list | tuple):
        pairs = zip(before, after, strict=False)
        return len(before) != len(after) or any(_differs(*pair) for pair in pairs)
    plain = isinstance(before, int | float | str | bytes | set | bytearray | None)
    return plain and type(before) is type(after) and before != after and before == before


def _work(args: tuple, kwargs: dict[str, Any]) -> int | None:
    """The work counted by the arguments so far; None when none of them counts."""
    counts = [getattr(value, "work", None) for value in (*args, *kwargs.values())]
    counts = [count for count in counts if isinstance(count, int)]
    return sum(counts) if counts else None


def _add_gradients(
    seen: Observation, spec: ExerciseSpec, function: FunctionType, case: Case, seconds: float
) -> None:
    args, kwargs = case.build()
    leaves = dict(_floating(_named(spec, args, kwargs)))
    for leaf in leaves.values():
        leaf.requires_grad_(True)

    def call() -> None:
        result = function(*args, **kwargs)
        total = _projection(_observed(spec, result, args))
        if total is not None and total.requires_grad:
            total.backward()

    run = Observation()
    with undisturbed():
        _run(run, function, call, seconds)
    seen.timed_out = run.timed_out
    seen.gradient_error = f"{run.raised}: {run.message}" if run.raised else ""
    seen.gradients = {name: leaf.grad for name, leaf in leaves.items()}


def _floating(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The floating tensors inside a value, each with its name: x_TD, weights[0]."""
    if words.is_tensor(value):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _floating(part, f"{name}[{key}]" if name else str(key))
    elif isinstance(value, list | tuple):
        for position, part in enumerate(value):
            yield from _floating(part, f"{name}[{position}]")


def _projection(result: Any) -> Any:
    """A fixed random weighted sum of all floating outputs; None when there are none."""
    import torch

    generator, total = torch.Generator().manual_seed(0), None
    for _, output in _floating(result, "result"):
        weights = torch.randn(output.shape, generator=generator).to(output)
        part = (output * weights).sum()
        total = part if total is None else total + part
    return total
