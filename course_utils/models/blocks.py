"""What a decoder is made of, by its config: the attention of each layer, its feed-forward part, the
layer around both, and the position tables that each kind of attention is given.

`layer_types` and `mla` say which attention a layer has, `moe` which layers have experts. Functions
that may be replaced (norm, rope, attend, ...) are handed through to the part that calls them.

Left out: attention that differs within one kind, such as windows of several widths, and layers that
share weights. Sources: those of the parts.
"""

from collections.abc import Callable

from torch import Tensor, nn

from course_utils.attention import (
    GatedDeltaNet,
    GroupedQueryAttention,
    KimiDeltaAttention,
    LatentAttention,
    LightningAttention,
    yarn_tables,
)
from course_utils.layers import MLP, RMSNorm, rope_tables
from course_utils.models.config import ModelConfig
from course_utils.moe import MoE


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), where mlp is one MLP or a layer of experts."""

    def __init__(self, config: ModelConfig, norm: Callable, attention: nn.Module, mlp: nn.Module):
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, norm)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, norm)

    def forward(self, x_BTD, cos, sin, mask=None, cache=None, layer=0) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos, sin, mask, cache, layer)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


def attention(
    config: ModelConfig, layer: int, norm: Callable, grouped: dict, latent: dict, linear: dict
) -> nn.Module:
    """The attention of one layer. `grouped` (rope, attend) go to grouped-query layers, with a
    window or without, `latent` (rope, naive, absorbed) to latent and `linear` (recurrent, chunked)
    to linear ones."""
    kind, D, heads = config.layer_type(layer), config.hidden_size, config.num_attention_heads
    if kind == "linear_attention":
        return linear_attention(config, layer, norm, linear)
    if kind == "full_attention" and config.mla is not None:
        return LatentAttention(D, heads, config.mla, norm, **latent)
    sizes = (D, heads, config.num_key_value_heads, config.head_dim)
    rest = {"qk_norm": config.use_qk_norm, "eps": config.rms_norm_eps, "norm": norm} | grouped
    window = config.sliding_window if kind == "sliding_attention" else None
    return GroupedQueryAttention(*sizes, **rest, window=window)


def linear_attention(config: ModelConfig, layer: int, norm: Callable, forms: dict) -> nn.Module:
    """A layer with a state of fixed size, of the kind that `config.linear` names."""
    D, kind = config.hidden_size, config.linear.kind
    if kind == "lightning":
        layers = config.num_hidden_layers
        return LightningAttention(D, config.linear, layer, layers, norm, **forms)
    built = GatedDeltaNet if kind == "gated_deltanet" else KimiDeltaAttention
    return built(D, config.linear, config.rms_norm_eps, norm, **forms)


def position_tables(config: ModelConfig, positions: Tensor) -> dict[str, tuple]:
    """Cosine and sine that the layers of each type turn queries and keys by.

    Latent attention turns `qk_rope_head_dim` channels, with YaRN if the config has it; linear
    attention turns none.
    """
    theta, mla = config.rope_theta, config.mla
    tables: dict[str, tuple] = {"linear_attention": (None, None)}
    if mla is None or config.layer_types is not None:
        plain = rope_tables(positions, config.head_dim, theta)
        tables |= {"full_attention": plain, "sliding_attention": plain}
    if mla is not None:
        width, scaling = mla.qk_rope_head_dim, mla.rope_scaling
        given = (positions, width, theta)
        tables["full_attention"] = yarn_tables(*given, scaling) if scaling else rope_tables(*given)
    return tables


def feed_forward(config: ModelConfig, layer: int, **experts) -> nn.Module:
    """The MLP or the MoE of one layer; `experts` (route, dispatch) go to `MoE`."""
    if config.moe is None or layer < config.moe.first_k_dense_replace:
        return MLP(config.hidden_size, config.intermediate_size)
    return MoE(config.hidden_size, config.moe, **experts)
