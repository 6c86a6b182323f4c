"""Sparse models built on plain attention: Qwen1.5/2/3-MoE, Mixtral, OLMoE, gpt-oss."""

from course_utils.accounting.families.dense import grouped, model, window
from course_utils.accounting.feed_forward import DenseFeedForward, MixtureOfExperts
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import Layer, ModelSpec


def sparse_layers(keys: Keys, layers: int) -> list[bool]:
    """Which layers have experts: every `decoder_sparse_step`-th, except `mlp_only_layers`."""
    step = keys.whole("decoder_sparse_step", default=1)
    dense = keys.numbers("mlp_only_layers", default=[])
    return [index not in dense and (index + 1) % step == 0 for index in range(layers)]


def read_qwen_moe(keys: Keys, shared: bool, **options) -> ModelSpec:
    """Qwen2-MoE has a gated shared expert and biases; Qwen3-MoE has norms and neither."""
    if window(keys) is not None:
        raise ValueError("use_sliding_window is true: only false is read for experts of Qwen")
    attention = grouped(keys, **options)
    experts = MixtureOfExperts(
        num_experts=keys.whole("num_experts", "n_routed_experts", "num_local_experts"),
        num_experts_per_tok=keys.whole("num_experts_per_tok"),
        moe_intermediate_size=keys.whole("moe_intermediate_size"),
        shared_intermediate_size=keys.whole("shared_expert_intermediate_size") if shared else 0,
        shared_gate=shared,
    )
    sparse = sparse_layers(keys, keys.whole("num_hidden_layers"))
    width = keys.whole("intermediate_size", default=0)
    if not width and not all(sparse):
        raise ValueError("intermediate_size is missing: the layers in mlp_only_layers need it")
    kinds = {True: Layer(attention, experts), False: Layer(attention, DenseFeedForward(width))}
    return model(keys, [kinds[kind] for kind in sparse])


def read_qwen2_moe(keys: Keys) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-MoE."""
    return read_qwen_moe(keys, shared=True, qkv_bias=keys.flag("qkv_bias", default=True))


def read_qwen3_moe(keys: Keys) -> ModelSpec:
    """Qwen3-30B-A3B and Qwen3-235B-A22B."""
    bias = keys.flag("attention_bias", default=False)
    return read_qwen_moe(keys, shared=False, qk_norm="per_head", qkv_bias=bias, o_bias=bias)


def read_mixtral(keys: Keys) -> ModelSpec:
    """Every layer has experts of width `intermediate_size`; nothing else is special."""
    limit = keys.whole("sliding_window", default=None)
    return _all_sparse(keys, "num_local_experts", sliding_window=limit)


def read_olmoe(keys: Keys) -> ModelSpec:
    """OLMoE: norms over all heads together. Its class defaults are not the checkpoint's values."""
    bias = keys.flag("attention_bias", default=False)
    return _all_sparse(keys, "num_experts", qk_norm="per_layer", qkv_bias=bias, o_bias=bias)


def _all_sparse(keys: Keys, experts_key: str, **options) -> ModelSpec:
    experts = MixtureOfExperts(
        num_experts=keys.whole(experts_key),
        num_experts_per_tok=keys.whole("num_experts_per_tok"),
        moe_intermediate_size=keys.whole("intermediate_size"),
    )
    layer = Layer(grouped(keys, **options), experts)
    return model(keys, [layer] * keys.whole("num_hidden_layers"))


def read_gpt_oss(keys: Keys) -> ModelSpec:
    """Biases everywhere, a sink for each head, and a window in every second layer."""
    layers, size = keys.whole("num_hidden_layers"), keys.whole("sliding_window")
    every_second = ["sliding_attention", "full_attention"] * layers
    types = keys.per_layer("layer_types", layers, default=every_second[:layers])
    bias = keys.flag("attention_bias", default=True)
    experts = MixtureOfExperts(
        num_experts=keys.whole("num_local_experts"),
        num_experts_per_tok=keys.whole("num_experts_per_tok", "experts_per_token"),
        moe_intermediate_size=keys.whole("intermediate_size"),
        router_bias=True,
        expert_bias=True,
    )
    options = {"qkv_bias": bias, "o_bias": bias, "sinks": True}
    kinds = {
        "sliding_attention": Layer(grouped(keys, sliding_window=size, **options), experts),
        "full_attention": Layer(grouped(keys, **options), experts),
    }
    return model(keys, choose(kinds, types, "layer_types"))


def choose(kinds: dict, types: list, key: str) -> list[Layer]:
    """The layer for each entry of a list of types; ValueError names one that is unknown."""
    if unknown := [kind for kind in types if kind not in list(kinds)]:
        known = ", ".join(map(repr, kinds))
        raise ValueError(f"{key} holds {unknown[0]!r}: known are {known}")
    return [kinds[kind] for kind in types]


READERS = {
    "qwen2_moe": read_qwen2_moe,
    "qwen3_moe": read_qwen3_moe,
    "mixtral": read_mixtral,
    "olmoe": read_olmoe,
    "gpt_oss": read_gpt_oss,
}
