"""One token of one sequence in as few calls as possible: decoding a quantized model fast.

At batch 1 a packed product takes 10 to 50 microseconds, and a call from Python into PyTorch two or
three, whatever it computes. The plain model makes about 90 calls a layer, as much time as its
products. `FastDecoder` makes 32: a norm is a dot product and a multiplication, RoPE turns queries
and keys together, keys and values go into views that are made once a token, and between two
products numbers stay in the kernel's bfloat16. The stream itself is float32.

Speed is the only reason for this file, and it repeats for one row what `DecoderLM` says for all.
Prompts, batches and padding go through the model's own layers, with the same weights and cache. For
dense models with grouped-query attention, in float32 between products, on CPUs. Left out: experts,
latent and linear attention, windows (`FastDecoder` refuses them).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.attention import Cache, KVCache, fused_attention
from course_utils.layers import RMSNorm, apply_rope, rms_norm, rope_tables
from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM
from course_utils.quantization.fused import FusedAttention, FusedMLP, fuse
from course_utils.quantization.kernels import Kernel
from course_utils.quantization.linear import QuantizedLinear


@dataclass(frozen=True)
class Layer:
    """What a step needs of one layer: its norms' scales, its four products, its norms of heads."""

    norm_D: Tensor
    qkv: Kernel
    heads_norm_Hd: Tensor | None  # of queries and keys, a row for each head
    out: Kernel
    mlp_norm_D: Tensor
    gate_up: Kernel
    down: Kernel


class FastDecoder(nn.Module):
    """A quantized `DecoderLM` with a short way for single tokens; same calls, same results.

    Fuses the model in place. Raises ValueError for models that it does not cover.
    """

    def __init__(self, model: DecoderLM):
        super().__init__()
        self.model, self.config = fuse(model).eval(), model.config
        self.layers = [
            _layer(number, layer, model.config) for number, layer in enumerate(model.model.layers)
        ]
        if not isinstance(model.lm_head, QuantizedLinear):
            raise ValueError("the head is not quantized: give 'lm_head' a scheme in the recipe")
        self.zeros_1D = torch.zeros(1, self.config.hidden_size)
        positions = torch.arange(self.config.max_position_embeddings)
        cos_Td, sin_Td = rope_tables(positions, self.config.head_dim, self.config.rope_theta)
        # (a, b) becomes (a cos - b sin, b cos + a sin): `roll` gives (b, a), the sign is put here
        sin_Td[:, : self.config.head_dim // 2] *= -1
        self.tables = torch.stack([cos_Td, sin_Td])

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> KVCache:
        """As `DecoderLM.new_cache`."""
        return self.model.new_cache(batch, capacity)

    def forward(
        self,
        ids_BT: Tensor,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """As `DecoderLM.forward`."""
        short = ids_BT.shape == (1, 1) and isinstance(cache, KVCache) and attention_mask is None
        if not short or torch.is_grad_enabled() or cache.length == cache.capacity:
            return self.model(ids_BT, cache, attention_mask, last_only)
        return self.step(ids_BT, cache)

    def step(self, ids_11: Tensor, cache: KVCache) -> Tensor:
        """Logits (1, 1, V) of the next token after one more id."""
        position, end = cache.length, cache.length + 1
        x_1D = self.model.model.embed_tokens(ids_11[0])
        turn = self._turn(position)
        slots = cache.kv[:, :, 0, :, position].unbind()  # a layer's (2, G, d), to be written
        keys, values = (part.unbind() for part in cache.kv[..., :end, :].unbind(1))
        for layer, slot, k, v in zip(self.layers, slots, keys, values, strict=True):
            heads = layer.qkv.product(self._norm(x_1D, layer.norm_D, layer.qkv))
            out_1D = self._attend(heads, layer, turn, slot, k, v)
            x_1D = x_1D + layer.out.product(out_1D.to(layer.out.activations))
            both = layer.gate_up.product(self._norm(x_1D, layer.mlp_norm_D, layer.gate_up))
            gate_1F, up_1F = both.chunk(2, dim=1)
            x_1D = x_1D + layer.down.product(F.silu(gate_1F).mul_(up_1F))
        cache.advance(1)
        head = self.model.lm_head.kernel
        normed = self._norm(x_1D, self.model.model.norm.weight.detach(), head)
        return head.product(normed).float()[None]

    def _norm(self, x_1D: Tensor, weight_D: Tensor, kernel: Kernel) -> Tensor:
        """`rms_norm` of one token's vector, in the dtype that the kernel takes."""
        x_D = x_1D[0]
        mean_square = torch.dot(x_D, x_D).item() / x_D.numel()
        factor = (mean_square + self.config.rms_norm_eps) ** -0.5
        normed = torch.empty_like(x_1D, dtype=kernel.activations)
        return torch.addcmul(self.zeros_1D, x_1D, weight_D, value=factor, out=normed)

    def _turn(self, position: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine for the heads of q, k and v (H + 2G, d); values are not turned."""
        G, d = self.config.num_key_value_heads, self.config.head_dim
        turned = self.config.num_attention_heads + G
        cos_d, sin_d = self.tables[:, position]
        cos = torch.cat([cos_d.expand(turned, d), torch.ones(G, d)])
        return cos, torch.cat([sin_d.expand(turned, d), torch.zeros(G, d)])

    def _attend(self, heads, layer: Layer, turn: tuple, slot: Tensor, k: Tensor, v: Tensor):
        """Attention of one token, (1, H * d), whose key and value go into `slot`."""
        G, d = self.config.num_key_value_heads, self.config.head_dim
        heads = heads.view(-1, d).float()
        if layer.heads_norm_Hd is not None:
            normed = F.rms_norm(heads[:-G], (d,), None, self.config.rms_norm_eps)
            heads = torch.cat([normed * layer.heads_norm_Hd, heads[-G:]])
        heads = torch.addcmul(heads * turn[0], heads.roll(d // 2, 1), turn[1])
        slot.copy_(heads[-2 * G :].view(2, G, d))
        q_1Ghd = heads[: -2 * G].view(1, G, -1, d)
        return F.scaled_dot_product_attention(q_1Ghd, k, v).view(1, -1)


def _layer(number: int, layer: nn.Module, config: ModelConfig) -> Layer:
    """The parts of a fused layer. ValueError for one that is not covered, saying why."""
    attn, mlp = layer.self_attn, layer.mlp
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    if not (isinstance(attn, FusedAttention) and isinstance(mlp, FusedMLP)):
        raise ValueError(
            f"layer {number} has {type(attn).__name__} and {type(mlp).__name__}: FastDecoder needs "
            "grouped-query attention and an MLP, all of whose weights are quantized alike; use "
            "the model as it is"
        )
    used = (attn.attend, attn.rope, *(norm.function for norm in norms))
    if used != (fused_attention, apply_rope, rms_norm, rms_norm):
        raise ValueError(f"layer {number} has functions of its own: FastDecoder would bypass them")
    parts = (attn.qkv_proj, attn.o_proj, mlp.gate_up_proj, mlp.down_proj)
    if not all(isinstance(part, QuantizedLinear) for part in parts):
        raise ValueError(f"layer {number}: quantize o_proj and down_proj as well")
    heads_norm_Hd = None
    if isinstance(attn.q_norm, RMSNorm):
        counts = (config.num_attention_heads, config.num_key_value_heads)
        scales = (attn.q_norm.weight, attn.k_norm.weight)
        pairs = zip(scales, counts, strict=True)
        heads_norm_Hd = torch.cat([scale.detach().expand(n, -1) for scale, n in pairs])
    qkv, out, gate_up, down = (part.kernel for part in parts)
    one, two = (norm.weight.detach() for norm in norms)
    return Layer(one, qkv, heads_norm_Hd, out, two, gate_up, down)
