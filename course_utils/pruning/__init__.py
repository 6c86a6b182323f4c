"""Room of pruning: masks, 2:4 packing, importance of parts, models that are really smaller."""

from course_utils.pruning.experts import cut_experts, prune_experts
from course_utils.pruning.importance import (
    best_heads,
    block_influence,
    channel_importance,
    channel_scores,
    expert_changes,
    expert_loads,
    head_importance,
    head_scores,
    keep_best,
    layer_scores,
)
from course_utils.pruning.magnitude import global_masks, magnitude_mask
from course_utils.pruning.semi_structured import Packed24, pack_2_4, two_four_mask
from course_utils.pruning.storage import csr_bytes, model_bytes, storage_bytes, to_csr
from course_utils.pruning.structured import (
    cut_channels,
    cut_heads,
    prune_channels,
    prune_heads,
    prune_layers,
)
from course_utils.pruning.wanda import wanda_mask, wanda_masks
from course_utils.pruning.weights import masked, prunable, share_of_zeros

__all__ = [
    "Packed24",
    "best_heads",
    "block_influence",
    "channel_importance",
    "channel_scores",
    "csr_bytes",
    "cut_channels",
    "cut_experts",
    "cut_heads",
    "expert_changes",
    "expert_loads",
    "global_masks",
    "head_importance",
    "head_scores",
    "keep_best",
    "layer_scores",
    "magnitude_mask",
    "masked",
    "model_bytes",
    "pack_2_4",
    "prunable",
    "prune_channels",
    "prune_experts",
    "prune_heads",
    "prune_layers",
    "share_of_zeros",
    "storage_bytes",
    "to_csr",
    "two_four_mask",
    "wanda_mask",
    "wanda_masks",
]
