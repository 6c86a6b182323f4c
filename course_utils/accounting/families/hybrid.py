"""Hybrids of linear and full attention: Qwen3-Next, Qwen3.5, Kimi-Linear, Kimi K3."""

from course_utils.accounting.families.deepseek import latent
from course_utils.accounting.families.dense import grouped, model
from course_utils.accounting.families.qwen import choose, sparse_layers
from course_utils.accounting.feed_forward import DenseFeedForward, MixtureOfExperts
from course_utils.accounting.linear_attention import GatedDeltaNet, KimiDeltaAttention
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import Layer, ModelSpec

DELTA_KEYS = (
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_conv_kernel_dim",
)


def read_qwen3_next(keys: Keys) -> ModelSpec:
    """Three layers of Gated DeltaNet, then one of gated attention; experts in every layer."""
    layers = keys.whole("num_hidden_layers")
    every = keys.whole("full_attention_interval", default=4)
    usual = ["linear_attention" if (n + 1) % every else "full_attention" for n in range(layers)]
    types = keys.per_layer("layer_types", layers, default=usual)
    if not all(sparse_layers(keys, layers)):
        raise ValueError("decoder_sparse_step and mlp_only_layers: only all-sparse is read here")
    keys.whole("intermediate_size", default=0)
    keys.flag("attn_output_gate", default=True)
    keys.note("mtp_num_hidden_layers", "the MTP module is not modelled")
    keys.note("mtp_use_dedicated_embeddings", "the MTP module is not modelled")
    bias = keys.flag("attention_bias", default=False)
    full = grouped(keys, qk_norm="per_head", output_gate=True, qkv_bias=bias, o_bias=bias)
    experts = MixtureOfExperts(
        num_experts=keys.whole("num_experts"),
        num_experts_per_tok=keys.whole("num_experts_per_tok"),
        moe_intermediate_size=keys.whole("moe_intermediate_size"),
        shared_intermediate_size=keys.whole("shared_expert_intermediate_size"),
        shared_gate=True,
    )
    delta = GatedDeltaNet(*(keys.whole(name) for name in DELTA_KEYS))
    kinds = {"linear_attention": Layer(delta, experts), "full_attention": Layer(full, experts)}
    return model(keys, choose(kinds, types, "layer_types"))


def read_kimi_linear(keys: Keys) -> ModelSpec:
    """Kimi Delta Attention with latent attention in the layers that the config lists (from 1)."""
    layers = keys.whole("num_hidden_layers")
    linear = keys.nested("linear_attn_config")
    full_layers = set(linear.numbers("full_attn_layers"))
    listed = set(linear.numbers("kda_layers")) | full_layers
    if listed != set(range(1, layers + 1)):
        raise ValueError(
            f"linear_attn_config lists {len(listed)} layers in kda_layers and full_attn_layers: "
            f"they must be 1 to {layers}, the num_hidden_layers"
        )
    delta = KimiDeltaAttention(
        num_heads=linear.whole("num_heads"),
        head_dim=linear.whole("head_dim"),
        short_conv_kernel_size=linear.whole("short_conv_kernel_size"),
        full_rank_gate=linear.flag("use_full_rank_gate", default=False),
    )
    full, sparse = latent(keys), _kimi_experts(keys)
    first = keys.whole("first_k_dense_replace", least=0)
    dense = DenseFeedForward(keys.whole("intermediate_size"))
    kinds = {
        (is_full, is_dense): Layer(full if is_full else delta, dense if is_dense else sparse)
        for is_full in (True, False)
        for is_dense in (True, False)
    }
    _note_k3(keys)
    return model(keys, [kinds[n + 1 in full_layers, n < first] for n in range(layers)])


def _kimi_experts(keys: Keys) -> MixtureOfExperts:
    if keys.get("moe_layer_freq", 1) != 1:
        raise ValueError(f"moe_layer_freq is {keys.get('moe_layer_freq')}: only 1 is read here")
    keys.seen |= {"topk_method", "latent_moe_use_norm"}
    width = keys.whole("moe_intermediate_size")
    shared = keys.whole("num_shared_experts", "n_shared_experts", least=0)
    return MixtureOfExperts(
        num_experts=keys.whole("num_experts", "num_local_experts"),
        num_experts_per_tok=keys.whole("num_experts_per_token", "num_experts_per_tok"),
        moe_intermediate_size=width,
        shared_intermediate_size=width * shared,
        correction_bias=True,
        expert_input_size=keys.whole("routed_expert_hidden_size", default=0, least=0),
    )


def _note_k3(keys: Keys) -> None:
    """What Kimi K3's config asks for, and no published structure says how it is stored."""
    keys.note("num_nextn_predict_layers", "the MTP module is not modelled")
    keys.note("mla_use_output_gate", "the shape of the gate on latent attention is not published")
    keys.note("attn_res_block_size", "residual attention across blocks is not modelled")
    if "routed_expert_hidden_size" in keys:
        keys.notes.append(
            f"routed_expert_hidden_size is {keys.get('routed_expert_hidden_size')}: counted with "
            "one matrix into and one out of the experts, an inference from the sizes"
        )


READERS = {
    "qwen3_next": read_qwen3_next,
    "qwen3_5_moe_text": read_qwen3_next,
    "kimi_linear": read_kimi_linear,
}
