"""Room of attention: how tokens look at each other, and what must be kept for the next token."""

from course_utils.attention.cache import Cache, KVCache
from course_utils.attention.gqa import (
    GroupedQueryAttention,
    causal_mask,
    fused_attention,
    grouped_query_attention,
)

__all__ = [
    "Cache",
    "GroupedQueryAttention",
    "KVCache",
    "causal_mask",
    "fused_attention",
    "grouped_query_attention",
]
