"""Whether a server takes a request on: by the length of the queue, and by what it would wait.

A server that takes everything answers nobody in time: beyond its capacity the queue grows without
end, and every answer comes after its reader has left. So it says no early, with 429 and the seconds
after which to try again (`Retry-After`).

The time to first token is predicted from what is ahead of the request and from measured steps:

    steps to a slot      if all slots are taken: as many as the shortest answers still may take
    tokens to read       prompts that wait or are being read, and the request's own, less what the
                         prefix cache holds of it
    steps to read them   each has room for the budget, less one token for each running request
    seconds of a step    base + per_token * tokens, fitted to the steps so far (`StepTimes`)

Answers are counted at their limit; most end before, so the wait for a slot is rather too long.
Left out: the growth of attention with the context, preemption, fairness between clients.

Source: Mooncake (Qin et al. 2024, arXiv 2407.00079v1), section 7, early rejection by prediction;
RFC 9110, section 10.2.3 (Retry-After).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from course_utils.scheduling import Scheduler, block_keys


class StepTimes:
    """Least squares of seconds over tokens of a step; a step weighs `decay` times its follower."""

    def __init__(self, decay: float = 0.98):
        self.decay = decay
        self._sums = [0.0] * 5  # of 1, x, y, x x, x y

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        new = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        self._sums = [self.decay * old + one for old, one in zip(self._sums, new, strict=True)]

    def fit(self) -> tuple[float, float]:
        """(base, per_token) in seconds, neither below 0; both 0 before the first step."""
        count, x, y, xx, xy = self._sums
        if not count:
            return 0.0, 0.0
        spread = count * xx - x * x
        if spread <= 1e-9 * count * xx:  # all steps alike: a share for each token
            return 0.0, y / x
        per_token = (count * xy - x * y) / spread
        base = (y - per_token * x) / count
        if per_token < 0:
            return y / count, 0.0
        return (0.0, xy / xx) if base < 0 else (base, per_token)


@dataclass(frozen=True)
class Load:
    """What is ahead of a new request. Tokens and requests; no seconds."""

    budget: int  # tokens of a step
    unread: int = 0  # prompt tokens of running and waiting requests that are not computed yet
    running: tuple[int, ...] = ()  # for each running request: tokens it may still write
    waiting: int = 0  # requests in the queue
    free: int = 0  # slots that nobody runs in


def load_of(scheduler: Scheduler) -> Load:
    """What a scheduler has to do."""
    config, running = scheduler.config, scheduler.running
    inside = [*running, *scheduler.waiting]
    return Load(
        config.max_tokens,
        sum(max(0, request.left - 1) for request in inside),
        tuple(request.limit - request.known for request in running),
        len(scheduler.waiting),
        config.max_requests - len(running),
    )


def predicted_ttft(prompt: int, cached: int, load: Load, base: float, per_token: float) -> float:
    """Seconds to the first token of a prompt, of which the first `cached` tokens need no work."""
    turns = load.waiting + 1 - load.free  # how many must end before this one has a slot
    ends, decoding = sorted(load.running), len(load.running)
    wait = 0
    if turns > 0 and ends:
        rounds, place = divmod(turns - 1, len(ends))
        wait = rounds * ends[-1] + ends[place]
    tokens = load.unread + prompt - cached
    steps = math.ceil(tokens / max(1, load.budget - decoding))
    seconds_to_slot = wait * (base + per_token * decoding)
    return seconds_to_slot + steps * (base + per_token * decoding) + tokens * per_token


@dataclass(frozen=True)
class Refusal:
    """Why a request is not taken on, and after how many seconds it may be tried again."""

    message: str
    retry_after: int


class Admission:
    """Limits on the queue and on the predicted time to first token (seconds; None: no limit).

    `predict` has the arguments of `predicted_ttft`. Whoever comes while nobody is inside is let in:
    otherwise an estimate that is too long would refuse everybody, and no step could mend it.
    """

    def __init__(
        self,
        max_queue: int = 64,
        max_ttft: float | None = None,
        predict: Callable[..., float] = predicted_ttft,
    ):
        self.max_queue, self.max_ttft, self.predict = max_queue, max_ttft, predict
        self.times = StepTimes()

    def refuse(self, scheduler: Scheduler, prompts: Sequence[list[int]]) -> Refusal | None:
        """None if the prompts, which come together, may wait."""
        load = load_of(scheduler)
        if not load.running and not load.waiting:
            return None
        base, per_token = self.times.fit()
        size = scheduler.config.block_size
        keys = block_keys(prompts[0], size)[: (len(prompts[0]) - 1) // size]
        cached = len(scheduler.pool.find(keys)) * size
        total = sum(map(len, prompts))
        seconds = self.predict(total, cached, load, base, per_token)
        if load.waiting + len(prompts) - load.free > self.max_queue:
            waiting = max(0, load.waiting - load.free)
            reason = f"the queue is full ({waiting} wait, {self.max_queue} may)"
        elif self.max_ttft is not None and seconds > self.max_ttft:
            reason = (
                f"the first token would come after {seconds:.1f} s, and {self.max_ttft:g} s is the "
                "limit"
            )
        else:
            return None
        over = seconds - (self.max_ttft or 0.0)
        return Refusal(f"The server is busy: {reason}. Try again later.", max(1, math.ceil(over)))
