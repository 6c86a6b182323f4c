"""A server on simulated time: the engine's scheduler, a cost model for a clock, and admission.

The same requests, the same policy and the same admission as in the server, without a socket and
without waiting, so that a sweep over loads takes milliseconds and gives the same numbers on every
machine. Requests arrive open-loop: at their moments, whatever became of earlier ones. (Or through a
number of connections, as in many load tests: then late requests are sent late.) One that arrives
during a step is looked at when the step ends.

Admission sees what the server's own sees: what is ahead of a request, and seconds fitted to the
steps so far.

Left out: the network, writing JSON, and clients that go away or come back (`simulation` has many
nodes, and takes like steps at once).
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence

from course_utils.scheduling import Plan, Request, Scheduler, SchedulerConfig
from course_utils.serving.admission import Load, StepTimes, load_of
from course_utils.serving.slo import RequestRecord
from course_utils.simulation.costs import Cost, work_of
from course_utils.simulation.workloads import TraceRequest

Admit = Callable[[int, int, Load, float, float], bool]


class SimulatedServer:
    """One run: `SimulatedServer(config, cost, admit).run(trace)` gives a record of each request.

    `admit(prompt, cached, load, base, per_token)` says whether a request may wait: see
    `admission.predicted_ttft` for its arguments. None lets everybody in.
    """

    def __init__(self, config: SchedulerConfig, cost: Cost, admit: Admit | None = None):
        self.scheduler, self.cost, self.admit, self.now = Scheduler(config), cost, admit, 0.0
        self.times, self.free = StepTimes(), []  # free: since when (s) connections are
        self.tokens: dict[Request, list[float]] = {}  # moments (s) of the tokens of each request

    def run(
        self, trace: Sequence[TraceRequest], connections: int | None = None
    ) -> list[RequestRecord]:
        """Serve requests, given in the order of their arrival.

        With `connections`, a request is sent when one of so many is free: a closed loop.
        """
        pending, arrived = deque(trace), []
        self.free = [0.0] * (len(trace) if connections is None else connections)
        while pending or self.scheduler.waiting or self.scheduler.running:
            while pending and self.free and pending[0].arrival <= self.now:
                wanted, free_since = pending.popleft(), heapq.heappop(self.free)
                sent = max(wanted.arrival, free_since)
                arrived.append((wanted, sent, self._arrive(len(arrived), wanted)))
            if (plan := self.scheduler.plan()).chunks:
                self._step(plan)
            elif pending:
                self.now = max(self.now, pending[0].arrival)
        return [self._record(*each) for each in arrived]

    def _arrive(self, number: int, wanted: TraceRequest) -> Request | None:
        """Let a request wait; None if it is refused."""
        scheduler, size = self.scheduler, self.scheduler.config.block_size
        keys = [(block, block) for block in wanted.blocks[: wanted.input // size]]
        limit = wanted.input + wanted.output
        request = Request(number, wanted.input, limit, keys, wanted.arrival)
        if self.admit:
            cached = size * len(scheduler.pool.find(keys[: (wanted.input - 1) // size]))
            if not self.admit(wanted.input, cached, load_of(scheduler), *self.times.fit()):
                heapq.heappush(self.free, self.now)
                return None
        scheduler.add(request)
        self.tokens[request] = []
        return request

    def _step(self, plan: Plan) -> None:
        seconds = float(self.cost.seconds(work_of(plan)))
        self.now += seconds
        self.times.observe(plan.tokens, seconds)
        self.scheduler.done(plan)
        for request in [chunk.request for chunk in plan.chunks if chunk.last]:
            self.tokens[request].append(self.now)
            if request.known + 1 < request.limit:
                self.scheduler.grow(request)
            else:
                self.scheduler.finish(request)
                heapq.heappush(self.free, self.now)

    def _record(self, wanted: TraceRequest, sent: float, request: Request | None) -> RequestRecord:
        if request is None:
            return RequestRecord(wanted.arrival, sent, None, None, 0, 429)
        times, cached = self.tokens[request], request.cached_tokens
        return RequestRecord(wanted.arrival, sent, times[0], times[-1], len(times), 200, cached)
