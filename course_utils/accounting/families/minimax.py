"""MiniMax: Text-01 and M1 (lightning attention), M2 (plain), M3 (an indexer chooses blocks)."""

from course_utils.accounting.families.dense import grouped, model
from course_utils.accounting.families.qwen import choose
from course_utils.accounting.feed_forward import DenseFeedForward, MixtureOfExperts
from course_utils.accounting.indexers import BlockIndexer
from course_utils.accounting.linear_attention import LightningAttention
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import Layer, ModelSpec


def _experts(keys: Keys, corrected: bool) -> MixtureOfExperts:
    usual = {} if keys.config["model_type"].startswith("minimax_m3") else {"default": 0}
    return MixtureOfExperts(
        num_experts=keys.whole("num_local_experts"),
        num_experts_per_tok=keys.whole("num_experts_per_tok"),
        moe_intermediate_size=keys.whole("intermediate_size"),
        shared_intermediate_size=keys.same("shared_intermediate_size", least=0, **usual),
        correction_bias=corrected,
    )


def read_text_01(keys: Keys) -> ModelSpec:
    """attn_type_list: 0 is lightning, 1 is softmax; `layer_types` says the same in words."""
    layers = keys.whole("num_hidden_layers")
    heads, width = keys.whole("num_attention_heads"), keys.whole("head_dim")
    experts = _experts(keys, corrected=False)
    full = Layer(grouped(keys, sliding_window=keys.whole("sliding_window", default=None)), experts)
    linear = Layer(LightningAttention(heads, width), experts)
    kinds = {0: linear, 1: full, "linear_attention": linear, "full_attention": full}
    key = "layer_types" if "layer_types" in keys else "attn_type_list"
    return model(keys, choose(kinds, keys.per_layer(key, layers), key))


def read_m2(keys: Keys) -> ModelSpec:
    """Norms over all heads together; experts chosen with a correction bias; no shared expert."""
    norm = "per_layer" if keys.flag("use_qk_norm", default=True) else ""
    kind = keys.get("qk_norm_type", "per_layer")
    if kind != "per_layer":
        raise ValueError(f"qk_norm_type is {kind!r}: only 'per_layer' is read for minimax_m2")
    keys.seen |= {"attn_type_list", "mtp_transformer_layers"}
    keys.flag("use_mtp", default=False)
    keys.note("num_mtp_modules", "the published checkpoint holds no MTP weights; not counted")
    experts = _experts(keys, corrected=keys.flag("use_routing_bias", default=True))
    layer = Layer(grouped(keys, qk_norm=norm), experts)
    return model(keys, [layer] * keys.whole("num_hidden_layers"))


def read_m3(keys: Keys) -> ModelSpec:
    """First layers dense with full attention; then experts, and attention over chosen blocks."""
    layers = keys.whole("num_hidden_layers")
    sparse = keys.nested("sparse_attention_config")
    if not sparse.flag("use_sparse_attention", default=True):
        raise ValueError("use_sparse_attention is false: only true is read for minimax_m3")
    reach = sparse.whole("sparse_block_size") * sparse.whole("sparse_topk_blocks")
    heads, width = sparse.whole("sparse_num_index_heads"), sparse.whole("sparse_index_dim")
    norm = "per_head" if keys.flag("use_qk_norm", default=True) else ""
    attention = {
        0: grouped(keys, qk_norm=norm),
        1: grouped(keys, qk_norm=norm, index=BlockIndexer(heads, width, visible=reach)),
    }
    experts = _experts(keys, corrected=keys.flag("use_routing_bias", default=True))
    feed_forward = {0: DenseFeedForward(keys.whole("dense_intermediate_size")), 1: experts}
    kinds = {(a, f): Layer(attention[a], feed_forward[f]) for a in (0, 1) for f in (0, 1)}
    keys.seen |= {"moe_intermediate_size", "n_shared_experts", "first_k_dense_replace"}
    keys.seen |= {"qk_norm_type", "attention_output_gate"}
    for name in ("num_nextn_predict_layers", "num_mtp_modules"):
        keys.note(name, "the structure of M3's MTP modules is not published")
    types = zip(
        sparse.per_layer("sparse_attention_freq", layers),
        keys.per_layer("moe_layer_freq", layers),
        strict=True,
    )
    return model(keys, choose(kinds, list(types), "sparse_attention_freq and moe_layer_freq"))


READERS = {
    "minimax_text_01": read_text_01,
    "minimax_m1": read_text_01,
    "minimax": read_text_01,
    "minimax_m2": read_m2,
    "minimax_m3": read_m3,
    "minimax_m3_vl_text": read_m3,
}
