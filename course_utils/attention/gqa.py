"""Grouped-query attention (GQA): H query heads share G key-value heads; H = G is multi-head
attention (MHA), G = 1 multi-query attention (MQA).

Two functions compute it. `grouped_query_attention` spells the equation out and is what chapter 02
teaches. `fused_attention` gives the same numbers through PyTorch's kernel without ever holding the
T x S scores, and is what the model runs by default.

Both are causal, aligned at the end: of S keys the last T belong to the T queries, so that query t
sees the keys up to S - T + t. That is one rule for training (T = S) and for decoding (T = 1).

Source: Ainslie et al. 2023, "GQA", section 2.2; the norm on queries and keys is Qwen3's
(Qwen3 technical report, section 2). Config keys `num_attention_heads`, `num_key_value_heads`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.attention.cache import Cache, attend_cached
from course_utils.attention.stores import Tokens
from course_utils.attention.window import narrow
from course_utils.layers import Linear, RMSNorm, apply_rope, rms_norm


def grouped_query_attention(
    q_HTd: Tensor, k_GSd: Tensor, v_GSd: Tensor, mask_TS: Tensor | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, where query heads h, h + 1, ... of one group share a key head.

    Shapes: q (..., H, T, d), k and v (..., G, S, d) with H a multiple of G; the result is
    (..., H, T, d). mask is True where a query may look; without one, query t sees the keys up to
    S - T + t. Raises ValueError when G does not divide H.
    """
    if q_HTd.shape[-3] % k_GSd.shape[-3]:
        raise ValueError(
            f"{q_HTd.shape[-3]} query heads cannot share {k_GSd.shape[-3]} key-value heads: "
            "the second must divide the first"
        )
    group = q_HTd.shape[-3] // k_GSd.shape[-3]
    k_HSd = k_GSd.repeat_interleave(group, dim=-3)
    v_HSd = v_GSd.repeat_interleave(group, dim=-3)
    scores_HTS = q_HTd @ k_HSd.transpose(-2, -1) / math.sqrt(q_HTd.shape[-1])
    if mask_TS is None:
        mask_TS = causal_mask(q_HTd.shape[-2], k_GSd.shape[-2], q_HTd.device)
    scores_HTS = scores_HTS.masked_fill(~mask_TS, -math.inf)
    return scores_HTS.softmax(dim=-1) @ v_HSd


def causal_mask(queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
    """(T, S) of booleans: True where query t may see key s, that is where s <= S - T + t."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def fused_attention(
    q_BHTd: Tensor, k_BGSd: Tensor, v_BGSd: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`grouped_query_attention` through `F.scaled_dot_product_attention`; shapes (B, heads, .,
    d)."""
    B, H, T, d = q_BHTd.shape
    S = k_BGSd.shape[2]
    if T == 1 and (mask is None or mask.shape[0] == B):
        # One query per head: the heads of a group become the rows of one product, uncopied.
        rows = q_BHTd.view(B, k_BGSd.shape[1], -1, d)
        return F.scaled_dot_product_attention(rows, k_BGSd, v_BGSd, mask).reshape(B, H, T, d)
    if mask is None and T == S:
        # In memory the heads lie between tokens and channels; laid out in order, reading is faster.
        q_BHTd, k_BGSd, v_BGSd = (x.contiguous() for x in (q_BHTd, k_BGSd, v_BGSd))
        return F.scaled_dot_product_attention(
            q_BHTd, k_BGSd, v_BGSd, is_causal=True, enable_gqa=True
        )
    mask = causal_mask(T, S, q_BHTd.device) if mask is None else mask
    return F.scaled_dot_product_attention(q_BHTd, k_BGSd, v_BGSd, mask, enable_gqa=True)


class GroupedQueryAttention(nn.Module):
    """Projections, norm on q and k where the model has it, RoPE, cache, attention, projection.

    Names of the weights as in `transformers`. `norm`, `rope` and `attend` may be any functions with
    the signatures of `rms_norm`, `apply_rope` and `grouped_query_attention`. `window`: look at the
    last so many tokens only, and keep no others (config key `sliding_window`).
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        qk_norm: bool,
        eps: float,
        norm: Callable = rms_norm,
        rope: Callable = apply_rope,
        attend: Callable = fused_attention,
        window: int | None = None,
    ):
        super().__init__()
        self.q_proj = Linear(hidden_size, heads * head_dim, bias=False)
        self.k_proj = Linear(hidden_size, kv_heads * head_dim, bias=False)
        self.v_proj = Linear(hidden_size, kv_heads * head_dim, bias=False)
        self.o_proj = Linear(heads * head_dim, hidden_size, bias=False)
        self.q_norm = RMSNorm(head_dim, eps, norm) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim, eps, norm) if qk_norm else nn.Identity()
        self.head_dim, self.window = head_dim, window
        self.rope = rope
        self.attend = attend

    def cache_layout(self) -> Tokens:
        """A key and a value for each key-value head, of the last `window` tokens if given."""
        width = (self.k_proj.out_features // self.head_dim, self.head_dim)
        return Tokens({"k": width, "v": width}, self.window)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Tensor:
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BHTd = self.q_norm(self.q_proj(x_BTD).view(heads)).transpose(1, 2)
        k_BGTd = self.k_norm(self.k_proj(x_BTD).view(heads)).transpose(1, 2)
        v_BGTd = self.v_proj(x_BTD).view(heads).transpose(1, 2)
        q_BHTd, k_BGTd = self.rope(q_BHTd, cos, sin), self.rope(k_BGTd, cos, sin)
        if self.window is not None:
            mask = narrow(mask, x_BTD, self.window, cache, layer)
        out_BHTd = attend_cached(cache, layer, self.attend, q_BHTd, (k_BGTd, v_BGTd), mask)
        return self.o_proj(out_BHTd.transpose(1, 2).flatten(2))
