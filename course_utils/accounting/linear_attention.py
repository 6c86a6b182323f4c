"""Attention with a state of fixed size: lightning attention, Gated DeltaNet, Kimi Delta Attention.

The past is one d_k x d_v matrix per head. A token adds k v^T (2 d_k d_v operations) and reads S q
(as many); the delta rule first reads S k to correct what is stored (as many again). So the cache
does not grow, and neither does the cost of a token.

Left out: chunked forms, which compute the same with more operations and better use of a GPU; the
few numbers that a short convolution keeps are counted. Sources: arXiv 2501.08313 (MiniMax-01),
2412.06464 (Gated DeltaNet), 2510.26692 (Kimi Linear); shapes as in `transformers` 5.23.
"""

from dataclasses import dataclass

from course_utils.accounting.tensors import ATTENTION, NORMS, Span, Weight, matrix, vector


@dataclass(frozen=True)
class LightningAttention:
    """MiniMax-Text-01: full heads, a fixed decay per head, a norm and a gate on the output."""

    num_attention_heads: int
    head_dim: int
    label: str = "lightning"

    def weights(self, hidden_size: int) -> list[Weight]:
        """Fused queries, keys and values; output gate; norm; output."""
        inner = self.num_attention_heads * self.head_dim
        return [
            matrix("qkv_proj", ATTENTION, hidden_size, 3 * inner),
            matrix("output_gate", ATTENTION, hidden_size, inner),
            vector("norm", NORMS, inner),
            matrix("out_proj", ATTENTION, inner, hidden_size),
        ]

    def keeps(self) -> list[Span]:
        """One square state per head."""
        return [Span(self.num_attention_heads * self.head_dim**2, limit=1)]

    def reads(self, absorbed: bool = False) -> list[Span]:
        """Add and read."""
        return [Span(4 * self.num_attention_heads * self.head_dim**2, limit=1)]


@dataclass(frozen=True)
class GatedDeltaNet:
    """Qwen3-Next: the delta rule with one decay per head, after a short convolution."""

    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    label: str = "Gated DeltaNet"

    @property
    def _channels(self) -> int:
        return 2 * self.linear_num_key_heads * self.linear_key_head_dim + self._values

    @property
    def _values(self) -> int:
        return self.linear_num_value_heads * self.linear_value_head_dim

    def weights(self, hidden_size: int) -> list[Weight]:
        """Queries, keys, values and gate z; strength b and decay a; convolution; norm; output."""
        heads = self.linear_num_value_heads
        return [
            matrix("in_proj_qkvz", ATTENTION, hidden_size, self._channels + self._values),
            matrix("in_proj_ba", ATTENTION, hidden_size, 2 * heads),
            matrix("conv1d", ATTENTION, self.linear_conv_kernel_dim, self._channels),
            vector("dt_bias", ATTENTION, heads),
            vector("A_log", ATTENTION, heads),
            vector("norm", NORMS, self.linear_value_head_dim),
            matrix("out_proj", ATTENTION, self._values, hidden_size),
        ]

    def keeps(self) -> list[Span]:
        """A state per value head, and the last inputs of the convolution."""
        conv = self._channels * (self.linear_conv_kernel_dim - 1)
        return [Span(self._values * self.linear_key_head_dim + conv, limit=1)]

    def reads(self, absorbed: bool = False) -> list[Span]:
        """Correct, add and read."""
        return [Span(6 * self._values * self.linear_key_head_dim, limit=1)]


@dataclass(frozen=True)
class KimiDeltaAttention:
    """Kimi Linear: the delta rule with a decay for every channel of the keys.

    full_rank_gate: the output gate is one matrix instead of two of rank head_dim.
    """

    num_heads: int
    head_dim: int
    short_conv_kernel_size: int
    full_rank_gate: bool = False
    label: str = "KDA"

    def weights(self, hidden_size: int) -> list[Weight]:
        """Projections, convolution, decay (f), strength (b), output gate (g), norm, output."""
        D, d, inner = hidden_size, self.head_dim, self.num_heads * self.head_dim
        found = [matrix(f"{name}_proj", ATTENTION, D, inner) for name in "qkv"]
        found += [
            matrix("conv1d", ATTENTION, self.short_conv_kernel_size, 3 * inner),
            vector("dt_bias", ATTENTION, inner),
            vector("A_log", ATTENTION, self.num_heads),
            matrix("f_a_proj", ATTENTION, D, d),
            matrix("f_b_proj", ATTENTION, d, inner),
            matrix("b_proj", ATTENTION, D, self.num_heads),
            vector("o_norm", NORMS, d),
            matrix("o_proj", ATTENTION, inner, D),
        ]
        if self.full_rank_gate:
            return [*found, matrix("g_proj", ATTENTION, D, inner)]
        return [
            *found,
            matrix("g_a_proj", ATTENTION, D, d),
            matrix("g_b_proj", ATTENTION, d, inner),
        ]

    def keeps(self) -> list[Span]:
        """A square state per head, and the last inputs of the convolution."""
        conv = 3 * self.num_heads * self.head_dim * (self.short_conv_kernel_size - 1)
        return [Span(self.num_heads * self.head_dim**2 + conv, limit=1)]

    def reads(self, absorbed: bool = False) -> list[Span]:
        """Correct, add and read."""
        return [Span(6 * self.num_heads * self.head_dim**2, limit=1)]
