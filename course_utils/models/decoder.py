"""The model of the course: a decoder-only transformer as today's small open models are built.

Each layer adds two things to the stream of token vectors: what attention gathers from earlier
tokens, and what the feed-forward part makes of the token itself. Both read a normalised copy. At
the end a last norm and the head give a score (logit) for every token of the vocabulary. The
feed-forward part is an MLP, or experts from layer `first_k_dense_replace` on if the config has
`moe`. Which attention a layer has, `layer_types` and `mla` say: `blocks` builds it.

The weights carry the names that `transformers` gives them, so that a checkpoint of
`LlamaForCausalLM` or `Qwen3ForCausalLM` loads into this class and the other way round. The parts
`norm`, `rope`, `attend`, `route`, `dispatch`, `latent` and `linear` are arguments: the course's
functions or the learner's.

Left out: dropout (open models are trained without), biases (Qwen3 and Llama dropped them).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils.attention import Cache, KVCache, LayeredCache, causal_mask, fused_attention
from course_utils.layers import Linear, RMSNorm, apply_rope, rms_norm
from course_utils.models.blocks import DecoderLayer, attention, feed_forward, position_tables
from course_utils.models.config import ModelConfig
from course_utils.moe import MoE, route


class Decoder(nn.Module):
    """Embedding, layers, last norm: token ids in, token vectors out."""

    def __init__(self, config: ModelConfig, norm: Callable, attentions: dict, experts: dict):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(
                config,
                norm,
                attention(config, n, norm, **attentions),
                feed_forward(config, n, **experts),
            )
            for n in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, norm)


class DecoderLM(nn.Module):
    """The language model: logits of the next token at every position."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        norm: Callable = rms_norm,
        rope: Callable = apply_rope,
        attend: Callable = fused_attention,
        route: Callable = route,
        dispatch: Callable | None = None,
        latent: dict[str, Callable] | None = None,
        linear: dict[str, Callable] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.config = config
        attentions = {"grouped": {"rope": rope, "attend": attend}}
        attentions |= {"latent": latent or {}, "linear": linear or {}}
        self.model = Decoder(config, norm, attentions, {"route": route, "dispatch": dispatch})
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        if not self.lm_head.weight.is_meta:
            self.initialize(seed)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Normal weights of deviation 0.02; those that write to the stream are scaled down.

        2L parts add to the stream, so the last projection of each starts smaller by sqrt(2L), as in
        GPT-2 (Radford et al. 2019, section 2.3). Norm scales start at 1, biases at 0; attention
        with weights of another kind has a method `initialize(generator)`, called last. The same
        seed gives the same weights on every machine.
        """
        generator = torch.Generator().manual_seed(seed)
        writers = ("o_proj.weight", "out_proj.weight", "down_proj.weight", "w_down_EFD")
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                weight.fill_(0.0 if name.endswith(".bias") else 1.0)
                continue
            deviation = 0.02
            if name.endswith(writers):
                deviation /= (2 * self.config.num_hidden_layers) ** 0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)
        for layer in self.model.layers:
            if hasattr(layer.self_attn, "initialize"):
                layer.self_attn.initialize(generator)

    def forward(
        self,
        ids_BT: Tensor,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits (B, T, V), or (B, 1, V) of the last position with `last_only`.

        ids (B, T) follow what the cache holds. attention_mask (B, S), as in `transformers`, is 1
        for tokens and 0 for padding, over the cached and the new tokens; padding may stand on
        either side. Raises ValueError on empty or misshapen input, IndexError on an id out of
        range.
        """
        x_BTD = self.hidden(ids_BT, cache, attention_mask)
        return self.logits(x_BTD[:, -1:] if last_only else x_BTD)

    def hidden(
        self, ids_BT: Tensor, cache: Cache | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Token vectors (B, T, D) after the last layer, before the last norm. As `forward`."""
        self._check_input(ids_BT, cache, attention_mask)
        past = cache.length if cache is not None else 0
        T = ids_BT.shape[1]
        positions, mask = self._positions_and_mask(past, T, attention_mask, ids_BT.device)
        x_BTD = self.model.embed_tokens(ids_BT)
        tables = self._tables(positions, x_BTD.dtype)
        masks = {"full_attention": mask, "sliding_attention": mask}
        masks["linear_attention"] = None if mask is None else attention_mask.bool()[:, past:]
        for number, layer in enumerate(self.model.layers):
            kind = self.config.layer_type(number)
            x_BTD = layer(x_BTD, *tables[kind], masks[kind], cache, number)
        if cache is not None:
            cache.advance(T)
        return x_BTD

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Logits (B, T, V) of token vectors that `hidden` gave: the last norm and the head."""
        return self.lm_head(self.model.norm(hidden_BTD))

    def _tables(self, positions: Tensor, dtype: torch.dtype) -> dict[str, tuple]:
        """`position_tables` in the model's dtype, shaped to meet (B, H, T, d)."""
        tables = position_tables(self.config, positions)
        for kind, pair in tables.items():
            if positions.dim() == 2:  # they differ from sequence to sequence: room for the heads
                pair = tuple(table if table is None else table[:, None] for table in pair)
            tables[kind] = tuple(table if table is None else table.to(dtype) for table in pair)
        return tables

    @staticmethod
    def _positions_and_mask(past: int, T: int, attention_mask: Tensor | None, device):
        """Position of every new token, and who may look at whom (None: everything earlier)."""
        if attention_mask is None or bool(attention_mask.all()):
            return torch.arange(past, past + T, device=device), None
        real_BS = attention_mask.bool()
        positions_BT = (real_BS.cumsum(-1) - 1).clamp(min=0)[:, past:]
        mask = causal_mask(T, past + T, device) & real_BS[:, None, :]
        # A padding query would see nothing and divide by zero: let it see itself. Nobody sees it.
        own = torch.eye(past + T, dtype=torch.bool, device=device)[past:]
        return positions_BT, (mask | own)[:, None]

    def _check_input(self, ids_BT: Tensor, cache: Cache | None, mask: Tensor | None) -> None:
        if ids_BT.dim() != 2 or 0 in ids_BT.shape:
            raise ValueError(
                f"ids have shape {tuple(ids_BT.shape)}: expected (batch, tokens) with at least one "
                "sequence of at least one token"
            )
        past = cache.length if cache is not None else 0
        total, limit = past + ids_BT.shape[1], self.config.max_position_embeddings
        if total > limit:
            raise ValueError(
                f"{total} tokens are longer than the context of {limit} "
                "(max_position_embeddings): shorten the prompt or generate fewer tokens"
            )
        if mask is not None and tuple(mask.shape) != (ids_BT.shape[0], total):
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}: expected "
                f"{(ids_BT.shape[0], total)}, one entry per cached and new token"
            )
        if ids_BT.device.type == "cpu":
            low, high = int(ids_BT.min()), int(ids_BT.max())
            if low < 0 or high >= self.config.vocab_size:
                raise IndexError(
                    f"token id {low if low < 0 else high} is out of range: the vocabulary has "
                    f"{self.config.vocab_size} tokens; was another model's tokenizer used?"
                )

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> KVCache | LayeredCache:
        """An empty cache for `batch` sequences of up to `capacity` tokens (default: the context).

        Where every layer is full grouped-query attention, the dense cache; else one store a layer.
        """
        config, weight = self.config, self.model.norm.weight
        capacity = capacity or config.max_position_embeddings
        if config.mla is None and config.layer_types is None:
            return KVCache(
                config.num_hidden_layers,
                batch,
                config.num_key_value_heads,
                capacity,
                config.head_dim,
                weight.dtype,
                weight.device,
            )
        layouts = [layer.self_attn.cache_layout() for layer in self.model.layers]
        return LayeredCache(layouts, batch, capacity, weight.dtype, weight.device)

    def count_parameters(self, embedding: bool = True) -> int:
        """Numbers in the model, routing biases included and a tied table once; without
        `embedding`: no table and no head."""
        total = sum(weight.numel() for weight in (*self.parameters(), *self.buffers()))
        if embedding:
            return total
        tables = {id(w): w.numel() for w in (self.model.embed_tokens.weight, self.lm_head.weight)}
        return total - sum(tables.values())

    def activated_parameters(self, embedding: bool = True) -> int:
        """Numbers that one token uses: of each layer's routed experts k of E, all else whole.

        As published counts do, every place of a token is counted as a real expert.
        """
        total = self.count_parameters(embedding)
        for layer in moe_layers(self):
            one = sum(weight[0].numel() for weight in layer.experts.parameters())
            total -= max(0, layer.config.num_experts - layer.config.num_experts_per_tok) * one
        return total


def moe_layers(model: nn.Module) -> list[MoE]:
    """The model's layers of experts, first to last; a dense model has none."""
    return [part for part in model.modules() if isinstance(part, MoE)]
