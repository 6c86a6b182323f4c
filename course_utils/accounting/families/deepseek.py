"""DeepSeek and what was built on it: DeepSeekMoE, V2, V3, R1, V3.2, V4, Kimi K2, Moonlight, GLM.

They share first dense layers, fine-grained experts with shared ones, and (from V2 on) latents. GLM
4.5 keeps grouped queries, GLM-5 takes latents and the indexer. DeepSeek-V3's MTP module stores the
embedding and the head a second time; GLM-5's does not, as its published size shows.
"""

from course_utils.accounting.attention import LatentAttention
from course_utils.accounting.attention_variants import CompressedAttention
from course_utils.accounting.families.dense import grouped, model
from course_utils.accounting.feed_forward import DenseFeedForward, MixtureOfExperts
from course_utils.accounting.indexers import LightningIndexer
from course_utils.accounting.reading import Keys, plain_vector
from course_utils.accounting.spec import Layer, ModelSpec, MultiTokenPrediction
from course_utils.accounting.tensors import RESIDUAL, Weight


def latent(keys: Keys, indexed: bool = False) -> LatentAttention:
    """Multi-head latent attention, with V3.2's indexer if `indexed`."""
    keys.seen |= {"num_key_value_heads", "head_dim", "qk_head_dim"}  # what MLA has no use for
    index = None
    if indexed:
        names = ("index_n_heads", "index_head_dim", "index_topk")
        index = LightningIndexer(*(keys.whole(name) for name in names))
    return LatentAttention(
        num_attention_heads=keys.whole("num_attention_heads"),
        kv_lora_rank=keys.whole("kv_lora_rank"),
        qk_nope_head_dim=keys.whole("qk_nope_head_dim"),
        qk_rope_head_dim=keys.whole("qk_rope_head_dim"),
        v_head_dim=keys.whole("v_head_dim"),
        q_lora_rank=_query_rank(keys),
        bias=keys.flag("attention_bias", default=False),
        index=index,
    )


def _query_rank(keys: Keys) -> int | None:
    """The rank of the query latent; null means none, and only Kimi-Linear may leave it out."""
    if "q_lora_rank" not in keys.config and keys.config["model_type"] != "kimi_linear":
        raise ValueError("q_lora_rank is missing: give a number, or null for uncompressed queries")
    return keys.whole("q_lora_rank", default=None)


def experts(keys: Keys, corrected: bool) -> MixtureOfExperts:
    """Fine-grained experts and shared ones of the same width."""
    width = keys.whole("moe_intermediate_size")
    return MixtureOfExperts(
        num_experts=keys.whole("n_routed_experts", "num_experts", "num_local_experts"),
        num_experts_per_tok=keys.whole("num_experts_per_tok"),
        moe_intermediate_size=width,
        shared_intermediate_size=width
        * keys.whole("n_shared_experts", "num_shared_experts", least=0),
        correction_bias=corrected,
    )


def dense_first(keys: Keys, attention, sparse: MixtureOfExperts) -> list[Layer]:
    """The first `first_k_dense_replace` layers are dense, the others have experts."""
    if keys.get("moe_layer_freq", 1) != 1:
        raise ValueError(f"moe_layer_freq is {keys.get('moe_layer_freq')}: only 1 is read here")
    layers = keys.whole("num_hidden_layers")
    first = min(keys.whole("first_k_dense_replace", least=0), layers)
    keys.seen |= {"mlp_layer_types", "indexer_types"}
    keys.seen.add("intermediate_size")
    dense = Layer(attention, DenseFeedForward(keys.whole("intermediate_size") if first else 1))
    return [dense] * first + [Layer(attention, sparse)] * (layers - first)


def with_mtp(keys: Keys, layers: list[Layer], stores_tables: bool = True) -> ModelSpec:
    """The model, with its MTP modules if the config has any; each is built like the last layer."""
    modules = keys.whole("num_nextn_predict_layers", default=0, least=0)
    mtp = MultiTokenPrediction(modules, layers[-1], stores_tables) if modules else None
    return model(keys, layers, mtp=mtp)


def read_deepseek_moe(keys: Keys) -> ModelSpec:
    """DeepSeekMoE-16B; without experts it is the dense DeepSeek LLM."""
    bias = keys.flag("attention_bias", default=False)
    attention = grouped(keys, qkv_bias=bias, o_bias=bias)
    return model(keys, dense_first(keys, attention, experts(keys, corrected=False)))


def read_latent(keys: Keys) -> ModelSpec:
    """V2, V3, R1, Kimi K2, Moonlight: "noaux_tc" routing stores a correction bias."""
    usual = "greedy" if keys.config["model_type"] == "deepseek_v2" else "noaux_tc"
    method = keys.text("topk_method", default=usual)
    sparse = experts(keys, corrected=method == "noaux_tc")
    return with_mtp(keys, dense_first(keys, latent(keys), sparse))


def read_indexed(keys: Keys) -> ModelSpec:
    """V3.2 and GLM-5: latents, read where an indexer points."""
    stores = keys.config["model_type"] != "glm_moe_dsa"
    keys.seen |= {"topk_method", "mlp_bias"}
    sparse = experts(keys, corrected=True)
    return with_mtp(keys, dense_first(keys, latent(keys, indexed=True), sparse), stores)


def read_glm4_moe(keys: Keys) -> ModelSpec:
    """GLM-4.5, 4.6 and Air: grouped queries; biases on queries, keys and values alone."""
    keys.seen.add("topk_method")
    norm = "per_head" if keys.flag("use_qk_norm", default=False) else ""
    bias = keys.flag("attention_bias", default=False)
    attention = grouped(keys, qk_norm=norm, qkv_bias=bias)
    return with_mtp(keys, dense_first(keys, attention, experts(keys, corrected=True)))


def hyper_connections(streams: int, hidden_size: int) -> tuple[tuple[Weight, ...], ...]:
    """V4's residual streams: their mixers in each layer, and the one that joins them at the end."""
    mixes, wide = (2 + streams) * streams, streams * hidden_size
    layer = []
    for place in ("attn_hc", "ffn_hc"):
        layer.append(Weight(f"{place}.fn", RESIDUAL, (mixes, wide)))
        layer.append(plain_vector(f"{place}.base", RESIDUAL, (mixes,)))
        layer.append(plain_vector(f"{place}.scale", RESIDUAL, (3,)))
    end = (
        Weight("hc_head.fn", RESIDUAL, (streams, wide)),
        plain_vector("hc_head.base", RESIDUAL, (streams,)),
        plain_vector("hc_head.scale", RESIDUAL, (1,)),
    )
    return tuple(layer), end


def read_v4(keys: Keys) -> ModelSpec:
    """Windows with compressed pasts, residual streams, and first layers routed by a table.

    That table, from token id to experts, holds indices and no parameters, and is not counted.
    """
    layers = keys.whole("num_hidden_layers")
    ratios = keys.numbers("compress_ratios")[:layers]
    if len(ratios) < layers:
        raise ValueError(f"compress_ratios has {len(ratios)} entries: there are {layers} layers")
    hashed = keys.whole("num_hash_layers", least=0)
    names = ("num_attention_heads", "head_dim", "q_lora_rank", "o_groups", "o_lora_rank")
    sizes = [keys.whole(name) for name in (*names, "sliding_window")]
    index = [keys.whole(name) for name in ("index_n_heads", "index_head_dim", "index_topk")]
    per_layer, end = hyper_connections(keys.whole("hc_mult"), keys.whole("hidden_size"))
    keys.seen |= {"topk_method", "num_key_value_heads", "qk_rope_head_dim", "attention_bias"}
    keys.note("num_nextn_predict_layers", "the structure of V4's MTP module is not modelled")
    keys.note("expert_dtype", "parameters are counted as logical weights, FP4 scales are not")
    plain = experts(keys, corrected=True)
    kinds: dict[tuple[int, bool], Layer] = {}
    for ratio in sorted(set(ratios)):
        attention = CompressedAttention(*sizes, ratio, *index)
        for by_table in (True, False):
            routed = experts(keys, corrected=False) if by_table else plain
            kinds[ratio, by_table] = Layer(attention, routed, per_layer)
    found = [kinds[ratio, place < hashed] for place, ratio in enumerate(ratios)]
    return model(keys, found, extra=end)


READERS = {
    "deepseek": read_deepseek_moe,
    "deepseek_v2": read_latent,
    "deepseek_v3": read_latent,
    "kimi_k2": read_latent,
    "deepseek_v32": read_indexed,
    "glm4_moe": read_glm4_moe,
    "glm_moe_dsa": read_indexed,
    "deepseek_v4": read_v4,
}
