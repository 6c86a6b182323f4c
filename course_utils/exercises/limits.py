"""A time limit for code that may never return, inside the process that asked for it.

On systems with interval timers (Linux, macOS) a signal raises `TimeUp` in the main thread, again
and again. An endless loop around `try: ... except: pass` would catch each of them, so the signal
also makes the next traced line raise: that line is the handler's own, outside its `try`, and the
loop ends. Elsewhere (Windows, other threads) a watchdog thread asks the interpreter to raise, at
ever shorter intervals, until one falls outside the `try`. Neither can interrupt one long call in
compiled code, such as a huge matrix product: there the limit acts when the call returns. Only a
process of its own can be killed at once, which is what grading does.
"""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_INTERVAL = 0.05  # seconds between two attempts to end a call


class TimeUp(BaseException):
    """Raised inside code that ran longer than it may. No `except Exception` catches it."""


def call_with_limit(call: Callable[[], Any], seconds: float) -> Any:
    """The value of `call()`, or TimeUp after `seconds`."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and hasattr(signal, "setitimer"):
        return _call_with_timer(call, seconds)
    return _call_with_watchdog(call, seconds)


def _call_with_timer(call: Callable[[], Any], seconds: float) -> Any:
    def on_alarm(signum: int, frame: FrameType | None) -> None:
        if _is_inside_call(frame):
            _raise_at_next_line(frame)
            raise TimeUp

    old_trace = sys.gettrace()
    old_handler = signal.signal(signal.SIGALRM, on_alarm)
    old_timer = signal.setitimer(signal.ITIMER_REAL, seconds, _INTERVAL)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.settrace(old_trace)
        signal.signal(signal.SIGALRM, old_handler or signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, *old_timer)


def _is_inside_call(frame: FrameType | None) -> bool:
    """False in this file's own frames, which must put everything back undisturbed."""
    return frame is not None and frame.f_code.co_filename != __file__


def _raise_at_next_line(frame: FrameType | None) -> None:
    def trace(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("line", "call") and _is_inside_call(frame):
            raise TimeUp

    sys.settrace(trace)
    while _is_inside_call(frame):
        frame.f_trace = trace
        frame = frame.f_back


def _call_with_watchdog(call: Callable[[], Any], seconds: float) -> Any:
    thread_id = ctypes.c_ulong(threading.get_ident())
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    finished, lock = threading.Event(), threading.Lock()

    def watch() -> None:
        wait, interval = seconds, _INTERVAL
        while not finished.wait(wait):
            with lock:
                if not finished.is_set():
                    set_exception(thread_id, ctypes.py_object(TimeUp))
            wait, interval = interval, max(interval / 2, 1e-4)

    def stop() -> None:
        with lock:
            finished.set()
            set_exception(thread_id, None)  # forget a request that has not been served yet

    threading.Thread(target=watch, daemon=True).start()
    try:
        return call()
    finally:
        while not finished.is_set():
            try:
                stop()
            except TimeUp:
                continue
