"""What every forward pass computed and for whom: the counts and the timeline of chapter 16.

A `Log` gets one list of `Work` for each pass, from whichever way of serving is watched. It counts
tokens by kind, tells when a request got its tokens, and who was where in which passes. `watch`
fills a log from a running engine, `dry_run` from the scheduler alone: the same policy without a
model, since who computes how much depends on lengths and keys, not on what the tokens are. (One
difference: the ids that a dry run makes up are nobody else's, so only prompts are found again.)

Left out: speculative drafts in a dry run, because what is accepted depends on the model.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from course_utils.scheduling import (
    Plan,
    Request,
    Scheduler,
    SchedulerConfig,
    block_keys,
    share_budget,
)
from course_utils.serving.engine import Engine


@dataclass(frozen=True)
class Work:
    """What one pass did for one request; `kind` is prefill, decode, padding or preempted."""

    request: int
    kind: str
    tokens: int
    chooses: bool = False  # whether the pass gave it a token


@dataclass
class Log:
    """Passes in order: the work of each, and its end in seconds since the log was made."""

    passes: list[list[Work]] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    arrivals: dict[int, int] = field(default_factory=dict)  # pass of arrival, 0 if not named
    began: float = field(default_factory=time.perf_counter)

    def add(self, work: Sequence[Work]) -> None:
        """One more pass has ended."""
        self.passes.append(list(work))
        self.ends.append(time.perf_counter() - self.began)

    def tokens(self, *kinds: str) -> int:
        """Tokens computed, of these kinds or in all."""
        return sum(w.tokens for work in self.passes for w in work if not kinds or w.kind in kinds)

    def sizes(self) -> list[int]:
        """Tokens of every pass."""
        return [sum(one.tokens for one in work) for work in self.passes]

    def chosen(self, request: int) -> list[int]:
        """The passes, from 0, that gave a request its tokens."""
        return [
            number
            for number, work in enumerate(self.passes)
            if any(one.request == request and one.chooses for one in work)
        ]

    def seconds_to_first(self) -> list[float]:
        """Seconds from the beginning to every request's first token, in the requests' order."""
        requests = sorted({one.request for work in self.passes for one in work})
        return [self.ends[self.chosen(request)[0]] for request in requests]

    def gaps(self, request: int) -> list[int]:
        """Tokens that were computed, for anybody, between one token of a request and its next."""
        passes, sizes = self.chosen(request), self.sizes()
        return [sum(sizes[a + 1 : b + 1]) for a, b in pairwise(passes)]

    def stays(self) -> list[tuple[int, int, int, str]]:
        """(request, first pass, pass after the last, kind): all requests from arrival to end.

        Beside the kinds of work there is "waiting"; "preempted" lasts until the next work.
        """
        by_pass = [{one.request: one for one in work} for work in self.passes]
        stays: list[tuple[int, int, int, str]] = []
        for request in sorted({one for work in by_pass for one in work}):
            last = max(n for n, work in enumerate(by_pass) if request in work)
            kind = "waiting"
            for n in range(self.arrivals.get(request, 0), last + 1):
                found = by_pass[n].get(request)
                kind = found.kind if found else "preempted" if kind == "preempted" else "waiting"
                if stays and stays[-1][0] == request and stays[-1][3] == kind:
                    stays[-1] = (request, stays[-1][1], n + 1, kind)
                else:
                    stays.append((request, n, n + 1, kind))
        return stays


def work_of(plan: Plan, prompts: Mapping[int, int]) -> list[Work]:
    """The work of a plan, given the length of every request's prompt, before the plan is done."""
    work = [Work(request.id, "preempted", 0) for request in plan.preempted]
    for chunk in plan.chunks:
        request = chunk.request
        generates = request.known > prompts[request.id] and chunk.start == request.known - 1
        kind = "decode" if generates else "prefill"
        work.append(Work(request.id, kind, chunk.count, chunk.last))
    return work


def watch(engine: Engine) -> Log:
    """A log that is filled by the engine's further steps; the requests are those added by then."""
    log, scheduler, step = Log(), engine.scheduler, engine.step
    prompts = {made.request.id: made.prompt_length for made in engine.live.values()}
    plans: list[list[Work]] = []

    def plan() -> Plan:
        made = type(scheduler).plan(scheduler)
        plans.append(work_of(made, prompts))
        return made

    def watched() -> list:
        updates = step()
        log.add(plans.pop())
        return updates

    scheduler.plan, engine.step = plan, watched
    return log


def dry_run(
    config: SchedulerConfig,
    prompts: Sequence[Sequence[int]],
    new_tokens: Sequence[int],
    arrivals: Sequence[int] | None = None,
    share: Callable = share_budget,
    keys: Callable = block_keys,
) -> tuple[Log, Scheduler]:
    """The steps that the scheduler would have the engine take, without a model.

    Request i has prompt i, gets new_tokens[i] tokens (their ids are made up), and comes before pass
    arrivals[i] (default: all before the first). Raises ValueError for a request that never fits.
    """
    scheduler, log = Scheduler(config, share), Log()
    arrivals = list(arrivals or [0] * len(prompts))
    texts = [list(prompt) for prompt in prompts]
    lengths = {number: len(text) for number, text in enumerate(texts)}
    log.arrivals = dict(enumerate(arrivals))
    coming = sorted(range(len(texts)), key=lambda number: arrivals[number])
    while coming or scheduler.running or scheduler.waiting:
        while coming and arrivals[coming[0]] <= len(log.passes):
            n = coming.pop(0)
            known = keys(texts[n], config.block_size)
            scheduler.add(Request(n, lengths[n], lengths[n] + new_tokens[n], known))
        plan = scheduler.plan()
        log.add(work_of(plan, lengths))
        scheduler.done(plan)
        for chunk in plan.chunks:
            if chunk.last:
                _choose(scheduler, chunk.request, texts[chunk.request.id], keys)
    return log, scheduler


def _choose(scheduler: Scheduler, request: Request, text: list[int], keys: Callable) -> None:
    """Give a request a token that no other request has."""
    text.append(-1 - request.id)
    scheduler.grow(request)
    request.keys = keys(text, scheduler.config.block_size, request.keys)
    if request.known == request.limit:
        scheduler.finish(request)


def padded_work(
    group: Sequence[int], step: int, prompts: Sequence[Sequence[int]], new_tokens: Sequence[int]
) -> list[Work]:
    """The work of a pass of a static batch: `group` are its requests, prompts padded to one width.

    Pass 0 reads the prompts, every further one gives each row a token, also if it needs none.
    """
    if step:
        live = {number: step < new_tokens[number] for number in group}
        return [Work(n, "decode" if ok else "padding", 1, ok) for n, ok in live.items()]
    width = max(len(prompts[number]) for number in group)
    padding = [Work(number, "padding", width - len(prompts[number])) for number in group]
    return padding + [Work(n, "prefill", len(prompts[n]), chooses=True) for n in group]
