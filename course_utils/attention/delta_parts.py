"""Parts that Gated DeltaNet and Kimi Delta Attention share: what stands between a layer's
projections and the delta rule.

A short convolution lets a key hold a few tokens and not one alone (what follows "k" is stored under
"k" because of it). The decay is positive by construction and starts spread over memories of one
token to 100,000.

Left out: the convolution's fused kernel and its bias. Sources: as `delta_rule`; starting values as
in the published code of both models.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.attention.config import LinearAttentionConfig
from course_utils.attention.layered_cache import LayeredCache
from course_utils.attention.stores import State


def short_convolution(
    x_BTC: Tensor, weight_CW: Tensor, past_BCw: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """SiLU of a sum over the last W tokens, every channel alone; and the last W - 1 inputs.

    past (B, C, W - 1): inputs that went before; None: zeros.
    """
    (B, T, C), W = x_BTC.shape, weight_CW.shape[1]
    past_BCw = x_BTC.new_zeros(B, C, W - 1) if past_BCw is None else past_BCw
    seen_BCS = torch.cat([past_BCw, x_BTC.mT], dim=-1)
    out_BCT = sum(seen_BCS[..., w : w + T] * weight_CW[:, w, None] for w in range(W))
    return F.silu(out_BCT).mT, seen_BCS[..., T:]


def to_length_one(x_BHTK: Tensor) -> Tensor:
    """x / |x|, with 1e-6 under the root as in the published code."""
    return x_BHTK * torch.rsqrt(x_BHTK.pow(2).sum(-1, keepdim=True) + 1e-6)


def log_decay(a: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    """-exp(A_log) softplus(a + dt_bias), in at least 32 bits."""
    return -at_least_32_bits(A_log).exp() * F.softplus(at_least_32_bits(a) + dt_bias)


def at_least_32_bits(x: Tensor) -> Tensor:
    """x, widened if it is narrower: states add up many small steps."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def delta_attention(
    module: Any,
    qkv_BTC: Tensor,
    g_BTHG: Tensor,
    beta_BTH: Tensor,
    cache: LayeredCache | None,
    layer: int,
) -> Tensor:
    """Convolution, then the delta rule from the cached state on; (B, T, H, V) in qkv's dtype.

    `module` has `config`, `sizes` (channels of q, k and v), `conv1d`, `recurrent` and `chunked`.
    """
    c, dtype = module.config, qkv_BTC.dtype
    state_BHKV, past_BCw = (None, None) if cache is None else cache.read(layer)
    qkv_BTC, past_BCw = short_convolution(qkv_BTC, module.conv1d.weight[:, 0], past_BCw)
    q, k, v = at_least_32_bits(qkv_BTC).split(module.sizes, dim=-1)
    heads, group = c.linear_num_key_heads, c.linear_num_value_heads // c.linear_num_key_heads
    q_BHTK, k_BHTK = (
        to_length_one(x.unflatten(-1, (heads, -1)).transpose(1, 2)).repeat_interleave(group, dim=1)
        for x in (q, k)
    )
    v_BHTV = v.unflatten(-1, (c.linear_num_value_heads, -1)).transpose(1, 2)
    state_BHKV = None if state_BHKV is None else state_BHKV.to(v.dtype)
    form = module.recurrent if qkv_BTC.shape[1] == 1 else module.chunked
    beta_BHT = at_least_32_bits(beta_BTH).transpose(1, 2)
    scaled_BHTK = q_BHTK * c.linear_key_head_dim**-0.5
    out_BHTV, state_BHKV = form(
        scaled_BHTK, k_BHTK, v_BHTV, g_BTHG.transpose(1, 2), beta_BHT, state_BHKV
    )
    if cache is not None:
        cache.update(layer, state_BHKV, past_BCw)
    return out_BHTV.transpose(1, 2).to(dtype)


def delta_layout(config: LinearAttentionConfig, channels: int) -> State:
    """What both layers keep: K x V numbers a head, W - 1 a channel of the convolution."""
    width = (config.linear_key_head_dim, config.linear_value_head_dim)
    state = (config.linear_num_value_heads, *width)
    return State({"state": state, "conv": (channels, config.linear_conv_kernel_dim - 1)})


def depthwise(channels: int, kernel: int) -> nn.Conv1d:
    """The weight of a convolution of every channel alone; `short_convolution` computes it."""
    return nn.Conv1d(channels, channels, kernel, groups=channels, bias=False)


@torch.no_grad()
def start_convolution(weight_C1W: Tensor, generator: torch.Generator) -> None:
    """Uniform within 1 / sqrt(W), PyTorch's rule: the usual 0.02 would all but close it."""
    uniform = torch.rand(weight_C1W.shape, generator=generator) * 2 - 1
    weight_C1W.copy_(uniform * weight_C1W.shape[-1] ** -0.5)


@torch.no_grad()
def start_decay(A_log: Tensor, dt_bias: Tensor, generator: torch.Generator) -> None:
    """exp(A_log) uniform in 0.01 to 16, softplus(dt_bias) log-uniform in 0.001 to 0.1, as in the
    published code: memories of one token to 100,000."""
    A_log.copy_((torch.rand(A_log.shape, generator=generator) * 15.99 + 0.01).log())
    step = 10 ** (torch.rand(dt_bias.shape, generator=generator) * 2 - 3)
    dt_bias.copy_(step.expm1().log())  # the inverse of softplus
