"""A node: the engine's scheduler with a clock instead of a model.

A step is planned by the scheduler, lasts as long as the cost model says, and is reported as done.
Requests that arrive meanwhile wait for the next step. While a batch stays as it is, the steps are
all alike (`Scheduler.steady`); the node then takes them at once, as one event instead of hundreds,
and is cut short at the end of the step at work when a request arrives. The moments are added up in
the same order as one by one, so that the results are the same to the last bit.

A node does not know its role: one for prefill gets requests that end after one token, one for
decode gets requests whose prompt is computed (`Request.received`), a mixed one neither.

While steps are taken at once, the scheduler's counts stand as they were at their beginning. So
others look at `assigned`, `reserved`, `ready_at`, which change only when requests come and go.

Left out: the host's time between steps (part of the cost model's base), failures, several models.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from course_utils.scheduling import Plan, Request, Scheduler, SchedulerConfig
from course_utils.simulation.costs import Cost, steady_work, work_of
from course_utils.simulation.events import EventQueue


@dataclass(frozen=True)
class NodeConfig:
    """The scheduler's sizes, and how long its steps take."""

    scheduler: SchedulerConfig
    cost: Cost


@dataclass(frozen=True, slots=True)
class Interval:
    """Steps without a pause: from when to when (s), how many, on how many requests and tokens."""

    start: float
    end: float
    steps: int
    requests: int
    tokens: int  # of one step; more than `requests` if prompts are read


class Node:
    """Node `number` of a cluster. `finished(node, request)` is called when a request ends."""

    def __init__(
        self,
        number: int,
        config: NodeConfig,
        events: EventQueue,
        finished: Callable[["Node", Request], None],
        fast: bool = True,
    ):
        self.number, self.cost, self.events, self.fast = number, config.cost, events, fast
        self.scheduler = Scheduler(config.scheduler)
        self.step_ends = array("d")  # s, of every step so far
        self.intervals: list[Interval] = []
        self.spans: dict[int, list[list[int]]] = {}  # request id: steps that gave it a token
        self.begun: dict[int, float] = {}  # request id: when its first step here began (s)
        # What the cluster knows of its load, requests on their way included:
        self.assigned, self.reserved = 0, 0  # requests, and the tokens that they may grow to
        self.ready_at = 0.0  # s: when the prompts will be read, an estimate
        self._finished = finished
        self._active, self._plan, self._start, self._ends = False, Plan(), 0.0, np.empty(0)
        self._version = 0

    def submit(self, request: Request) -> None:
        """A request has arrived: it takes part from the next step on."""
        self.scheduler.add(request)
        if not self._active:
            self._active = True
            self.events.at(self.events.now, self._begin, rank=1 + self.number)
        elif len(self._ends) > 1:
            self._cut()

    def _cut(self) -> None:
        """End the steps that are taken at once after the one that is at work.

        A step that ends at this very moment is still at work: what arrives has rank 0, or comes
        from a node of lower number, and so happens before (prompts are read by the first nodes).
        """
        at_work = int(np.searchsorted(self._ends, self.events.now))
        if at_work + 1 < len(self._ends):
            self._ends = self._ends[: at_work + 1]
            self._wake()

    def _wake(self) -> None:
        self._version += 1
        self.events.at(self._ends[-1], self._end, self._version, rank=1 + self.number)

    def _begin(self) -> None:
        self._start, scheduler = self.events.now, self.scheduler
        if steps := scheduler.steady() if self.fast else 0:
            self._plan = None
            work = steady_work(scheduler.running, steps)
            seconds = np.broadcast_to(self.cost.seconds(work), steps)
        else:
            self._plan = scheduler.plan()
            seconds = [self.cost.seconds(work_of(self._plan))]
            if not self._plan.chunks:
                self._active, self._ends = False, np.empty(0)
                return
        self._ends = np.cumsum([self._start, *seconds])[1:]
        self._wake()

    def _end(self, version: int) -> None:
        if version != self._version:
            return  # cut short meanwhile
        first, steps = len(self.step_ends), len(self._ends)
        self.step_ends.frombytes(self._ends.tobytes())
        ended = self._after_steady(first, steps) if self._plan is None else self._after_plan(first)
        for request in ended:
            self.scheduler.finish(request)
            self._finished(self, request)
        self._begin()

    def _after_steady(self, first: int, steps: int) -> list[Request]:
        scheduler = self.scheduler
        scheduler.advance(steps)
        size = len(scheduler.running)
        self._note(steps, size, size)
        for request in scheduler.running:
            self._give(request, first, first + steps)
        return [request for request in scheduler.running if request.known == request.limit]

    def _after_plan(self, first: int) -> list[Request]:
        plan, ended = self._plan, []
        self.scheduler.done(plan)
        self._note(1, len(plan.chunks), plan.tokens)
        for chunk in plan.chunks:
            self.begun.setdefault(chunk.request.id, self._start)
            if chunk.last:
                self._give(chunk.request, first, first + 1)
                if chunk.request.known + 1 == chunk.request.limit:
                    ended.append(chunk.request)
                else:
                    self.scheduler.grow(chunk.request)
        return ended

    def _note(self, steps: int, requests: int, tokens: int) -> None:
        end = float(self._ends[-1])
        self.intervals.append(Interval(self._start, end, steps, requests, tokens))

    def _give(self, request: Request, first: int, end: int) -> None:
        spans = self.spans.setdefault(request.id, [])
        if spans and spans[-1][1] == first:
            spans[-1][1] = end
        else:
            spans.append([first, end])

    def token_times(self, request_id: int) -> np.ndarray:
        """When each token of a request was chosen here (s)."""
        ends = np.frombuffer(self.step_ends)
        return np.concatenate([ends[a:b] for a, b in self.spans.get(request_id, ())] or [ends[:0]])
