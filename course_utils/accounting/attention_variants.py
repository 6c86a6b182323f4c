"""Two rarer kinds of attention: Step-3's factorized queries and DeepSeek-V4's compressed caches.

**MFA** (Step-3): one key-value head; queries go down to `share_q_dim`, are normed, and up again.

**V4**: keys and values are one shared vector of `head_dim`. Every layer sees a window of single
tokens; most layers also see a long past, compressed: one entry for every 128 tokens, or one for
every 4, of which an indexer chooses. The output goes through `o_groups` groups of low rank.

Left out: in V4 the entries of a ratio of 4 overlap, which costs projections twice as wide (counted)
and no further entries. Sources: Step-3 system report (arXiv 2507.19427) section 2; `transformers`
5.23 `deepseek_v4`, whose shapes are followed.
"""

from dataclasses import dataclass

from course_utils.accounting.tensors import (
    ATTENTION,
    INDEXER,
    NORMS,
    Span,
    Weight,
    matrix,
    vector,
)


@dataclass(frozen=True)
class FactorizedAttention:
    """Multi-matrix factorization attention: many wide query heads over one key-value head."""

    num_attention_heads: int
    num_attention_groups: int
    head_dim: int
    share_q_dim: int
    label: str = "MFA"

    def weights(self, hidden_size: int) -> list[Weight]:
        """Queries down, norm, up; one key and one value; the output."""
        D, d = hidden_size, self.head_dim
        query, key = self.num_attention_heads * d, self.num_attention_groups * d
        return [
            matrix("q_proj", ATTENTION, D, self.share_q_dim),
            vector("inter_norm", NORMS, self.share_q_dim),
            matrix("wq", ATTENTION, self.share_q_dim, query),
            matrix("k_proj", ATTENTION, D, key),
            matrix("v_proj", ATTENTION, D, key),
            matrix("o_proj", ATTENTION, query, D),
        ]

    def keeps(self) -> list[Span]:
        """A key and a value for each key-value head."""
        return [Span(2 * self.num_attention_groups * self.head_dim)]

    def reads(self, absorbed: bool = False) -> list[Span]:
        """A score and a weighted sum for each query head."""
        return [Span(4 * self.num_attention_heads * self.head_dim)]


@dataclass(frozen=True)
class CompressedAttention:
    """DeepSeek-V4: a window, and beyond it one entry for every `ratio` tokens (0: none)."""

    num_attention_heads: int
    head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    sliding_window: int
    ratio: int = 0
    index_n_heads: int = 0
    index_head_dim: int = 0
    index_topk: int = 0

    @property
    def label(self) -> str:
        """Such as "window 128 + 1/4, indexer"."""
        name = f"window {self.sliding_window}"
        name += f" + 1/{self.ratio}" if self.ratio else ""
        return name + (", indexer" if self.indexed else "")

    @property
    def indexed(self) -> bool:
        """Finely compressed layers (a ratio of 4) are searched by an indexer."""
        return self.ratio == 4

    def weights(self, hidden_size: int) -> list[Weight]:
        """Queries through a latent, one shared key-value, grouped output, then the compressor."""
        D, heads = hidden_size, self.num_attention_heads * self.head_dim
        middle = self.o_groups * self.o_lora_rank
        found = [
            vector("sinks", ATTENTION, self.num_attention_heads),
            matrix("q_a_proj", ATTENTION, D, self.q_lora_rank),
            vector("q_a_norm", NORMS, self.q_lora_rank),
            matrix("q_b_proj", ATTENTION, self.q_lora_rank, heads),
            matrix("kv_proj", ATTENTION, D, self.head_dim),
            vector("kv_norm", NORMS, self.head_dim),
            matrix("o_a_proj", ATTENTION, heads // self.o_groups, middle),
            matrix("o_b_proj", ATTENTION, middle, D),
        ]
        if self.ratio:
            found += self._compressor("compressor", ATTENTION, self.head_dim, D)
        return found + (self._indexer(D) if self.indexed else [])

    def _compressor(self, name: str, part: str, width: int, D: int) -> list[Weight]:
        wide = width * (2 if self.indexed else 1)  # overlapping entries need two halves
        return [
            Weight(f"{name}.position_bias", part, (self.ratio, wide), product=False),
            matrix(f"{name}.kv_proj", part, D, wide),
            matrix(f"{name}.gate_proj", part, D, wide),
            vector(f"{name}.kv_norm", NORMS if part == ATTENTION else part, width),
        ]

    def _indexer(self, D: int) -> list[Weight]:
        queries = self.index_n_heads * self.index_head_dim
        return [
            *self._compressor("indexer", INDEXER, self.index_head_dim, D),
            matrix("indexer.q_b_proj", INDEXER, self.q_lora_rank, queries),
            matrix("indexer.weights_proj", INDEXER, D, self.index_n_heads),
        ]

    def keeps(self) -> list[Span]:
        """The window, the compressed entries, and the indexer's compressed keys."""
        kept = [Span(self.head_dim, self.sliding_window)]
        if self.ratio:
            kept.append(Span(self.head_dim, None, self.ratio))
        if self.indexed:
            kept.append(Span(self.index_head_dim, None, self.ratio))
        return kept

    def reads(self, absorbed: bool = False) -> list[Span]:
        """Score and sum over the window and over the compressed entries that are chosen."""
        cost = 4 * self.num_attention_heads * self.head_dim
        found = [Span(cost, self.sliding_window)]
        if self.ratio:
            found.append(Span(cost, self.index_topk if self.indexed else None, self.ratio))
        if self.indexed:
            found.append(Span(2 * self.index_n_heads * self.index_head_dim, None, self.ratio))
        return found
