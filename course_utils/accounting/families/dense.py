"""Dense decoders: Llama 3.x, SmolLM2, Qwen1.5, Qwen2, Qwen2.5, Qwen3."""

from dataclasses import replace

from course_utils.accounting.attention import GroupedQueryAttention
from course_utils.accounting.feed_forward import DenseFeedForward
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import Layer, ModelSpec

# Families whose own default for head_dim is a number, so that a missing one must not be divided.
WIDTH_NEEDED = ("qwen3", "gpt_oss", "minimax_m")


def grouped(keys: Keys, **options) -> GroupedQueryAttention:
    """Grouped-query attention from the usual keys; `options` are what the family adds."""
    family = keys.config.get("model_type", "course")
    heads = keys.whole("num_attention_heads")
    every = {"default": heads} if family == "llama" else {}  # in old configs: one for each head
    groups = keys.whole("num_key_value_heads", **every)
    width = keys.whole("head_dim", "attention_head_dim", default=0, least=0)
    if not width:
        if family.startswith(WIDTH_NEEDED):
            raise ValueError(f"head_dim is missing: add it, {family} does not derive it")
        hidden = keys.whole("hidden_size")
        if hidden % heads:
            raise ValueError(
                f"num_attention_heads is {heads}, which does not divide hidden_size {hidden}: "
                "give head_dim"
            )
        width = hidden // heads
    if heads % groups:
        raise ValueError(
            f"num_key_value_heads is {groups}: it must divide num_attention_heads, {heads}"
        )
    return GroupedQueryAttention(heads, groups, width, **options)


def window(keys: Keys) -> int | None:
    """The sliding window, if it is switched on."""
    if not keys.flag("use_sliding_window", default=False):
        keys.whole("sliding_window", default=None, least=0)
        return None
    return keys.whole("sliding_window")


def model(keys: Keys, layers: list[Layer], tied: bool = False, **more) -> ModelSpec:
    """A ModelSpec from its layers and the keys that every family has."""
    return ModelSpec(
        model_type=keys.config.get("model_type", "course"),
        hidden_size=keys.whole("hidden_size"),
        vocab_size=keys.whole("vocab_size"),
        tie_word_embeddings=keys.flag("tie_word_embeddings", default=tied),
        layers=tuple(layers),
        **more,
    )


def read_dense(keys: Keys, **options) -> ModelSpec:
    """The same layer throughout; with a window, the first `max_window_layers` see everything."""
    attention, size = grouped(keys, **options), window(keys)
    feed_forward = DenseFeedForward(
        keys.whole("intermediate_size"), keys.flag("mlp_bias", default=False)
    )
    full = Layer(attention, feed_forward)
    layers = keys.whole("num_hidden_layers")
    keys.seen.add("layer_types")
    if size is None:
        return model(keys, [full] * layers)
    first = min(keys.whole("max_window_layers", least=0), layers)
    narrow = Layer(replace(attention, sliding_window=size), feed_forward)
    found = [full] * first + [narrow] * (layers - first)
    usual = ["sliding_attention" if layer is narrow else "full_attention" for layer in found]
    if keys.per_layer("layer_types", layers, default=usual) != usual:
        raise ValueError("layer_types does not agree with max_window_layers: give one of them")
    return model(keys, found)


def read_llama(keys: Keys) -> ModelSpec:
    """Biases only if asked for, then on all four projections."""
    bias = keys.flag("attention_bias", default=False)
    keys.note("is_llama_config", "a marker of another framework")
    return read_dense(keys, qkv_bias=bias, o_bias=bias)


def read_qwen2(keys: Keys) -> ModelSpec:
    """Biases on queries, keys and values, whatever the config says."""
    keys.seen.add("attention_bias")
    return read_dense(keys, qkv_bias=True)


def read_qwen3(keys: Keys) -> ModelSpec:
    """A norm on every query and key head."""
    bias = keys.flag("attention_bias", default=False)
    return read_dense(keys, qk_norm="per_head", qkv_bias=bias, o_bias=bias)


READERS = {
    "llama": read_llama,
    "qwen2": read_qwen2,
    "qwen3": read_qwen3,
}
