"""Attention as it is counted: grouped queries (MHA and MQA are its ends) and latents.

Every kind answers three questions: which weights it stores, what it keeps of the tokens it has
seen, and what reading that costs. In shapes: D model width, H query heads, G key-value heads,
d head width.

    keys and values    2 G d numbers a token; a score and a sum cost 2 H d operations each
    latents (MLA)      rank + rope numbers a token, for all heads together

Left out: operations of norms, RoPE and softmax, which are small beside the products.
Sources: arXiv 2305.13245 (grouped queries), 2405.04434 section 2.1 (latents); shapes as in
`transformers` 5.23.
"""

from dataclasses import dataclass
from typing import Protocol

from course_utils.accounting.indexers import BlockIndexer, LightningIndexer
from course_utils.accounting.tensors import (
    ATTENTION,
    BIASES,
    NORMS,
    Span,
    Weight,
    matrix,
    vector,
)


class Attention(Protocol):
    """What every kind of attention answers."""

    label: str

    def weights(self, hidden_size: int) -> list[Weight]:
        """The weights of one layer."""
        ...

    def keeps(self) -> list[Span]:
        """Numbers kept of the tokens seen so far, in one layer."""
        ...

    def reads(self, absorbed: bool = False) -> list[Span]:
        """Operations, for one token, of reading what is visible; absorbed: in the latent space."""
        ...


@dataclass(frozen=True)
class GroupedQueryAttention:
    """Keys and values of `num_key_value_heads` heads, each shared by a group of query heads.

    qk_norm is "" (none), "per_head" (one scale of head_dim) or "per_layer" (over all heads).
    shares_cache: keys and values come from an earlier layer (cross-layer attention).
    """

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qk_norm: str = ""
    qkv_bias: bool = False
    o_bias: bool = False
    output_gate: bool = False
    sinks: bool = False
    sliding_window: int | None = None
    shares_cache: bool = False
    index: BlockIndexer | None = None

    @property
    def label(self) -> str:
        """Such as "GQA" or "window of 128"."""
        heads = (self.num_attention_heads, self.num_key_value_heads)
        name = "MHA" if heads[0] == heads[1] else "MQA" if heads[1] == 1 else "GQA"
        name += f", window {self.sliding_window}" if self.sliding_window else ""
        name += ", shared cache" if self.shares_cache else ""
        return name + (", indexer" if self.index else "")

    def weights(self, hidden_size: int) -> list[Weight]:
        """Projections, then biases, norms and sinks where there are any."""
        D, d = hidden_size, self.head_dim
        query, key = self.num_attention_heads * d, self.num_key_value_heads * d
        into = {"q_proj": query * (2 if self.output_gate else 1)}
        into |= {} if self.shares_cache else {"k_proj": key, "v_proj": key}
        found = [matrix(name, ATTENTION, D, size) for name, size in into.items()]
        found.append(matrix("o_proj", ATTENTION, query, D))
        if self.qkv_bias:
            found += [vector(f"{name}.bias", BIASES, size) for name, size in into.items()]
        if self.o_bias:
            found.append(vector("o_proj.bias", BIASES, D))
        if self.qk_norm:
            sizes = (query, key) if self.qk_norm == "per_layer" else (d, d)
            found += [vector("q_norm", NORMS, sizes[0]), vector("k_norm", NORMS, sizes[1])]
        if self.sinks:
            found.append(vector("sinks", ATTENTION, self.num_attention_heads))
        return found + (self.index.weights(D) if self.index else [])

    def keeps(self) -> list[Span]:
        """A key and a value for each key-value head, unless an earlier layer keeps them."""
        if self.shares_cache:
            return []
        own = Span(2 * self.num_key_value_heads * self.head_dim, self.sliding_window)
        return [own, *(self.index.keeps() if self.index else [])]

    def reads(self, absorbed: bool = False) -> list[Span]:
        """A score and a weighted sum for each query head; an indexer chooses what is read."""
        limit = self.index.visible if self.index else self.sliding_window
        own = Span(4 * self.num_attention_heads * self.head_dim, limit)
        return [own, *(self.index.reads() if self.index else [])]


@dataclass(frozen=True)
class LatentAttention:
    """MLA: keys and values of all heads are rebuilt from one latent; RoPE has a key of its own.

    q_lora_rank None: queries are not compressed (V2-Lite, Kimi-Linear).
    """

    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    bias: bool = False
    index: LightningIndexer | None = None

    @property
    def label(self) -> str:
        """MLA, with its indexer if it has one."""
        return "MLA, indexer" if self.index else "MLA"

    def weights(self, hidden_size: int) -> list[Weight]:
        """Down to the latents, up to the heads, the norms between, and the output."""
        D, H, rank = hidden_size, self.num_attention_heads, self.kv_lora_rank
        up = H * (self.qk_nope_head_dim + self.v_head_dim)
        found = [
            *self._queries(D),
            matrix("kv_a_proj_with_mqa", ATTENTION, D, rank + self.qk_rope_head_dim),
            vector("kv_a_layernorm", NORMS, rank),
            matrix("kv_b_proj", ATTENTION, rank, up),
            matrix("o_proj", ATTENTION, H * self.v_head_dim, D),
        ]
        if self.bias:
            found.append(vector("kv_a_proj_with_mqa.bias", BIASES, rank + self.qk_rope_head_dim))
            found.append(vector("o_proj.bias", BIASES, D))
        if self.index:
            found += self.index.weights(D, self.q_lora_rank or D)
        return found

    def _queries(self, D: int) -> list[Weight]:
        query = self.num_attention_heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        if self.q_lora_rank is None:
            return [matrix("q_proj", ATTENTION, D, query)]
        found = [
            matrix("q_a_proj", ATTENTION, D, self.q_lora_rank),
            vector("q_a_layernorm", NORMS, self.q_lora_rank),
            matrix("q_b_proj", ATTENTION, self.q_lora_rank, query),
        ]
        return [*found, vector("q_a_proj.bias", BIASES, self.q_lora_rank)] if self.bias else found

    def keeps(self) -> list[Span]:
        """The latent and the key that carries RoPE: nothing per head."""
        own = Span(self.kv_lora_rank + self.qk_rope_head_dim)
        return [own, *(self.index.keeps() if self.index else [])]

    def reads(self, absorbed: bool = False) -> list[Span]:
        """Per head and visible token: over expanded heads, or over the latent itself (absorbed)."""
        expanded = self.qk_nope_head_dim + self.qk_rope_head_dim + self.v_head_dim
        latent = 2 * self.kv_lora_rank + self.qk_rope_head_dim
        width = latent if absorbed else expanded
        limit = self.index.index_topk if self.index else None
        own = Span(2 * self.num_attention_heads * width, limit)
        return [own, *(self.index.reads() if self.index else [])]
