"""Indexers: small attentions that choose what the large one reads.

An indexer has a few narrow heads and one key a token. It scores every token that is visible, which
is cheap, and attention then reads a bounded number of them: single tokens in DeepSeek-V3.2 and
GLM-5, blocks of 128 in MiniMax M3.

Left out: the 8-bit numbers that indexers compute in; their keys are counted like any cache.
Sources: DeepSeek-V3.2-Exp report, section 2; shapes as in `transformers` 5.23.
"""

from dataclasses import dataclass

from course_utils.accounting.tensors import INDEXER, Span, Weight, matrix, vector


@dataclass(frozen=True)
class BlockIndexer:
    """MiniMax M3's chooser of blocks: a few small heads over normed keys of their own."""

    index_n_heads: int
    index_head_dim: int
    visible: int  # tokens that attention reads: blocks chosen times block size

    def weights(self, hidden_size: int) -> list[Weight]:
        """Two projections and two norms."""
        d = self.index_head_dim
        return [
            matrix("indexer.q_proj", INDEXER, hidden_size, self.index_n_heads * d),
            matrix("indexer.k_proj", INDEXER, hidden_size, d),
            vector("indexer.q_norm", INDEXER, d),
            vector("indexer.k_norm", INDEXER, d),
        ]

    def keeps(self) -> list[Span]:
        """One key a token."""
        return [Span(self.index_head_dim)]

    def reads(self) -> list[Span]:
        """A score for each of its heads."""
        return [Span(2 * self.index_n_heads * self.index_head_dim)]


@dataclass(frozen=True)
class LightningIndexer:
    """DeepSeek-V3.2's chooser of tokens: scores w_h ReLU(q_h k), the best `index_topk` are read."""

    index_n_heads: int
    index_head_dim: int
    index_topk: int

    def weights(self, hidden_size: int, q_lora_rank: int) -> list[Weight]:
        """Queries from the query latent, one shared key with a LayerNorm, weights per head."""
        d = self.index_head_dim
        return [
            matrix("indexer.wq_b", INDEXER, q_lora_rank, self.index_n_heads * d),
            matrix("indexer.wk", INDEXER, hidden_size, d),
            vector("indexer.k_norm.weight", INDEXER, d),
            vector("indexer.k_norm.bias", INDEXER, d),
            matrix("indexer.weights_proj", INDEXER, hidden_size, self.index_n_heads),
        ]

    def keeps(self) -> list[Span]:
        """One key a token."""
        return [Span(self.index_head_dim)]

    def reads(self) -> list[Span]:
        """A score for each of its heads."""
        return [Span(2 * self.index_n_heads * self.index_head_dim)]
