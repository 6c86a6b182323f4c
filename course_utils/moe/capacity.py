"""Capacity: an upper limit on the tokens of one expert, and the dropping of what goes beyond it.

With a limit, every expert's work has a fixed shape, and a device that holds a popular expert is
never late. The price is that a token which comes too late in the queue gets nothing from that
expert: the pair (token, expert) is dropped, the token's other experts and the residual stream stay.
The queue is in order of position, so the end of a batch loses first.

A dropped pair is written as an identity expert with weight 0: no dispatch computes it, and no
gradient reaches its weight. Identity experts cost nothing and have no limit.

Left out: dropping the smallest weights first (Megatron's policy "probs"). No open model family of
chapter 05 drops tokens when it is served. Source: Fedus et al. 2021, "Switch Transformers",
section 2.2, equation 3; Lepikhin et al. 2020, "GShard", section 2.2.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from course_utils.moe.config import MoEConfig


def expert_capacity(tokens: int, config: MoEConfig) -> int:
    """How many of `tokens` one expert may take: ceil(T * k / E * capacity_factor)."""
    even_share = tokens * config.num_experts_per_tok / config.num_experts
    return math.ceil(even_share * config.capacity_factor)


def beyond_capacity(experts_TK: Tensor, num_experts: int, capacity: int) -> Tensor:
    """True (T, K) where a pair comes after `capacity` earlier pairs of the same expert."""
    chosen_SE = F.one_hot(experts_TK.flatten().clamp(max=num_experts), num_experts + 1)
    place_SE = chosen_SE.cumsum(0)  # 1 for an expert's first token, 2 for its second, ...
    place_S = place_SE.gather(1, experts_TK.flatten().clamp(max=num_experts)[:, None])
    late_TK = (place_S > capacity).view_as(experts_TK)
    return late_TK & (experts_TK < num_experts)


def drop(
    experts_TK: Tensor, weights_TK: Tensor, late_TK: Tensor, nowhere: int
) -> tuple[Tensor, Tensor]:
    """Experts and weights with the late pairs sent `nowhere`, an index no real expert has."""
    return experts_TK.masked_fill(late_TK, nowhere), weights_TK.masked_fill(late_TK, 0)
