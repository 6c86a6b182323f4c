"""Multi-token prediction (MTP): a small module that predicts one token further than the model.

The trunk's vector h_i at token t_i predicts t_(i+1). The module takes that vector and the next
token's embedding, each normalised, joins them, and runs one more decoder layer:

    x_i = eh_proj(cat(enorm(emb(t_(i+1))), hnorm(h_i)))      h'_i = layer(x_i)

h'_i has seen t_(i+1), so it predicts t_(i+2). Embedding and head are the trunk's, so a module costs
one layer, a projection and three norms. Trained with the trunk it is a second training signal; at
inference it can be dropped, or used as a draft: one pass predicts the second token, and with h'_i
in place of a true vector it chains to a third, a fourth, ...

h is taken before the trunk's last norm; `hnorm` normalises it. Weights are named as in
DeepSeek-V3's checkpoint, with `layer.` before the decoder layer's and `norm` for
`shared_head.norm`.
Left out: more than one module (DeepSeek-V3 trained and released one), padding, and other
attention than grouped-query in the module's layer. `mtp_training` has what training needs.

Source: DeepSeek-V3 technical report, section 2.2, equations 21 to 25; `num_nextn_predict_layers`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_utils.attention import Cache, GroupedQueryAttention, KVCache, fused_attention
from course_utils.layers import Linear, RMSNorm, apply_rope, linear, rms_norm, rope_tables
from course_utils.models.blocks import DecoderLayer, feed_forward
from course_utils.models.checkpoints import SHIPPED, read_header
from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM


def mtp_input(
    hidden_BTD: Tensor,
    ids_BS: Tensor,
    table_VD: Tensor,
    enorm: Callable[[Tensor], Tensor],
    hnorm: Callable[[Tensor], Tensor],
    eh_proj: Callable[[Tensor], Tensor],
) -> Tensor:
    """eh_proj(cat(enorm(embedding of the NEXT token), hnorm(hidden))), for every position.

    Shapes: hidden (B, T, D); ids (B, T + 1), the tokens at these positions and the one after;
    table (V, D); enorm and hnorm keep the shape, eh_proj maps (..., 2D) to (..., D).
    """
    next_BTD = F.embedding(ids_BS[:, 1:], table_VD)
    return eh_proj(torch.cat([enorm(next_BTD), hnorm(hidden_BTD)], dim=-1))


def mtp_loss(logits_BTV: Tensor, ids_BS: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of the module's logits at i against the id at i + 2.

    Shapes: ids (B, T + 1) with T at least 2; logits (B, T, V) of positions 0 to T - 1, whose module
    has seen the ids up to i + 1. The answer of the last position is not known.
    """
    if logits_BTV.shape[1] != ids_BS.shape[1] - 1 or ids_BS.shape[1] < 3:
        raise ValueError(
            f"logits {tuple(logits_BTV.shape)} and ids {tuple(ids_BS.shape)}: expected (B, T, V) "
            "and (B, T + 1) with T at least 2"
        )
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BS[:, 2:].flatten())


class MTPModule(nn.Module):
    """The module of depth 1. It borrows embedding and head from the trunk of its calls."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        join: Callable = mtp_input,
        norm: Callable = rms_norm,
        rope: Callable = apply_rope,
        attend: Callable = fused_attention,
        seed: int = 0,
    ):
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.config, self.join = config, join
        self.enorm, self.hnorm = RMSNorm(D, eps, norm), RMSNorm(D, eps, norm)
        self.eh_proj = Linear(2 * D, D, bias=False)
        attention = GroupedQueryAttention(
            D,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.use_qk_norm,
            eps,
            norm,
            rope,
            attend,
        )
        mlp = feed_forward(config, config.num_hidden_layers - 1)
        self.layer = DecoderLayer(config, norm, attention, mlp)
        self.norm = RMSNorm(D, eps, norm)
        self.initialize(seed)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Norms 1, all else normal of deviation 0.02."""
        generator = torch.Generator().manual_seed(seed)
        for weight in self.parameters():
            random = torch.randn(weight.shape, generator=generator) * 0.02
            weight.copy_(random if weight.dim() > 1 else torch.ones_like(weight))

    def forward(
        self, trunk: DecoderLM, hidden_BTD: Tensor, ids_BS: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """The module's own vectors h' (B, T, D), which `logits` turns into predictions.

        hidden (B, T, D) from `trunk.hidden`, ids (B, T + 1) as in `mtp_input`; both follow what the
        cache holds.
        """
        table_VD = trunk.model.embed_tokens.weight
        x_BTD = self.join(hidden_BTD, ids_BS, table_VD, self.enorm, self.hnorm, self.eh_proj)
        past, T = cache.length if cache is not None else 0, x_BTD.shape[1]
        positions_T = torch.arange(past, past + T, device=x_BTD.device)
        cos, sin = rope_tables(positions_T, self.config.head_dim, self.config.rope_theta)
        x_BTD = self.layer(x_BTD, cos.to(x_BTD.dtype), sin.to(x_BTD.dtype), None, cache, 0)
        if cache is not None:
            cache.advance(T)
        return x_BTD

    def logits(self, trunk: DecoderLM, hidden_BTD: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after the next: the module's norm, the trunk's head."""
        return linear(self.norm(hidden_BTD), trunk.lm_head.weight)

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> KVCache:
        """An empty cache for the module's one layer."""
        config, weight = self.config, self.eh_proj.weight
        capacity = capacity or config.max_position_embeddings
        heads, width = config.num_key_value_heads, config.head_dim
        return KVCache(1, batch, heads, capacity, width, weight.dtype, weight.device)


def save_mtp(mtp: MTPModule, path: Path | str, lineage: dict) -> None:
    """Write the module's weights in bfloat16, with config and lineage as `save_checkpoint` does."""
    tensors = {name: w.detach().to("cpu", torch.bfloat16) for name, w in mtp.state_dict().items()}
    header = {"config": json.dumps(mtp.config.to_dict()), "lineage": json.dumps(lineage)}
    partial = Path(path).with_suffix(".partial")
    save_file(tensors, partial, {"format": "pt"} | header)
    partial.replace(path)


def shipped_mtp(path: Path | str = SHIPPED / "mtp.safetensors", **parts) -> MTPModule:
    """The module that comes with the package, trained on `shipped("dense")`, in float32.

    `parts` (join, norm, rope, attend) go to `MTPModule`. Raises ValueError for a missing, truncated
    or foreign file, naming it.
    """
    mtp = MTPModule(ModelConfig.from_dict(read_header(path)["config"]), **parts)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    try:
        mtp.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold an MTP module: {error}") from None
    return mtp.eval()
