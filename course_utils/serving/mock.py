"""A model that is a clock: the scheduler and the pool of blocks are real, the tokens cost time.

`MockEngine` has the methods of `engine.Engine`. A step asks the same scheduler for a plan and waits
as long as a cost model says that the plan takes; the tokens come from `mock_text`. So queueing,
preemption and cached tokens are what an engine of that speed would have, without weights: for
classrooms, and for the tests of clients. One policy, two clocks.

The default cost is that of a 70-billion-parameter model on a node of eight A800, as in chapter 18:
59% of the peak FLOP/s are fitted there to published prefill times; 60% of the bandwidth and 2 ms a
step are assumed.
Left out: drafts, and everything that a model would know.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from course_utils.data.tokenizer import Tokenizer, course_tokenizer
from course_utils.scheduling import Request, Scheduler, SchedulerConfig, block_keys
from course_utils.serving.mock_text import answer, last_words, likelihoods
from course_utils.serving.params import SamplingParams
from course_utils.serving.templates import Turn, plain
from course_utils.serving.text import TextStream
from course_utils.simulation.costs import (
    A800_NODE_BANDWIDTH,
    A800_NODE_FLOPS,
    LLAMA2_70B,
    Cost,
    node_cost,
    work_of,
)

NODE = node_cost(
    LLAMA2_70B, A800_NODE_FLOPS, A800_NODE_BANDWIDTH, mfu=0.59, efficiency=0.6, overhead=0.002
)
SIZES = SchedulerConfig(num_blocks=2048, block_size=16, max_tokens=512, max_requests=16)


@dataclass(eq=False)
class MockGeneration:
    """A request of the mock engine: what it will say, and how much of it was said."""

    request: Request
    ids: list[int]  # the prompt, then what was said
    params: SamplingParams
    prompt_length: int
    answer: list[int]
    text: TextStream
    logprobs: list[dict[int, float]] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def new_ids(self) -> list[int]:
        """What was said so far."""
        return self.ids[self.prompt_length :]


@dataclass(frozen=True)
class MockUpdate:
    """What a step gave to one request."""

    generation: MockGeneration
    ids: list[int]
    text: str


class MockEngine:
    """A scheduler, a cost model, and a clock that runs `speed` times as fast (0: never waits)."""

    def __init__(
        self,
        cost: Cost = NODE,
        config: SchedulerConfig = SIZES,
        seed: int = 0,
        speed: float = 1.0,
        tokenizer: Tokenizer | None = None,
    ):
        if speed < 0:
            raise ValueError(f"speed is {speed}: above 0, or 0 for a clock that never waits")
        self.scheduler = Scheduler(config)
        self.tokenizer = tokenizer or course_tokenizer()
        self.cost, self.seed, self.speed = cost, seed, speed
        self.live: dict[Request, MockGeneration] = {}
        self.added = self.steps = 0
        self._due = 0.0  # when the last step ended

    def add(
        self, prompt: list[int], params: SamplingParams, arrival: float = 0.0
    ) -> MockGeneration:
        """Let a prompt of ids wait. Raises ValueError if it can never be served, saying why."""
        if not prompt or not 0 <= min(prompt) <= max(prompt) < self.tokenizer.vocab_size:
            raise ValueError("the prompt must have at least one id, each of the vocabulary")
        keys = block_keys(prompt, self.scheduler.config.block_size)
        limit = len(prompt) + params.max_tokens
        request = Request(self.added, len(prompt), limit, keys, arrival)
        self.scheduler.add(request)
        self.added += 1
        words = answer(self.tokenizer, prompt, params, self.seed)
        text = TextStream(self.tokenizer, params.stop)
        made = MockGeneration(request, list(prompt), params, len(prompt), words, text)
        self.live[request] = made
        return made

    def cancel(self, generation: MockGeneration) -> None:
        """End a request, wherever it is; one that has ended stays as it is."""
        if generation.finish_reason is None:
            self._finish(generation, "cancelled")

    def run(self) -> None:
        """Take steps until nobody waits or runs."""
        while self.live:
            self.step()

    def step(self) -> list[MockUpdate]:
        """Wait as long as the plan takes; a token for every request whose known ones are read."""
        plan = self.scheduler.plan()
        if not plan.chunks:
            return []
        self._wait(float(self.cost.seconds(work_of(plan))))
        self.scheduler.done(plan)
        self.steps += 1
        return [self._extend(self.live[chunk.request]) for chunk in plan.chunks if chunk.last]

    def _wait(self, seconds: float) -> None:
        """Until the step is over. Sleeping 0 s still lets other threads run."""
        now = time.monotonic()
        if self.speed:  # a late waking shortens the next wait, if that follows at once
            self._due = max(now - 0.01, self._due) + seconds / self.speed
        time.sleep(max(0.0, self._due - now))

    def _extend(self, made: MockGeneration) -> MockUpdate:
        params, request = made.params, made.request
        token = made.answer[len(made.new_ids)]
        if params.logprobs >= 0:
            made.logprobs.append(likelihoods(self.tokenizer, token, params.logprobs))
        made.ids.append(token)
        request.keys = block_keys(made.ids, self.scheduler.config.block_size, request.keys)
        self.scheduler.grow(request)
        ended = token in params.stop_ids
        last = ended or request.known == request.limit or len(made.new_ids) == len(made.answer)
        text = made.text.push([] if ended else [token], last)
        if ended or made.text.stopped:
            self._finish(made, "stop")
        elif last:
            self._finish(made, "length")
        return MockUpdate(made, [token], text)

    def _finish(self, made: MockGeneration, reason: str) -> None:
        made.finish_reason = reason
        self.scheduler.finish(made.request)
        del self.live[made.request]


class MockBackend:
    """The mock engine as a backend: answers by the words of `mock_text`, in the time of `cost`."""

    def __init__(
        self,
        cost: Cost = NODE,
        config: SchedulerConfig = SIZES,
        *,
        seed: int = 0,
        name: str = "mock",
        speed: float = 1.0,
        context: int = 4096,
    ):
        self.engine = MockEngine(cost, config, seed, speed)
        self.tokenizer, self.template, self.name = self.engine.tokenizer, plain, name
        self.context = min(context, config.num_blocks * config.block_size)

    def choose_tool(self, turns: Sequence[Turn], names: Sequence[str]) -> str | None:
        """The first tool with a word of its name in what the user just said."""
        if not turns or turns[-1].role != "user":
            return None
        said = last_words(turns[-1].text).lower()
        for name in names:
            if any(word in said for word in name.lower().split("_") if len(word) > 3):
                return name
        return None
