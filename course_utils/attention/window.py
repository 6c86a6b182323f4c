"""Sliding-window attention: grouped-query attention that looks at the last W tokens only.

    query t sees the keys t - W + 1, ..., t        W keys, its own included

So a layer keeps W keys and values, however long the text. What is further away arrives through the
layers: with L of them a token can be reached from up to L (W - 1) tokens ahead.

Left out: attention sinks (gpt-oss has one learned number a head, which takes part in the softmax
and carries no value), and a form for long prompts that skips the blocks outside the band: here a
mask covers them, so that a window saves memory but no arithmetic in training.

Source: Beltagy et al. 2020, "Longformer", section 3.1; config keys `sliding_window` and
`layer_types`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils.attention.gqa import fused_attention
from course_utils.attention.layered_cache import LayeredCache, Tokens
from course_utils.layers import Linear, RMSNorm, apply_rope, rms_norm


def window_mask(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
    """(T, S) of booleans, from the positions of queries and keys: True where 0 <= t - s < W."""
    distance_TS = query_T[:, None] - key_S[None, :]
    return (distance_TS >= 0) & (distance_TS < window)


class SlidingWindowAttention(nn.Module):
    """`GroupedQueryAttention` over the last `window` tokens, with the same weights and functions.

    `norm`, `rope` and `attend` may be any functions with the signatures of `rms_norm`,
    `apply_rope` and `grouped_query_attention`.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        qk_norm: bool,
        eps: float,
        norm: Callable = rms_norm,
        rope: Callable = apply_rope,
        attend: Callable = fused_attention,
    ):
        super().__init__()
        self.q_proj = Linear(hidden_size, heads * head_dim, bias=False)
        self.k_proj = Linear(hidden_size, kv_heads * head_dim, bias=False)
        self.v_proj = Linear(hidden_size, kv_heads * head_dim, bias=False)
        self.o_proj = Linear(heads * head_dim, hidden_size, bias=False)
        self.q_norm = RMSNorm(head_dim, eps, norm) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim, eps, norm) if qk_norm else nn.Identity()
        self.kv_heads, self.head_dim, self.window = kv_heads, head_dim, window
        self.rope = rope
        self.attend = attend

    def cache_layout(self) -> Tokens:
        """A key and a value for each key-value head, of the last `window` tokens."""
        width = (self.kv_heads, self.head_dim)
        return Tokens({"k": width, "v": width}, self.window)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        cache: LayeredCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(B, T, D) to the same shape; mask (T, S) or (B, 1, T, S) over all tokens seen so far."""
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BHTd = self.q_norm(self.q_proj(x_BTD).view(heads)).transpose(1, 2)
        k_BGTd = self.k_norm(self.k_proj(x_BTD).view(heads)).transpose(1, 2)
        v_BGTd = self.v_proj(x_BTD).view(heads).transpose(1, 2)
        q_BHTd, k_BGTd = self.rope(q_BHTd, cos, sin), self.rope(k_BGTd, cos, sin)
        mask = self._narrow(mask, x_BTD, cache, layer)
        if cache is not None:
            k_BGTd, v_BGTd = cache.update(layer, k_BGTd, v_BGTd)
        out_BHTd = self.attend(q_BHTd, k_BGTd, v_BGTd, mask)
        return self.o_proj(out_BHTd.transpose(1, 2).flatten(2))

    def _narrow(
        self, mask: Tensor | None, x_BTD: Tensor, cache: LayeredCache | None, layer: int
    ) -> Tensor | None:
        """The mask over what is read, narrowed to the window; None where causality says it all."""
        T, past = x_BTD.shape[1], cache.length if cache is not None else 0
        if mask is None and (past + T <= self.window or (T == 1 and cache is not None)):
            return None  # nothing lies outside: the text is short, or the cache has dropped it
        query_T = torch.arange(past, past + T, device=x_BTD.device)
        key_S = query_T if cache is None else cache.positions(layer, T)
        band_TS = window_mask(query_T, key_S, self.window)
        return band_TS if mask is None else mask[..., key_S] & band_TS
