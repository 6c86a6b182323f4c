"""Who computes how many tokens in the next step: continuous batching with one token budget.

Every step has room for `max_tokens` tokens. Requests that run take what they need first, in the
order of their admission: one token for a request that generates, the next chunk of the prompt for
one that is still reading. What is left of the budget goes to waiting requests, first come first
served, so prompts are read beside the requests that generate and never stop them (chunked
prefill). A step's work is a `Plan`; whoever computes it, an engine or a simulator's clock, reports
with `done`.

If the pool has no block for a running request, the request admitted last gives all its blocks back
and waits again, in front of the others: it is computed anew later, with what it has generated as
part of its prompt (preemption by recomputation). The oldest request is never preempted for a
younger one, so every step makes progress.

`admit="batch"` admits only when nothing runs: static batching, for comparison.

Sources: Yu et al. 2022 (Orca), section 4.1; Kwon et al. 2023 (vLLM), section 4.5; Agrawal et al.
2024 (Sarathi-Serve), section 4. Left out: priorities, swapping blocks to other memory.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from course_utils.scheduling.block_pool import BlockPool, release_blocks
from course_utils.scheduling.request import FINISHED, RUNNING, WAITING, Request

ADMIT = ("continuous", "batch")


@dataclass(frozen=True)
class SchedulerConfig:
    """Sizes: blocks of the pool, tokens of a block, tokens of a step, requests at a time."""

    num_blocks: int
    block_size: int = 16
    max_tokens: int = 512
    max_requests: int = 16
    max_chunk: int | None = None  # tokens of one prompt in one step; None: the whole budget
    prefix_cache: bool = True
    admit: str = "continuous"

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "max_tokens", "max_requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.max_chunk is not None and self.max_chunk < 1:
            raise ValueError(f"max_chunk is {self.max_chunk}: it must be at least 1, or None")
        if self.admit not in ADMIT:
            raise ValueError(f"admit is {self.admit!r}: choose one of {', '.join(ADMIT)}")


@dataclass(frozen=True)
class Chunk:
    """The tokens `start`, ..., `start + count - 1` of a request are computed in this step."""

    request: Request
    start: int
    count: int

    @property
    def last(self) -> bool:
        """Whether all known tokens are computed then, so that the next one can be chosen."""
        return self.start + self.count >= self.request.known


@dataclass
class Plan:
    """The work of one step, and who was preempted for it."""

    chunks: list[Chunk] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(chunk.count for chunk in self.chunks)


def share_budget(
    running: Sequence[int],
    waiting: Sequence[int],
    max_tokens: int,
    max_requests: int,
    max_chunk: int | None = None,
) -> list[int]:
    """Tokens of the next step for every request: those that run first, then those that wait.

    `running` and `waiting` say how many tokens each has left to compute, in order. Each gets what
    it needs, up to max_chunk and to what is left of max_tokens. At most max_requests take part.
    """
    seats = max(0, max_requests - len(running))
    counts = []
    for left in [*running, *waiting[:seats]]:
        counts.append(min(left, max_tokens, max_chunk or left))
        max_tokens -= counts[-1]
    return counts + [0] * (len(running) + len(waiting) - len(counts))


class Scheduler:
    """Waiting and running requests over one pool of blocks.

    `share` and `release` are the course's functions, or the learner's.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        share: Callable = share_budget,
        release: Callable = release_blocks,
    ):
        self.config, self.share = config, share
        self.pool = BlockPool(config.num_blocks, config.prefix_cache, release)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # in the order of their admission
        self.tokens = 0  # computed by all steps so far

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.config.block_size)

    def add(self, request: Request) -> None:
        """Let a request wait. Raises ValueError if it could never fit."""
        if (need := self.blocks_for(request.limit)) > self.config.num_blocks:
            raise ValueError(
                f"request {request.id} may grow to {request.limit} tokens, {need} blocks of "
                f"{self.config.block_size}; the pool has {self.config.num_blocks}: shorten the "
                "prompt, lower max_tokens, or give the cache more blocks"
            )
        request.state = WAITING
        self.waiting.append(request)

    def guess(self, request: Request, tokens: int) -> int:
        """Let the next step verify up to so many drafted tokens; returns how many fit its limit.

        A step chooses one token beyond the drafts, so that the last place is never a draft's.
        """
        request.drafts = max(0, min(tokens, request.limit - request.known - 1))
        return request.drafts

    def plan(self) -> Plan:
        """The next step. Empty only when no request has anything to compute."""
        plan, config = Plan(), self.config
        left = [request.left for request in self.running]
        counts = self.share(left, (), config.max_tokens, config.max_requests, config.max_chunk)
        for request, count in zip(tuple(self.running), counts, strict=True):
            if count and request.state == RUNNING:  # not preempted just now
                self._continue(request, count, plan)
        if not plan.preempted and (config.admit == "continuous" or not self.running):
            while self.waiting and self._admit(self.waiting[0], plan):
                pass
        return plan

    def _continue(self, request: Request, count: int, plan: Plan) -> None:
        need = self.blocks_for(request.computed + count) - len(request.blocks)
        while need > self.pool.available:
            last = self.running[-1]
            self._preempt(last, plan)
            if last is request:
                return
        request.blocks += self.pool.take((), max(0, need))
        request.drafts = max(0, request.computed + count - request.known)
        plan.chunks.append(Chunk(request, request.computed, count))

    def _preempt(self, request: Request, plan: Plan) -> None:
        self._withdraw(request)
        request.preemptions += 1
        request.received = 0  # they were in its blocks
        request.state = WAITING
        self.waiting.appendleft(request)
        plan.preempted.append(request)

    def _withdraw(self, request: Request) -> None:
        """Take a request off the machine: its blocks go back, nothing of it counts as computed."""
        self.running.remove(request)
        self.pool.release(request.blocks)
        request.blocks, request.computed, request.registered, request.drafts = [], 0, 0, 0

    def _entry(self, request: Request, budget: int) -> tuple[list[int], int, int, int] | None:
        """Cached blocks, first token, tokens, new blocks; None if it gets nothing now.

        At least the last known token is computed, whatever is cached: its logits choose the next.
        """
        config, seats = self.config, self.config.max_requests - len(self.running)
        whole = (request.known - 1) // config.block_size
        shared = self.pool.find(request.keys[:whole])
        start = max(len(shared) * config.block_size, request.received)
        (count,) = self.share((), (request.known - start,), budget, seats, config.max_chunk)
        new = self.blocks_for(start + count) - len(shared)
        if not count or self.pool.need(shared, new) > self.pool.available:
            return None
        return shared, start, count, new

    def _admit(self, request: Request, plan: Plan) -> bool:
        """Begin with what the prefix cache holds; False if it gets nothing now."""
        if not (entry := self._entry(request, self.config.max_tokens - plan.tokens)):
            return False
        shared, start, count, new = entry
        self.waiting.popleft()
        self.running.append(request)
        request.blocks, request.registered = self.pool.take(shared, new), len(shared)
        request.computed, request.state = start, RUNNING
        if not request.admissions:
            request.cached_tokens = len(shared) * self.config.block_size
        request.admissions += 1
        plan.chunks.append(Chunk(request, start, count))
        return True

    def done(self, plan: Plan) -> None:
        """The plan's tokens are computed: count them, and let full blocks be found.

        Drafts count as computed until `grow` says how many were accepted.
        """
        self.tokens += plan.tokens
        for chunk in plan.chunks:
            chunk.request.computed = chunk.start + chunk.count
            if not chunk.request.drafts:
                self._register(chunk.request)

    def _register(self, request: Request) -> None:
        full = min(request.computed // self.config.block_size, len(request.keys))
        for index in range(request.registered, full):
            request.blocks[index] = self.pool.register(request.blocks, index, request.keys[index])
        request.registered = max(request.registered, full)

    def grow(self, request: Request, tokens: int = 1) -> None:
        """So many tokens were chosen for the request; with drafts: accepted ones, and one more.

        What was computed of drafts beyond them does not count: it is written over.
        """
        if request.known + tokens > request.limit:
            raise ValueError(
                f"request {request.id} would have {request.known + tokens} tokens; its limit is "
                f"{request.limit}"
            )
        request.known += tokens
        request.drafts = 0
        request.computed = min(request.computed, request.known - 1)
        self._register(request)

    def finish(self, request: Request) -> None:
        """End a request, wherever it is, and give its blocks back; twice does nothing."""
        if request.state == FINISHED:
            return
        if request.state == RUNNING:
            self._withdraw(request)
        else:
            self.waiting.remove(request)
        request.state = FINISHED

    def steady(self) -> int:
        """For how many steps from now every plan is the same: one token for each running request.

        0 if the next plan is another one. It holds if nobody arrives or is ended meanwhile, and if
        no request gets further keys; a simulator then takes the steps at once (`advance`).
        """
        if self.waiting and self._could_admit(self.waiting[0]):
            return 0
        return self._alike()

    def _alike(self) -> int:
        """How many steps the running requests could take, one token each, by themselves."""
        running, config = self.running, self.config
        if not running or len(running) > config.max_tokens:
            return 0
        for request in running:
            waits_for_keys = len(request.keys) * config.block_size > request.computed
            if request.left != 1 or request.drafts or waits_for_keys:
                return 0
        low, high = 0, min(request.limit - request.known for request in running)
        while low < high:  # the most steps whose blocks are there
            steps = (low + high + 1) // 2
            fits = self._growth(steps) <= self.pool.available
            low, high = (steps, high) if fits else (low, steps - 1)
        return low

    def _could_admit(self, request: Request) -> bool:
        """Whether the next plan would admit the first waiting request."""
        budget = max(0, self.config.max_tokens - len(self.running))
        return self.config.admit != "batch" and self._entry(request, budget) is not None

    def _growth(self, steps: int) -> int:
        """Blocks that so many steps of one token each add to the running requests."""
        return sum(self.blocks_for(r.computed + steps) - len(r.blocks) for r in self.running)

    def advance(self, steps: int) -> None:
        """Take `steady` steps at once: the same as so many times `plan`, `done` and `grow`.

        Requests that were added since `steady` was asked wait until these steps are over.
        """
        if steps > (most := self._alike()):
            raise ValueError(f"{steps} steps at once: only the next {most} are all alike")
        self.tokens += steps * len(self.running)
        for request in self.running:
            need = self.blocks_for(request.computed + steps) - len(request.blocks)
            request.blocks += self.pool.take((), need)
            request.computed += steps
            request.known += steps
