"""How one request's tokens are chosen: temperature, top-k, top-p, min-p, from its own generator.

Each request draws from a generator with its own seed, one number a token, so its text does not
depend on who else is in the batch. Filters come in the order of `transformers`: temperature, then
top-k, top-p, min-p.

Sources: Holtzman et al. 2020, section 3.1 (top-p); Nguyen et al. 2024, section 3 (min-p).
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.generation.sampling import top_p_probabilities


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


def probabilities(logits_LV: Tensor, params: SamplingParams) -> Tensor:
    """(L, V) from which tokens are drawn; at temperature 0 all on the likeliest id."""
    if params.temperature == 0:
        return F.one_hot(logits_LV.argmax(-1), logits_LV.shape[-1]).to(logits_LV.dtype)
    if 0 < params.top_k < logits_LV.shape[-1]:
        least = logits_LV.topk(params.top_k).values[..., -1:]
        logits_LV = logits_LV.masked_fill(logits_LV < least, -torch.inf)
    p_LV = top_p_probabilities(logits_LV, params.temperature, params.top_p)
    if params.min_p:
        p_LV = p_LV * (p_LV >= params.min_p * p_LV.amax(-1, keepdim=True))
        p_LV = p_LV / p_LV.sum(-1, keepdim=True)
    return p_LV
