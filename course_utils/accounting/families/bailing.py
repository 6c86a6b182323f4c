"""Ling: 1.x (Ling-lite, Ling-plus) and 2.0 (Ling-mini, Ling-flash, Ling-1T).

Both are `bailing_moe` on the hub; 2.0 adds norms on queries and keys, and a correction bias, and
says so with keys of its own. The norm on the head's weights (`norm_head`) stores nothing.
"""

from course_utils.accounting.families.deepseek import dense_first, experts, with_mtp
from course_utils.accounting.families.dense import grouped
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import ModelSpec


def read_bailing(keys: Keys) -> ModelSpec:
    """Plain attention, first layers dense, fine-grained experts and shared ones."""
    norm = "per_head" if keys.flag("use_qk_norm", default=False) else ""
    attention = grouped(
        keys,
        qk_norm=norm,
        qkv_bias=keys.flag("use_qkv_bias", default=False),
        o_bias=keys.flag("use_bias", default=False),
    )
    second = keys.config["model_type"] == "bailing_moe_v2" or "use_qk_norm" in keys
    corrected = keys.flag("moe_router_enable_expert_bias", default=second)
    keys.seen |= {"topk_method", "moe_shared_expert_intermediate_size"}
    return with_mtp(keys, dense_first(keys, attention, experts(keys, corrected)))


READERS = {"bailing_moe": read_bailing, "bailing_moe_v2": read_bailing}
