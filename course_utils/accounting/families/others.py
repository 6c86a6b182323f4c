"""ERNIE-4.5 MoE, Hunyuan (A13B and Large), Step-3: each with spellings of its own."""

from dataclasses import replace

from course_utils.accounting.attention_variants import FactorizedAttention
from course_utils.accounting.families.dense import grouped, model
from course_utils.accounting.feed_forward import DenseFeedForward, MixtureOfExperts
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import Layer, ModelSpec
from course_utils.accounting.tensors import BIASES, vector


def read_ernie(keys: Keys) -> ModelSpec:
    """Experts from layer `moe_layer_start_index` to `moe_layer_end_index` (-1: the last)."""
    layers = keys.whole("num_hidden_layers")
    bias = keys.flag("use_bias", default=False)
    width = keys.same("moe_intermediate_size")
    shared = keys.whole("moe_num_shared_experts", least=0)
    experts = MixtureOfExperts(
        num_experts=keys.same("moe_num_experts"),
        num_experts_per_tok=keys.whole("moe_k", "num_experts_per_tok"),
        moe_intermediate_size=width,
        shared_intermediate_size=width * shared,
        correction_bias=True,
        shared_bias=bias,
    )
    first = keys.same("moe_layer_start_index", least=0)
    last = keys.same("moe_layer_end_index", default=-1, least=-1)
    last = layers - 1 if last == -1 else last
    step = keys.whole("moe_layer_interval", default=1)
    attention = grouped(keys, qkv_bias=bias, o_bias=bias)
    dense = Layer(attention, DenseFeedForward(keys.whole("intermediate_size"), bias))
    sparse = Layer(attention, experts)
    keys.note("num_nextn_predict_layers", "the MTP module is not modelled")
    found = [sparse if (n + 1) % step == 0 and first <= n <= last else dense for n in range(layers)]
    head_bias = (vector("lm_head.bias", BIASES, keys.whole("vocab_size")),) if bias else ()
    return model(keys, found, tied=True, extra=head_bias)


def read_hunyuan(keys: Keys) -> ModelSpec:
    """Experts in every layer, one shared; in Large, pairs of layers share keys and values."""
    width = keys.same("moe_intermediate_size", default=0, least=0)
    width = width or keys.whole("intermediate_size")
    keys.seen.add("intermediate_size")
    mixed = keys.flag("use_mixed_mlp_moe", default=True)
    shared = keys.same("num_shared_expert", default=1, least=0) if mixed else 0
    experts = MixtureOfExperts(
        num_experts=keys.same("num_experts"),
        num_experts_per_tok=keys.same("moe_topk"),
        moe_intermediate_size=width,
        shared_intermediate_size=width * shared,
    )
    keys.note("moe_layer_num_skipped", "layers without experts are not modelled")
    for name in ("kv_lora_rank", "q_lora_rank"):
        keys.note(name, "Hunyuan with latents is not modelled")
    norm = "per_head" if keys.flag("use_qk_norm", default=True) else ""
    bias = keys.flag("attention_bias", default=False)
    own = grouped(keys, qk_norm=norm, qkv_bias=bias, o_bias=bias)
    keys.seen.add("cla_share_factor")
    every = keys.whole("cla_share_factor") if keys.flag("use_cla", default=False) else 1
    kinds = {True: Layer(own, experts), False: Layer(replace(own, shares_cache=True), experts)}
    return model(keys, [kinds[n % every == 0] for n in range(keys.whole("num_hidden_layers"))])


def read_step3(keys: Keys) -> ModelSpec:
    """Factorized attention; experts in the layers that `moe_layers_enum` names."""
    layers = keys.whole("num_hidden_layers")
    sparse = set(keys.numbers("moe_layers_enum"))
    if not sparse <= set(range(layers)):
        raise ValueError(f"moe_layers_enum names layer {max(sparse)}: there are {layers}, from 0")
    attention = FactorizedAttention(
        num_attention_heads=keys.whole("num_attention_heads"),
        num_attention_groups=keys.whole("num_attention_groups"),
        head_dim=keys.whole("head_dim"),
        share_q_dim=keys.whole("share_q_dim"),
    )
    experts = MixtureOfExperts(
        num_experts=keys.whole("moe_num_experts"),
        num_experts_per_tok=keys.whole("moe_top_k"),
        moe_intermediate_size=keys.whole("moe_intermediate_size"),
        shared_intermediate_size=keys.whole("share_expert_dim", least=0),
    )
    dense = DenseFeedForward(keys.whole("intermediate_size"))
    kinds = {True: Layer(attention, experts), False: Layer(attention, dense)}
    return model(keys, [kinds[n in sparse] for n in range(layers)])


READERS = {
    "ernie4_5_moe": read_ernie,
    "hunyuan_v1_moe": read_hunyuan,
    "hunyuan": read_hunyuan,
    "step3_text": read_step3,
}
