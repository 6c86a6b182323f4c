"""Room of distillation: a small model learns from a large one, by logits, features or text."""

from course_utils.distillation.cache import (
    CacheSource,
    LogitCache,
    build_cache,
    read_cache,
    weights_hash,
    write_cache,
)
from course_utils.distillation.loop import add_gradient, distill, mean_of_teachers
from course_utils.distillation.losses import (
    distillation_loss,
    forward_kl,
    generalized_jsd,
    next_labels,
    reverse_kl,
    token_mean,
)
from course_utils.distillation.on_policy import (
    completion_labels,
    distill_on_policy,
    on_policy_loss,
    sampled_reverse_kl,
)
from course_utils.distillation.sequence import complete, keep_traces, pad_left, pass_at_k
from course_utils.distillation.topk import PackedLogits, pack_top_k, packed_kl, top_k_kl
from course_utils.distillation.vocabulary import check_same_vocabulary, tokenizer_hash

__all__ = [
    "CacheSource",
    "LogitCache",
    "PackedLogits",
    "add_gradient",
    "build_cache",
    "check_same_vocabulary",
    "complete",
    "completion_labels",
    "distill",
    "distill_on_policy",
    "distillation_loss",
    "forward_kl",
    "generalized_jsd",
    "keep_traces",
    "mean_of_teachers",
    "next_labels",
    "on_policy_loss",
    "pack_top_k",
    "packed_kl",
    "pad_left",
    "pass_at_k",
    "read_cache",
    "reverse_kl",
    "sampled_reverse_kl",
    "token_mean",
    "tokenizer_hash",
    "top_k_kl",
    "weights_hash",
    "write_cache",
]
