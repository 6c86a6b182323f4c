"""What a request asks of the engine: how many tokens, how they are chosen, and where it ends.

Apart from `sampling`, so that a server without a model knows it too: it loads no torch.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SamplingParams:
    """What a request asks for. At temperature 0 the likeliest token is taken."""

    max_tokens: int = 16
    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = field(default=())
    stop_ids: tuple[int, ...] = field(default=())
    logprobs: int = -1  # how many likeliest tokens to report beside the chosen one; -1: nothing
    allowed_ids: tuple[int, ...] = field(default=())  # no other id is chosen; (): all may be

    def __post_init__(self) -> None:
        limits = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p < 1, "0 or more and below 1"),
            "logprobs": (-1 <= self.logprobs <= 20, "from -1 (none) to 20"),
            "stop": (all(self.stop), "texts that are not empty"),
        }
        for name, (good, words) in limits.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be {words}")
