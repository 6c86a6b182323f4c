"""Rotary position embedding (RoPE): a position turns pairs of channels by an angle.

Pair i turns by `position * theta ** (-2i / d)`: fast for small i, slow for large i. Query and key
are turned alike, so that their product depends on the distance between them alone.

The pairs are (i, i + d/2), "half-split", as in Llama's and Qwen's checkpoints on the hub. The paper
and GGUF files pair (2i, 2i + 1), "interleaved". The two differ by a permutation of channels: a
model whose weights expect one and that is run with the other stays fluent and forgets where things
were.

Source: Su et al. 2021, "RoFormer", section 3.2.2; config keys `rope_theta` and `head_dim`.
"""

import torch
from torch import Tensor


def rope_tables(
    positions_T: Tensor, head_dim: int, theta: float = 10_000.0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, in 32 bits.

    Shapes: positions (..., T) whole numbers; both results (..., T, d), where the second half of the
    last dimension repeats the first. Raises ValueError when `head_dim` is odd.
    """
    if head_dim % 2:
        raise ValueError(
            f"head_dim is {head_dim}: RoPE turns pairs of channels, so it must be even"
        )
    exponents = torch.arange(0, head_dim, 2, device=positions_T.device).float() / head_dim
    frequencies = 1.0 / theta**exponents
    angles = positions_T[..., None].float() * frequencies
    angles_Td = torch.cat([angles, angles], dim=-1)
    return angles_Td.cos(), angles_Td.sin()


def apply_rope(x_HTd: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
    """Turn channel pairs (i, i + d/2) of x by the angles whose cosine and sine are given.

    Shapes: x (..., T, d), cos and sin broadcastable to it, usually (T, d). Computed in the dtype of
    x. (a, b) becomes (a cos - b sin, b cos + a sin).
    """
    first, second = x_HTd.chunk(2, dim=-1)
    turned_HTd = torch.cat([-second, first], dim=-1)
    return x_HTd * cos_Td.to(x_HTd.dtype) + turned_HTd * sin_Td.to(x_HTd.dtype)


def apply_rope_interleaved(x_HTd: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
    """`apply_rope` for channel pairs (2i, 2i + 1), with the same tables and shapes."""
    half = x_HTd.shape[-1] // 2
    cos, sin = cos_Td[..., :half].to(x_HTd.dtype), sin_Td[..., :half].to(x_HTd.dtype)
    even, odd = x_HTd[..., 0::2], x_HTd[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
