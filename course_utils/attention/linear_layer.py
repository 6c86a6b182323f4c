"""Layers around the delta rule: Gated DeltaNet as in Qwen3-Next, Kimi Delta Attention (KDA).

    q, k, v      projections, then a short convolution over the last W tokens, then SiLU
    q, k         to length 1, so that k k^T corrects along one direction; q also by 1 / sqrt(K)
    beta         sigmoid of a projection: how much is replaced
    g            -exp(A_log) softplus(a + dt_bias): the log decay, one a head, or (KDA) a channel
    output       norm of each head's result, times a gate; then the last projection

A prompt is read in chunks and a single token by the recurrence. Kept are the state and the last
W - 1 inputs of the convolution. Positions need no RoPE: order is in the decay and the convolution.

Left out: fused kernels, biases. Sources: as `delta_rule`; names of the weights, and their grouping
inside `in_proj_qkvz`, as in `transformers` (`Qwen3NextGatedDeltaNet`, `KimiLinearDeltaAttention`).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.attention.config import LinearAttentionConfig
from course_utils.attention.delta_parts import (
    delta_attention,
    delta_layout,
    depthwise,
    log_decay,
    start_convolution,
    start_decay,
)
from course_utils.attention.delta_rule import chunked_delta_rule, recurrent_delta_rule
from course_utils.attention.layered_cache import LayeredCache
from course_utils.attention.stores import State
from course_utils.layers import Linear, RMSNorm, rms_norm


class GatedDeltaNet(nn.Module):
    """Qwen3-Next's linear layer. `norm`, `recurrent` and `chunked` may be any functions with the
    signatures of `rms_norm`, `recurrent_delta_rule` and `chunked_delta_rule`."""

    def __init__(
        self,
        hidden_size: int,
        config: LinearAttentionConfig,
        eps: float = 1e-6,
        norm: Callable = rms_norm,
        recurrent: Callable = recurrent_delta_rule,
        chunked: Callable = chunked_delta_rule,
    ):
        super().__init__()
        self.config, self.recurrent, self.chunked = config, recurrent, chunked
        heads, width = config.linear_num_value_heads, config.linear_value_head_dim
        self.sizes = (config.linear_num_key_heads * config.linear_key_head_dim,) * 2
        self.sizes += (heads * width,)  # of q, k and v
        inputs = sum(self.sizes) + heads * width
        self.in_proj_qkvz = Linear(hidden_size, inputs, bias=False)
        self.in_proj_ba = Linear(hidden_size, 2 * heads, bias=False)
        self.conv1d = depthwise(sum(self.sizes), config.linear_conv_kernel_dim)
        self.dt_bias = nn.Parameter(torch.ones(heads))
        self.A_log = nn.Parameter(torch.zeros(heads))
        self.norm = RMSNorm(width, eps, norm)
        self.out_proj = Linear(heads * width, hidden_size, bias=False)

    def initialize(self, generator: torch.Generator) -> None:
        """Decays and convolution as these layers are started."""
        start_decay(self.A_log, self.dt_bias, generator)
        start_convolution(self.conv1d.weight, generator)

    def cache_layout(self) -> State:
        """A state for every value head, and the last inputs of the convolution."""
        return delta_layout(self.config, sum(self.sizes))

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
        x_BTD = x_BTD if mask_BT is None else x_BTD * mask_BT[..., None]
        c = self.config
        heads_of_keys = (c.linear_num_key_heads, -1)
        values = c.linear_num_value_heads // c.linear_num_key_heads * c.linear_value_head_dim
        parts = [c.linear_key_head_dim, c.linear_key_head_dim, values, values]
        q, k, v, z = self.in_proj_qkvz(x_BTD).unflatten(-1, heads_of_keys).split(parts, dim=-1)
        b, a = self.in_proj_ba(x_BTD).unflatten(-1, heads_of_keys).chunk(2, dim=-1)
        beta_BTH, g_BTH = b.flatten(2).sigmoid(), log_decay(a.flatten(2), self.A_log, self.dt_bias)
        qkv_BTC = torch.cat([q.flatten(2), k.flatten(2), v.flatten(2)], dim=-1)
        out_BTHV = delta_attention(self, qkv_BTC, g_BTH[..., None], beta_BTH, cache, layer)
        gate_BTHV = F.silu(z.flatten(2).unflatten(-1, out_BTHV.shape[2:]))
        return self.out_proj((self.norm(out_BTHV) * gate_BTHV).flatten(2))


class ForgetGate(nn.Module):
    """KDA's log decay (B, T, H, K), one for every channel, through a bottleneck of one head."""

    def __init__(self, hidden_size: int, heads: int, width: int):
        super().__init__()
        self.f_a_proj = Linear(hidden_size, width, bias=False)
        self.f_b_proj = Linear(width, heads * width, bias=False)
        self.dt_bias = nn.Parameter(torch.ones(heads * width))
        self.A_log = nn.Parameter(torch.zeros(1, 1, heads, 1))

    def forward(self, x_BTD: Tensor) -> Tensor:
        heads = (self.A_log.shape[2], -1)
        a_BTHK = self.f_b_proj(self.f_a_proj(x_BTD)).unflatten(-1, heads)
        return log_decay(a_BTHK, self.A_log, self.dt_bias.view(heads))


class KimiDeltaAttention(nn.Module):
    """Kimi Linear's layer; the functions as in `GatedDeltaNet`."""

    def __init__(
        self,
        hidden_size: int,
        config: LinearAttentionConfig,
        eps: float = 1e-6,
        norm: Callable = rms_norm,
        recurrent: Callable = recurrent_delta_rule,
        chunked: Callable = chunked_delta_rule,
    ):
        super().__init__()
        self.config, self.recurrent, self.chunked = config, recurrent, chunked
        heads, width = config.linear_num_value_heads, config.linear_value_head_dim
        inner = heads * width
        self.sizes = (inner, inner, inner)
        self.q_proj = Linear(hidden_size, inner, bias=False)
        self.k_proj = Linear(hidden_size, inner, bias=False)
        self.v_proj = Linear(hidden_size, inner, bias=False)
        self.conv1d = depthwise(3 * inner, config.linear_conv_kernel_dim)
        self.forget_gate = ForgetGate(hidden_size, heads, width)
        self.b_proj = Linear(hidden_size, heads, bias=False)
        self.g_a_proj = Linear(hidden_size, width, bias=False)
        self.g_b_proj = Linear(width, inner, bias=False)
        self.o_norm = RMSNorm(width, eps, norm)
        self.o_proj = Linear(inner, hidden_size, bias=False)

    def initialize(self, generator: torch.Generator) -> None:
        """Decays and convolution as these layers are started."""
        start_decay(self.forget_gate.A_log, self.forget_gate.dt_bias, generator)
        start_convolution(self.conv1d.weight, generator)

    def cache_layout(self) -> State:
        """A state for every head, and the last inputs of the convolution."""
        return delta_layout(self.config, sum(self.sizes))

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        mask_BT: Tensor | None = None,
        cache: LayeredCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """As `GatedDeltaNet.forward`."""
        x_BTD = x_BTD if mask_BT is None else x_BTD * mask_BT[..., None]
        qkv_BTC = torch.cat([self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)], dim=-1)
        g_BTHK, beta_BTH = self.forget_gate(x_BTD), self.b_proj(x_BTD).sigmoid()
        out_BTHV = delta_attention(self, qkv_BTC, g_BTHK, beta_BTH, cache, layer)
        gate_BTHV = self.g_b_proj(self.g_a_proj(x_BTD)).unflatten(-1, out_BTHV.shape[2:]).sigmoid()
        return self.o_proj((self.o_norm(out_BTHV) * gate_BTHV).flatten(2))
