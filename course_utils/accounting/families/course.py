"""The course's own decoder, with any of its attentions and experts, from `ModelConfig.to_dict()`.

It has no `model_type`; experts, latent attention and linear attention stand in nested objects
`moe`, `mla` and `linear`, and `layer_types` says which layer has which attention. Identity experts
have a row in the router and no weights. Counted as every model here: the correction bias is a
stored number.
"""

from course_utils.accounting.attention import Attention, LatentAttention
from course_utils.accounting.families.dense import grouped, model
from course_utils.accounting.feed_forward import DenseFeedForward, MixtureOfExperts
from course_utils.accounting.indexers import LightningIndexer
from course_utils.accounting.linear_attention import (
    GatedDeltaNet,
    KimiDeltaAttention,
    LightningAttention,
)
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
    "mla",
    "linear",
    "sliding_window",
    "layer_types",
}
_RULE = {
    *("scoring_func", "n_group", "topk_group", "group_score", "norm_topk_prob", "moe_norm_min"),
    *("routed_scaling_factor", "num_hash_layers", "capacity_factor"),
}


def is_course(config: dict) -> bool:
    """Whether a config is one of the course's own: no `model_type`, no foreign key."""
    return "model_type" not in config and {"use_qk_norm"} <= set(config) <= COURSE_KEYS


def read_course(keys: Keys) -> ModelSpec:
    """Each layer's attention by `layer_types`, then its MLP, or experts where there is `moe`."""
    layers = keys.whole("num_hidden_layers")
    kinds = keys.per_layer("layer_types", layers, default=["full_attention"] * layers)
    read = {kind: _attention(keys, kind) for kind in dict.fromkeys(kinds)}
    dense, sparse, first = DenseFeedForward(keys.whole("intermediate_size")), None, layers
    if "moe" in keys:
        inside = keys.nested("moe")
        inside.seen |= _RULE  # how experts are chosen changes no count
        first, sparse = inside.whole("first_k_dense_replace", default=0, least=0), _experts(inside)
    return model(
        keys, [Layer(read[kind], dense if n < first else sparse) for n, kind in enumerate(kinds)]
    )


def _attention(keys: Keys, kind: str) -> Attention:
    """The attention of the layers of one type."""
    if kind == "linear_attention":
        return _linear(keys.nested("linear"))
    if kind == "full_attention" and "mla" in keys:
        keys.seen |= {"num_key_value_heads", "head_dim", "use_qk_norm"}
        return _latent(keys.nested("mla"), keys.whole("num_attention_heads"))
    window = keys.whole("sliding_window") if kind == "sliding_attention" else None
    norm = "per_head" if keys.flag("use_qk_norm") else ""
    if kind not in ("full_attention", "sliding_attention"):
        raise ValueError(
            f"layer_types has {kind!r}: known are full_attention, sliding_attention and "
            "linear_attention"
        )
    return grouped(keys, qk_norm=norm, sliding_window=window)


def _latent(keys: Keys, heads: int) -> LatentAttention:
    keys.seen.add("rope_scaling")  # YaRN changes angles, not sizes
    index = None
    if "index" in keys:
        inside = keys.nested("index")
        names = ("index_n_heads", "index_head_dim", "index_topk")
        index = LightningIndexer(*(inside.whole(name) for name in names))
    names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    sizes = {name: keys.whole(name) for name in names}
    rank = keys.whole("q_lora_rank", default=None)
    return LatentAttention(heads, **sizes, q_lora_rank=rank, index=index)


def _linear(keys: Keys) -> Attention:
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
    sizes = [keys.whole(f"linear_{name}") for name in names]
    kind, heads, width = keys.text("kind"), sizes[1], sizes[3]
    kernel = keys.whole("linear_conv_kernel_dim", default=0, least=0)
    if kind == "gated_deltanet":
        return GatedDeltaNet(*sizes, kernel)
    if kind == "kda":
        return KimiDeltaAttention(heads, width, kernel)
    if kind == "lightning":
        return LightningAttention(heads, width)
    raise ValueError(f"kind is {kind!r}: known are gated_deltanet, kda and lightning")


def _experts(keys: Keys) -> MixtureOfExperts:
    width = keys.whole("moe_intermediate_size")
    return MixtureOfExperts(
        num_experts=keys.whole("num_experts"),
        num_experts_per_tok=keys.whole("num_experts_per_tok"),
        moe_intermediate_size=width,
        shared_intermediate_size=width * keys.whole("n_shared_experts", default=0, least=0),
        shared_gate=keys.flag("use_shared_expert_gate"),
        router_bias=keys.flag("router_bias"),
        correction_bias=keys.flag("use_routing_bias"),
        identity_experts=keys.whole("zero_expert_num", default=0, least=0),
    )


READERS = {"course": read_course}
