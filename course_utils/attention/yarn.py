"""YaRN: a model trained on short texts reads longer ones, by turning slow RoPE pairs more slowly.

A pair that turns often within the trained context tells near tokens apart and is left alone. A pair
that does not finish a turn would meet angles that were never trained: it turns `factor` times more
slowly, so that the longest text ends at the angle where training ended. Between `beta_fast` and
`beta_slow` turns a ramp leads from one to the other.

More tokens also flatten the softmax. DeepSeek sharpens it by m^2, m = 0.1 mscale_all_dim ln(factor)
+ 1, in the scale of the scores: both queries and keys count with m.

Sources: Peng et al. 2023, "YaRN" (arXiv 2309.00071), sections 3.2 to 3.4; config key `rope_scaling`
and `yarn_get_mscale` of DeepSeek-V3's published code. Left out: factors that change with the length
of the text.
"""

import math

import torch
from torch import Tensor

from course_utils.attention.config import YarnConfig


def yarn_frequencies(dim: int, theta: float, scaling: YarnConfig) -> Tensor:
    """Radians per token of the dim / 2 channel pairs, in 32 bits: plain, divided, or between."""
    plain = 1.0 / theta ** (torch.arange(0, dim, 2).float() / dim)
    first = max(math.floor(pair_that_turns(scaling.beta_fast, dim, theta, scaling)), 0)
    last = min(math.ceil(pair_that_turns(scaling.beta_slow, dim, theta, scaling)), dim - 1)
    ramp = (torch.arange(dim // 2).float() - first) / max(last - first, 0.001)
    divided = ramp.clamp(0, 1)  # 0: left alone; 1: `factor` times slower
    return plain * (1 - divided) + plain / scaling.factor * divided


def pair_that_turns(turns: float, dim: int, theta: float, scaling: YarnConfig) -> float:
    """The (fractional) pair i that makes so many turns in the trained context:
    original * theta ** (-2i / dim) = 2 pi turns."""
    trained = scaling.original_max_position_embeddings
    return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))


def yarn_tables(
    positions_T: Tensor, dim: int, theta: float, scaling: YarnConfig
) -> tuple[Tensor, Tensor]:
    """Cosine and sine as `rope_tables` gives them, of YaRN's frequencies.

    Both are multiplied by m(mscale) / m(mscale_all_dim), which is 1 in DeepSeek-V2 and V3. Shapes:
    positions (..., T), both results (..., T, dim), the second half repeating the first.
    """
    frequencies = yarn_frequencies(dim, theta, scaling).to(positions_T.device)
    angles = positions_T[..., None].float() * frequencies
    angles_Td = torch.cat([angles, angles], dim=-1)
    factor = scaling.factor
    length = yarn_mscale(factor, scaling.mscale) / yarn_mscale(factor, scaling.mscale_all_dim)
    return angles_Td.cos() * length, angles_Td.sin() * length


def yarn_mscale(factor: float, mscale: float) -> float:
    """m = 0.1 mscale ln(factor) + 1; 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def softmax_scale(head_dim: int, scaling: YarnConfig | None = None) -> float:
    """What scores are multiplied by: 1 / sqrt(d), with YaRN times m(mscale_all_dim)^2."""
    if scaling is None:
        return head_dim**-0.5
    return head_dim**-0.5 * yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2
