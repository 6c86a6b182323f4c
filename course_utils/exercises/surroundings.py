"""What an answer may not disturb while it runs: output, input, random states, torch's switches.

`undisturbed()` captures what is printed (the first characters only; warnings and progress bars not
at all), makes `input()` raise instead of waiting, starts the random states of Python, numpy and
torch from the same seed, and puts all of it back. `forbid(reference)` makes the library's own
function raise, under whatever name it was imported. Left out: files, the environment and other
modules, which an honest answer leaves alone.
"""

import builtins
import contextlib
import inspect
import io
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_KEPT_CHARACTERS = 300


class CallsReferenceError(RuntimeError):
    """An answer called the library's version of itself."""


class Printed(io.TextIOBase):
    """A text file that keeps the beginning of what is written and counts the rest."""

    def __init__(self) -> None:
        self.start, self.total = "", 0

    def write(self, text: str) -> int:
        if len(self.start) < _KEPT_CHARACTERS:
            self.start += text[: _KEPT_CHARACTERS - len(self.start)]
        self.total += len(text)
        return len(text)

    def writable(self) -> bool:
        return True


class _NoInput(io.TextIOBase):
    """Standard input that answers at once: there is nothing to read."""

    def readline(self, size: int | None = -1, /) -> str:
        _refuse_input()

    def read(self, size: int | None = -1, /) -> str:
        _refuse_input()


def _refuse_input(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("input() cannot be answered during a check: use the function's arguments")


@contextlib.contextmanager
def undisturbed(seed: int = 0) -> Iterator[Printed]:
    """Run foreign code so that nothing of it is left behind; yields what it printed."""
    printed, old_input, old_stdin = Printed(), builtins.input, sys.stdin
    restore = _states()
    builtins.input, sys.stdin = _refuse_input, _NoInput()
    try:
        _seed(seed)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(Printed()):
            with _without_display():
                yield printed
    finally:
        builtins.input, sys.stdin = old_input, old_stdin
        for put_back, value in restore:
            put_back(value)


def _without_display() -> contextlib.AbstractContextManager[Any]:
    """In a notebook, catch what the code displays; it would be shown once for each input."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        return contextlib.nullcontext()
    from IPython.utils.capture import capture_output

    return capture_output(stdout=False, stderr=False, display=True)


def _states() -> list[tuple[Callable[[Any], Any], Any]]:
    """Pairs of a function and the value to call it with afterwards; only of loaded libraries."""
    states: list[tuple[Callable[[Any], Any], Any]] = [(random.setstate, random.getstate())]
    if numpy := sys.modules.get("numpy"):
        states.append((numpy.random.set_state, numpy.random.get_state()))
    if torch := sys.modules.get("torch"):
        states.append((torch.set_rng_state, torch.get_rng_state()))
        if torch.cuda.is_initialized():
            states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
        states.append((torch.set_grad_enabled, torch.is_grad_enabled()))
        states.append((torch.set_default_dtype, torch.get_default_dtype()))
    return states


def _seed(seed: int) -> None:
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        # not torch.manual_seed: it also writes down the stack, for devices that are not in use yet
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        torch.set_grad_enabled(True)


def _own_version(*_: object, **__: object) -> NoReturn:
    from course_utils.exercises.surroundings import CallsReferenceError

    raise CallsReferenceError(
        "this answer calls the course's own version of itself: write the computation instead"
    )


@contextlib.contextmanager
def forbid(reference: Callable[..., Any]) -> Iterator[None]:
    """While this lasts, the reference raises CallsReferenceError, however it was imported."""
    function: Any = inspect.unwrap(reference)
    code = function.__code__
    function.__signature__ = inspect.signature(function)  # the arguments keep their names
    function.__code__ = _own_version.__code__
    try:
        yield
    finally:
        function.__code__ = code
        del function.__signature__
