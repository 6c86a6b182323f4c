"""Room of attention: how tokens look at each other, and what must be kept for the next token."""

from course_utils.attention.cache import Cache, KVCache
from course_utils.attention.config import (
    IndexerConfig,
    LinearAttentionConfig,
    MLAConfig,
    YarnConfig,
)
from course_utils.attention.delta_parts import short_convolution
from course_utils.attention.delta_rule import chunked_delta_rule, recurrent_delta_rule
from course_utils.attention.dsa import (
    indexer_kl,
    indexer_loss,
    indexer_parameters,
    set_index_topk,
)
from course_utils.attention.gqa import (
    GroupedQueryAttention,
    causal_mask,
    fused_attention,
    grouped_query_attention,
)
from course_utils.attention.indexer import Indexer, choose_tokens, index_scores
from course_utils.attention.layered_cache import LayeredCache
from course_utils.attention.lightning import (
    chunked_lightning,
    lightning_slopes,
    recurrent_lightning,
)
from course_utils.attention.lightning_layer import LightningAttention
from course_utils.attention.linear_layer import GatedDeltaNet, KimiDeltaAttention
from course_utils.attention.mla import (
    LatentAttention,
    absorbing_pays,
    mla_absorbed,
    mla_naive,
)
from course_utils.attention.stores import State, Tokens
from course_utils.attention.window import window_mask
from course_utils.attention.yarn import softmax_scale, yarn_frequencies, yarn_tables

__all__ = [
    "Cache",
    "GatedDeltaNet",
    "GroupedQueryAttention",
    "Indexer",
    "IndexerConfig",
    "KVCache",
    "KimiDeltaAttention",
    "LatentAttention",
    "LayeredCache",
    "LightningAttention",
    "LinearAttentionConfig",
    "MLAConfig",
    "State",
    "Tokens",
    "YarnConfig",
    "absorbing_pays",
    "causal_mask",
    "choose_tokens",
    "chunked_delta_rule",
    "chunked_lightning",
    "fused_attention",
    "grouped_query_attention",
    "index_scores",
    "indexer_kl",
    "indexer_loss",
    "indexer_parameters",
    "lightning_slopes",
    "mla_absorbed",
    "mla_naive",
    "recurrent_delta_rule",
    "recurrent_lightning",
    "set_index_topk",
    "short_convolution",
    "softmax_scale",
    "window_mask",
    "yarn_frequencies",
    "yarn_tables",
]
