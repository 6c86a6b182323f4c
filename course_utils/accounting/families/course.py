"""The course's own decoder, dense or with experts, from `ModelConfig.to_dict()`.

It has no `model_type`; its experts stand in a nested object `moe`. Identity experts have a row in
the router and no weights. Counted as every model here: the correction bias is a stored number.
"""

from course_utils.accounting.families.dense import grouped, model
from course_utils.accounting.feed_forward import DenseFeedForward, MixtureOfExperts
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import Layer, ModelSpec

COURSE_KEYS = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "use_qk_norm",
    "moe",
}
_RULE = {
    *("scoring_func", "n_group", "topk_group", "group_score", "norm_topk_prob", "moe_norm_min"),
    *("routed_scaling_factor", "num_hash_layers", "capacity_factor"),
}


def is_course(config: dict) -> bool:
    """Whether a config is one of the course's own: no `model_type`, no foreign key."""
    return "model_type" not in config and {"use_qk_norm"} <= set(config) <= COURSE_KEYS


def read_course(keys: Keys) -> ModelSpec:
    """Llama with Qwen3's norms, if `use_qk_norm`, and with experts, if there is `moe`."""
    attention = grouped(keys, qk_norm="per_head" if keys.flag("use_qk_norm") else "")
    dense = Layer(attention, DenseFeedForward(keys.whole("intermediate_size")))
    layers = keys.whole("num_hidden_layers")
    if "moe" not in keys:
        return model(keys, [dense] * layers)
    inside = keys.nested("moe")
    inside.seen |= _RULE  # how experts are chosen changes no count
    first = min(inside.whole("first_k_dense_replace", default=0, least=0), layers)
    sparse = Layer(attention, _experts(inside))
    return model(keys, [dense] * first + [sparse] * (layers - first))


def _experts(keys: Keys) -> MixtureOfExperts:
    width = keys.whole("moe_intermediate_size")
    return MixtureOfExperts(
        num_experts=keys.whole("num_experts"),
        num_experts_per_tok=keys.whole("num_experts_per_tok"),
        moe_intermediate_size=width,
        shared_intermediate_size=width * keys.whole("n_shared_experts", default=0, least=0),
        shared_gate=keys.flag("use_shared_expert_gate"),
        correction_bias=keys.flag("use_routing_bias"),
        identity_experts=keys.whole("zero_expert_num", default=0, least=0),
    )


READERS = {"course": read_course}
