"""The layer around lightning attention, as MiniMax-Text-01 has it.

Queries, keys and values come from one projection and SiLU; the result of all heads is normed as one
vector and meets a sigmoid gate. Kept is one square state per head.

Left out: RoPE, which these layers do not have, and biases. Source: MiniMax-01 (arXiv 2501.08313),
section 2.2; names of the weights as in `MiniMaxLightningAttention` of `transformers`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.attention.config import LinearAttentionConfig
from course_utils.attention.layered_cache import LayeredCache
from course_utils.attention.lightning import (
    chunked_lightning,
    lightning_slopes,
    recurrent_lightning,
)
from course_utils.attention.stores import State
from course_utils.layers import Linear, RMSNorm, rms_norm


class LightningAttention(nn.Module):
    """MiniMax's linear layer, number `layer` of `layers`, which sets its slopes.

    `norm`, `recurrent` and `chunked` may be any functions with the signatures of `rms_norm`,
    `recurrent_lightning` and `chunked_lightning`. The norm's epsilon is 1e-6, as in MiniMax's code.
    """

    def __init__(
        self,
        hidden_size: int,
        config: LinearAttentionConfig,
        layer: int,
        layers: int,
        norm: Callable = rms_norm,
        recurrent: Callable = recurrent_lightning,
        chunked: Callable = chunked_lightning,
    ):
        super().__init__()
        self.heads, self.width = config.linear_num_value_heads, config.linear_value_head_dim
        self.layer, self.layers = layer, layers
        self.recurrent, self.chunked = recurrent, chunked
        inner = self.heads * self.width
        self.qkv_proj = Linear(hidden_size, 3 * inner, bias=False)
        self.output_gate = Linear(hidden_size, inner, bias=False)
        self.norm = RMSNorm(inner, 1e-6, norm)
        self.out_proj = Linear(inner, hidden_size, bias=False)

    def cache_layout(self) -> State:
        """One square state per head."""
        return State({"state": (self.heads, self.width, self.width)})

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        mask_BT: Tensor | None = None,
        cache: LayeredCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(B, T, D) to the same shape; cos and sin are not used. mask False: padding, which must
        stand before the text, and writes nothing."""
        qkv_BTC = F.silu(self.qkv_proj(x_BTD))
        qkv_BTC = qkv_BTC if mask_BT is None else qkv_BTC * mask_BT[..., None]
        wide = torch.promote_types(x_BTD.dtype, torch.float32)  # states add up many small steps
        heads_BHTC = qkv_BTC.to(wide).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q_BHTd, k_BHTd, v_BHTd = heads_BHTC.split(self.width, dim=-1)
        slope_H = lightning_slopes(self.heads, self.layer, self.layers).to(q_BHTd)
        state_BHdd = None if cache is None else cache.read(layer)[0].to(wide)
        form = self.recurrent if x_BTD.shape[1] == 1 else self.chunked
        out_BHTd, state_BHdd = form(q_BHTd, k_BHTd, v_BHTd, slope_H, state_BHdd)
        if cache is not None:
            cache.update(layer, state_BHdd)
        out_BTC = self.norm(out_BHTd.transpose(1, 2).flatten(2).to(x_BTD.dtype))
        return self.out_proj(out_BTC * self.output_gate(x_BTD).sigmoid())
