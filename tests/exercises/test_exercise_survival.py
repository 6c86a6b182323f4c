"""Whatever an answer does, `check` survives, says so, and leaves the session as it was."""

import builtins
import copy
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable

import exercise_samples
import pytest
from exercise_samples import double, make_spec, tensor_spec

from course_utils.exercises import Exercise, check
from course_utils.exercises.limits import TimeUp, call_with_limit


def seen(answer: Exercise) -> str:
    """What `check` found on the smallest failing input."""
    verdict = answer.check()
    assert verdict is not None and not verdict.passed
    return "; ".join(verdict.smallest.differences)


def loop(x):
    while True:
        pass


def loop_that_catches_everything(x):
    while True:
        try:
            x += 1
        except:  # noqa: E722
            pass


def sleep_that_catches_everything(x):
    while True:
        try:
            time.sleep(10)
        except BaseException:
            pass


def loop_that_continues_in_finally(x):
    while True:
        try:
            time.sleep(10)
        finally:
            continue  # noqa: B012


def long_sleep(x):
    time.sleep(30)


@pytest.mark.parametrize(
    "function",
    [
        loop,
        loop_that_catches_everything,
        sleep_that_catches_everything,
        loop_that_continues_in_finally,
        long_sleep,
    ],
)
def test_an_endless_answer_is_ended(attempt: Callable, function: Callable) -> None:
    started = time.monotonic()
    answer = attempt(function)
    verdict = answer.check()
    assert "did not finish in time" in verdict.smallest.differences[0]
    assert verdict.cases == 1, "no further case may be tried"
    assert time.monotonic() - started < 5
    assert not answer.uses_learners, "or the next line would never end"
    assert answer(4) == 8, "the course's version is used"
    assert sys.gettrace() is None or "TimeUp" not in repr(sys.gettrace())


@pytest.mark.parametrize("function", [loop, loop_that_catches_everything])
def test_the_watchdog_ends_a_loop_in_another_thread(function: Callable) -> None:
    outcome = []

    def work() -> None:
        try:
            call_with_limit(lambda: function(1), 0.2)
        except TimeUp:
            outcome.append("time up")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert outcome == ["time up"]


def test_the_watchdog_lets_a_quick_call_through() -> None:
    values = []
    target = lambda: values.append([call_with_limit(lambda: 7, 5) for _ in range(50)])  # noqa: E731
    thread = threading.Thread(target=target)
    thread.start()
    thread.join(20)
    assert values == [[7] * 50]


def test_an_outer_timer_is_put_back() -> None:
    import signal

    handler = lambda *_: None  # noqa: E731
    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 50)
        assert call_with_limit(lambda: 3, 1) == 3
        assert signal.getsignal(signal.SIGALRM) is handler
        assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def raises(x):
    return x / 0


def exits(x):
    sys.exit(0)


def calls_itself(x):
    return calls_itself(x)


def reads(x):
    return int(input("x? "))


def reads_stdin(x):
    return sys.stdin.readline()


def calls_reference(x):
    return double(x)


def calls_reference_by_module(x):
    return exercise_samples.double(x)


def calls_reference_quietly(x):
    try:
        return double(x)
    except Exception:
        return None


def contains_itself():
    items = []
    items.append(items)
    return items


class Unshowable:
    """An object that cannot be printed, measured or compared."""

    def fails(self, *args):
        raise RuntimeError("no")

    __repr__ = __eq__ = __len__ = __hash__ = fails


another_name = double


def calls_reference_renamed(x):
    return another_name(x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raises, "it raised ZeroDivisionError (line"),
        (raises, "return x / 0): division by zero"),
        (exits, "it raised SystemExit"),
        (exits, "must return, not end the program"),
        (calls_itself, "calls itself without end"),
        (reads, "input() cannot be answered"),
        (reads_stdin, "input() cannot be answered"),
        (calls_reference, "calls the course's own version of itself"),
        (calls_reference_by_module, "calls the course's own version of itself"),
        (calls_reference_renamed, "calls the course's own version of itself"),
        (calls_reference_quietly, "None came back"),
        (lambda x: None, "None came back, expected a whole number (2): did you forget `return`?"),
        (lambda x: str(x * 2), "a text ('2') came back, expected a whole number (2)"),
        (lambda x: float("nan"), "a float (NaN) came back"),
        (lambda x: x * 2.0, "the float 2.0 came back, expected the whole number 2"),
        (lambda: 2, "it raised TypeError"),
        (lambda x: contains_itself(), "a list of 1 came back"),
        (lambda x: Unshowable(), "an Unshowable came back"),
        (lambda x: double, "a function came back"),
        (lambda x: object(), "an object came back"),
    ],
)
def test_what_went_wrong_is_said(attempt: Callable, function: Callable, words: str) -> None:
    answer = attempt(function)
    assert words in seen(answer)
    assert answer(5) == 10, "the course's version is used, and works again"
    assert double(3) == 6


def test_an_address_in_a_message_is_left_out(attempt: Callable) -> None:
    def says_where(x):
        raise ValueError(f"no {object()} here")

    assert " at 0x" not in seen(attempt(says_where))


def test_the_users_interrupt_gets_through(attempt: Callable) -> None:
    def interrupted(x):
        raise KeyboardInterrupt

    answer = attempt(interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer.check()
    assert double(2) == 4 and answer(2) == 4 and answer.status == "not checked"


def test_megabytes_of_output_are_kept_short(
    attempt: Callable, capsys: pytest.CaptureFixture
) -> None:
    def noisy(x):
        print("look: " + "x" * 5_000_000)
        return x * 2

    answer = attempt(noisy)
    check(answer)
    shown = capsys.readouterr().out
    assert "It printed 5000007 characters: look:\nxxx" in shown and len(shown) < 1000
    assert answer.status == "passed"


@pytest.mark.filterwarnings("ignore:careful")
def test_warnings_and_progress_bars_are_not_shown(attempt: Callable) -> None:
    def warns(x):
        print("50%", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        return x * 2

    verdict = attempt(warns).check()
    assert verdict.passed and verdict.printed_characters == 0


def test_a_result_that_cannot_be_compared_is_said(attempt: Callable) -> None:
    import torch

    sparse = attempt(lambda x: (x * 2).to_sparse(), tensor_spec())
    assert "cannot be compared (TypeError)" in seen(sparse)
    meta = attempt(lambda x: torch.empty(x.shape, device="meta"), tensor_spec())
    assert "cannot be compared (NotImplementedError)" in seen(meta)


def test_a_copied_stand_in_is_the_same_one(attempt: Callable) -> None:
    answer = attempt(lambda x: x + x)
    assert copy.deepcopy([answer])[0] is answer


def test_an_argument_changed_in_place_is_reported(attempt: Callable) -> None:
    def in_place(x):
        x *= 2
        return x

    assert "changes its argument x in place" in seen(attempt(in_place, tensor_spec()))
    allowed = tensor_spec(may_change_arguments=True)
    assert attempt(in_place, allowed).check().passed


def test_lists_and_dicts_changed_in_place_are_reported(attempt: Callable) -> None:
    def pops(x):
        return x["a"].pop() * 2

    spec = make_spec(_last_of_a, cases=lambda rng: [exercise_samples.Case(({"a": [1, 3]},))])
    assert seen(attempt(pops, spec)).startswith("it changes its argument x in place")


def _last_of_a(x):
    return x["a"][-1] * 2


def test_random_states_and_torch_switches_are_put_back(attempt: Callable) -> None:
    import numpy as np
    import torch

    def disturbs(x):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        builtins.input = None
        return x * 2

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    old_input = builtins.input
    assert attempt(disturbs, tensor_spec()).check().passed
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert builtins.input is old_input


def test_a_random_answer_meets_the_same_random_numbers(attempt: Callable) -> None:
    answer = attempt(lambda x: random.random() + x, make_spec(_plus_random))
    assert answer.check().passed


def _plus_random(x):
    return x + random.random()


def test_a_recursive_answer_calls_itself_not_the_course(attempt: Callable) -> None:
    calls = []

    def doubled(x):
        calls.append(x)
        return 0 if x == 0 else answer(x - 1) + 2

    answer = attempt(doubled)
    assert answer.check().passed
    calls.clear()
    assert answer(3) == 6 and calls == [3, 2, 1, 0]
