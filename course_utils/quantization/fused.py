"""One packed product in place of several that read the same input: q, k and v; gate and up.

A row of input meets a weight of 192 rows in ten microseconds, of which starting two threads takes
half. Joined, the rows of q, k and v are one weight, and the two of the MLP are another: four
products a layer in place of seven, with the same numbers. vLLM joins them likewise, and with its
names (`qkv_proj`, `gate_up_proj`).

For layers with grouped-query attention and an MLP; others stay as they are. A fused model is for
running: save it before. Left out: joining parts of different schemes (they stay apart).
"""

import torch
from torch import Tensor, nn

from course_utils.attention import GroupedQueryAttention
from course_utils.attention.cache import attend_cached
from course_utils.attention.stores import Tokens
from course_utils.layers import MLP, swiglu
from course_utils.models.decoder import DecoderLM
from course_utils.quantization.kernels import choose_kernel
from course_utils.quantization.linear import QuantizedLinear
from course_utils.quantization.packed import PackedWeight


def fuse(model: DecoderLM) -> DecoderLM:
    """Join the products of every layer that allows it, in place; returns the model."""
    for layer in model.model.layers:
        attn, mlp = layer.self_attn, layer.mlp
        plain = isinstance(attn, GroupedQueryAttention) and attn.window is None
        if plain and can_join([attn.q_proj, attn.k_proj, attn.v_proj]):
            layer.self_attn = FusedAttention(attn)
        if isinstance(mlp, MLP) and can_join([mlp.gate_proj, mlp.up_proj]):
            layer.mlp = FusedMLP(mlp)
    return model


def can_join(layers: list[nn.Module]) -> bool:
    """Are all quantized, by one scheme with scales per row, for one kernel, without biases?"""
    if not all(isinstance(layer, QuantizedLinear) and layer.bias is None for layer in layers):
        return False
    args = {layer.kernel.args for layer in layers}
    same = len(args) == 1 and len({layer.kernel.name for layer in layers}) == 1
    return same and args.pop().strategy != "tensor"


def join(layers: list[QuantizedLinear]) -> QuantizedLinear:
    """The layers' rows, one below the other, as one layer."""
    weights = [layer.kernel.packed_weight() for layer in layers]
    parts = [weight.tensors() for weight in weights]
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    joined = PackedWeight.from_tensors(tensors, weights[0].args, weights[0].shape[1])
    return QuantizedLinear(choose_kernel(joined, layers[0].kernel.name))


class FusedAttention(nn.Module):
    """`GroupedQueryAttention` with one product for queries, keys and values."""

    def __init__(self, attn: GroupedQueryAttention):
        super().__init__()
        parts = [attn.q_proj, attn.k_proj, attn.v_proj]
        self.widths = [part.out_features for part in parts]
        self.layout = attn.cache_layout()
        self.qkv_proj, self.o_proj = join(parts), attn.o_proj
        self.q_norm, self.k_norm = attn.q_norm, attn.k_norm
        self.head_dim, self.rope, self.attend = attn.head_dim, attn.rope, attn.attend

    def cache_layout(self) -> Tokens:
        """That of the layer it was made from."""
        return self.layout

    def forward(self, x_BTD, cos, sin, mask=None, cache=None, layer=0) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in self.qkv_proj(x_BTD).split(self.widths, dim=-1)
        )
        q_BHTd = self.rope(self.q_norm(q).transpose(1, 2), cos, sin)
        k_BGTd, v_BGTd = self.rope(self.k_norm(k).transpose(1, 2), cos, sin), v.transpose(1, 2)
        out_BHTd = attend_cached(cache, layer, self.attend, q_BHTd, (k_BGTd, v_BGTd), mask)
        return self.o_proj(out_BHTd.transpose(1, 2).flatten(2))


class FusedMLP(nn.Module):
    """`MLP` with one product for gate and up."""

    def __init__(self, mlp: MLP):
        super().__init__()
        self.gate_up_proj, self.down_proj = join([mlp.gate_proj, mlp.up_proj]), mlp.down_proj

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TF, up_TF = self.gate_up_proj(x_TD).chunk(2, dim=-1)
        return self.down_proj(swiglu(gate_TF, up_TF))
