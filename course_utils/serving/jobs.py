"""What asyncio and the engine's thread hand to each other.

A job is what one HTTP request asks: one prompt or several, answered side by side. Its events are
`True` once it is admitted, then pieces; or instead a refusal, or an exception.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from course_utils.serving.backends import Made
from course_utils.serving.params import SamplingParams


class StoppingError(RuntimeError):
    """The server stops, and the job was not answered."""


@dataclass(frozen=True)
class Ask:
    """A prompt and how to go on from it."""

    prompt: list[int]
    params: SamplingParams


@dataclass(frozen=True)
class Piece:
    """What a step gave to one ask of a job."""

    index: int  # which ask
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[dict[int, float], ...]  # one entry for each id, if asked for
    finish_reason: str | None
    cached_tokens: int  # of the prompt
    moment: float  # time.monotonic() when it was chosen


@dataclass(eq=False)
class Job:
    """Asks that come and go together."""

    asks: Sequence[Ask]
    admitted: bool = False  # goes on with an answer that was admitted before
    arrival: float = field(default_factory=time.monotonic)
    events: asyncio.Queue = field(default_factory=asyncio.Queue)
    made: list[Made] = field(default_factory=list)
    cancelled: bool = False


@dataclass(frozen=True)
class State:
    """The engine between two steps, as others may read it at any time."""

    running: int
    waiting: int
    used: int  # blocks
    cached: int
    free: int
    slots: int
