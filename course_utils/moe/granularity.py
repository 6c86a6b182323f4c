"""Cutting experts into pieces: same parameters, same operations, more combinations.

An expert of width F cut into m pieces of width F / m does the same work as its pieces together.
With m times as many experts, m times as many of them chosen, a token uses as many parameters as
before and may combine knowledge in far more ways. Shared experts are pieces that every token gets:
they are taken out of what the router chooses from, so the cost stays the same again.

Source: Dai et al. 2024, "DeepSeekMoE", sections 3.1 (fine-grained segmentation) and 3.2 (shared
expert isolation). Left out: the router, whose matrix grows with the number of experts.
"""

import math
from dataclasses import replace

from course_utils.moe.config import MoEConfig


def split_experts(config: MoEConfig, pieces: int, shared: int = 0) -> MoEConfig:
    """The config with each expert cut into `pieces`, and `shared` of the pieces always on.

    A token uses the same width as before. Raises ValueError when `pieces` does not divide the width
    of an expert, or when nothing is left to choose.
    """
    if config.moe_intermediate_size % pieces:
        raise ValueError(
            f"an expert of width {config.moe_intermediate_size} cannot be cut into {pieces} equal "
            "pieces: choose a divisor of the width"
        )
    return replace(
        config,
        num_experts=config.num_experts * pieces - shared,
        num_experts_per_tok=config.num_experts_per_tok * pieces - shared,
        moe_intermediate_size=config.moe_intermediate_size // pieces,
        n_shared_experts=config.n_shared_experts * pieces + shared,
    )


def expert_combinations(config: MoEConfig) -> int:
    """In how many ways a token's experts can be chosen."""
    return math.comb(config.num_choices, config.num_experts_per_tok)
