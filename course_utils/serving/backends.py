"""What answers behind a server: an engine, the text around it, and the name that clients ask for.

A backend is one of two: `EngineBackend` for a model, `mock.MockBackend` for a clock. Both hold an
object with the engine's methods (`add`, `cancel`, `step`) over a `Scheduler`; the server never asks
which one it is.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from course_utils.data.tokenizer import Tokenizer
from course_utils.scheduling import Request, Scheduler
from course_utils.serving.params import SamplingParams
from course_utils.serving.templates import Template, Turn, plain


class Made(Protocol):
    """A request of an engine: see `engine.Generation`."""

    request: Request
    params: SamplingParams
    prompt_length: int
    logprobs: list[dict[int, float]]
    finish_reason: str | None


class Engine(Protocol):
    """What the server needs of an engine: see `engine.Engine`."""

    scheduler: Scheduler
    live: dict[Request, Made]

    def add(self, prompt: list[int], params: SamplingParams, arrival: float = 0.0) -> Made: ...

    def cancel(self, generation: Made) -> None: ...

    def step(self) -> list[Any]: ...


class Backend(Protocol):
    """An engine with its text."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    template: Template
    context: int  # tokens of prompt and answer together

    def choose_tool(self, turns: Sequence[Turn], names: Sequence[str]) -> str | None:
        """Which tool the model calls of its own accord, if any."""


class EngineBackend:
    """A model behind its engine. The engine must have the tokenizer too, for stop texts."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, name: str, template: Template = plain):
        if engine.tokenizer is None:
            raise ValueError("the engine has no tokenizer: give it one, Engine(..., tokenizer)")
        self.engine, self.tokenizer, self.name, self.template = engine, tokenizer, name, template
        config = engine.scheduler.config
        longest = engine.model.config.max_position_embeddings
        self.context = min(longest, config.num_blocks * config.block_size)

    def choose_tool(self, turns: Sequence[Turn], names: Sequence[str]) -> str | None:
        """None: the course's models were not trained to call tools, so they answer in words."""
        return None
