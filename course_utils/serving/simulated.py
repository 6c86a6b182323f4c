"""A server on simulated time: the engine's scheduler, a cost model for a clock, and admission.

The same requests, the same policy and the same admission as in the server, without a socket and
without waiting, so that a sweep over loads takes milliseconds and gives the same numbers on every
machine. Requests arrive open-loop: at their moments, whatever became of earlier ones. One that
arrives during a step is looked at when the step ends.

The server measures itself as it goes: seconds and tokens of steps that read prompts (a ratio of
moving means: a mean of ratios would be ruled by steps with few tokens), and how long requests hold
their slots.

Left out: the network, writing JSON, and clients that go away or come back (`simulation` has many
nodes, and takes like steps at once).
"""

from collections import deque
from collections.abc import Callable, Sequence

from course_utils.scheduling import Plan, Request, Scheduler, SchedulerConfig
from course_utils.serving.prediction import ServerLoad
from course_utils.serving.slo import RequestRecord
from course_utils.simulation.costs import Cost, Work, work_of
from course_utils.simulation.workloads import TraceRequest

Admit = Callable[[ServerLoad, int, int], bool]  # load, tokens of the prompt, cached ones
NEWEST = 0.2  # weight of the newest measurement in a moving mean


class SimulatedServer:
    """One run: `SimulatedServer(config, cost, admit).run(trace)` gives a record of each request.

    `admit` decides by the load, the tokens of the prompt and those in the prefix cache; None lets
    everybody in.
    """

    def __init__(self, config: SchedulerConfig, cost: Cost, admit: Admit | None = None):
        self.scheduler, self.cost, self.admit, self.now = Scheduler(config), cost, admit, 0.0
        self.begun: dict[Request, float] = {}  # when a request that runs got its slot
        self.tokens: dict[Request, list[float]] = {}  # moments (s) of the tokens of each request
        whole = Work(config.max_tokens, 1, config.max_tokens, config.max_tokens**2)
        self.reading = float(cost.seconds(whole)), config.max_tokens  # seconds, tokens
        self.seconds_per_request = 0.0  # nobody has left yet

    def run(self, trace: Sequence[TraceRequest]) -> list[RequestRecord]:
        """Serve requests, given in the order of their arrival."""
        pending, arrived = deque(trace), []
        while pending or self.scheduler.waiting or self.scheduler.running:
            while pending and pending[0].arrival <= self.now:
                wanted = pending.popleft()
                arrived.append((wanted, self._arrive(len(arrived), wanted)))
            if (plan := self.scheduler.plan()).chunks:
                self._step(plan)
            elif pending:
                self.now = pending[0].arrival
        return [self._record(wanted, request) for wanted, request in arrived]

    def load(self) -> ServerLoad:
        """What the server knows of itself now."""
        running, waiting = self.scheduler.running, self.scheduler.waiting
        reading = sum(request.left for request in running if request.left > 1)
        backlog = reading + sum(request.known - self._cached(request) for request in waiting)
        seconds, tokens = self.reading
        rates = seconds / tokens, self.seconds_per_request
        slots = self.scheduler.config.max_requests
        return ServerLoad(slots, len(running), len(waiting), backlog, *rates)

    def _cached(self, request: Request) -> int:
        size = self.scheduler.config.block_size
        whole = (request.known - 1) // size
        return size * len(self.scheduler.pool.find(request.keys[:whole]))

    def _arrive(self, number: int, wanted: TraceRequest) -> Request | None:
        """Let a request wait; None if it is refused."""
        full = wanted.input // self.scheduler.config.block_size
        keys = [(block, block) for block in wanted.blocks[:full]]
        limit = wanted.input + wanted.output
        request = Request(number, wanted.input, limit, keys, wanted.arrival)
        if self.admit and not self.admit(self.load(), wanted.input, self._cached(request)):
            return None
        self.scheduler.add(request)
        self.tokens[request] = []
        return request

    def _step(self, plan: Plan) -> None:
        for chunk in plan.chunks:
            self.begun.setdefault(chunk.request, self.now)
        seconds = float(self.cost.seconds(work_of(plan)))
        self.now += seconds
        self.scheduler.done(plan)
        if plan.tokens > len(plan.chunks):
            before = self.reading
            self.reading = _moved(before[0], seconds), _moved(before[1], plan.tokens)
        for request in [chunk.request for chunk in plan.chunks if chunk.last]:
            self.tokens[request].append(self.now)
            if request.known + 1 < request.limit:
                self.scheduler.grow(request)
            else:
                self._finish(request)

    def _finish(self, request: Request) -> None:
        self.scheduler.finish(request)
        held = self.now - self.begun.pop(request)
        self.seconds_per_request = _moved(self.seconds_per_request or held, held)

    def _record(self, wanted: TraceRequest, request: Request | None) -> RequestRecord:
        moment = wanted.arrival
        if request is None:
            return RequestRecord(moment, moment, None, None, 0, 429)
        times = self.tokens[request]
        cached = request.cached_tokens
        return RequestRecord(moment, moment, times[0], times[-1], len(times), 200, cached)


def _moved(mean: float, newest: float) -> float:
    return mean + NEWEST * (newest - mean)
