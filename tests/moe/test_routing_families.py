"""Published configs become the right `MoEConfig`, and what is not known is refused by name."""

import pytest

from course_utils.accounting.catalog import catalog, find
from course_utils.accounting.feed_forward import MixtureOfExperts
from course_utils.moe import MoEConfig
from course_utils.moe.families import FAMILIES, moe_config

NOT_READ = {
    "Hunyuan-Large": "model_type is 'hunyuan'",
    "Kimi-K3": "routed_expert_hidden_size is 3584",
    "Ling-1T": "model_type is 'bailing_moe'",
    "Ling-mini-2.0": "model_type is 'bailing_moe'",
    "Ling-plus": "model_type is 'bailing_moe'",
    "Step-3": "model_type is 'step3_text'",
}
ONE_GROUP = {"n_group": 1, "topk_group": 1, "norm_topk_prob": True}
EIGHT_GROUPS = {"n_group": 8, "topk_group": 4, "norm_topk_prob": True}
# The catalog keeps the keys that change a count; these are the ones of the rule, as published.
RULE = {
    "DeepSeek-R1": EIGHT_GROUPS | {"routed_scaling_factor": 2.5},
    "DeepSeek-V2": {"n_group": 8, "topk_group": 3, "routed_scaling_factor": 16.0},
    "DeepSeek-V2-Lite": {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0},
    "DeepSeek-V3": EIGHT_GROUPS | {"routed_scaling_factor": 2.5, "scoring_func": "sigmoid"},
    "DeepSeek-V3.2-Exp": EIGHT_GROUPS | {"routed_scaling_factor": 2.5},
    "DeepSeek-V4-Flash": {"routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus"},
    "DeepSeek-V4-Pro": {"routed_scaling_factor": 2.5, "scoring_func": "sqrtsoftplus"},
    "DeepSeekMoE-16B": {"norm_topk_prob": False, "scoring_func": "softmax"},
    "GLM-4.5": ONE_GROUP | {"routed_scaling_factor": 2.5},
    "GLM-4.5-Air": ONE_GROUP | {"routed_scaling_factor": 1.0},
    "GLM-5": ONE_GROUP | {"routed_scaling_factor": 2.5},
    "Kimi-K2": ONE_GROUP | {"routed_scaling_factor": 2.827},
    "Kimi-Linear-48B-A3B": {
        "num_expert_group": 1,
        "topk_group": 1,
        "moe_renormalize": True,
        "routed_scaling_factor": 2.446,
    },
    "MiniMax-M3": {"routed_scaling_factor": 2.0, "scoring_func": "sigmoid"},
    "Moonlight-16B-A3B": ONE_GROUP | {"routed_scaling_factor": 2.446},
    "OLMoE-1B-7B": {"norm_topk_prob": False},
    "Qwen1.5-MoE-A2.7B": {"norm_topk_prob": False},
    "Qwen3-235B-A22B": {"norm_topk_prob": True},
    "Qwen3-30B-A3B": {"norm_topk_prob": True},
    "Qwen3-Next-80B-A3B": {"norm_topk_prob": True},
}


def sparse_layers(name: str) -> list[MixtureOfExperts]:
    parts = [layer.feed_forward for layer in find(name).spec.layers]
    return [part for part in parts if isinstance(part, MixtureOfExperts)]


SPARSE = [name for name in catalog() if sparse_layers(name)]


@pytest.mark.parametrize("name", sorted(set(SPARSE) - set(NOT_READ)))
def test_sizes_are_those_that_accounting_reads(name: str) -> None:
    config = moe_config(find(name).config | RULE.get(name, {}))
    parts = sparse_layers(name)
    assert config.first_k_dense_replace == len(find(name).spec.layers) - len(parts)
    for part in parts:
        assert config.num_experts == part.num_experts
        assert config.num_experts_per_tok == part.num_experts_per_tok
        assert config.moe_intermediate_size == part.moe_intermediate_size
        shared = config.n_shared_experts * config.moe_intermediate_size
        assert shared == part.shared_intermediate_size
        assert config.use_shared_expert_gate == part.shared_gate
        assert config.router_bias == part.router_bias
    # a correction bias is in the checkpoint, except in layers that choose by a table
    corrected = sum(part.correction_bias for part in parts)
    assert corrected == (len(parts) - config.num_hash_layers) * config.use_routing_bias


@pytest.mark.parametrize(("name", "words"), NOT_READ.items())
def test_families_that_are_not_read_are_named(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        moe_config(find(name).config)


@pytest.mark.parametrize("name", sorted(RULE))
def test_a_rule_is_never_guessed(name: str) -> None:
    with pytest.raises(ValueError, match="is missing"):
        moe_config(find(name).config)


def test_deepseek_v3_by_hand() -> None:
    found = moe_config(find("DeepSeek-V3").config | RULE["DeepSeek-V3"])
    assert found == MoEConfig(
        num_experts=256,
        num_experts_per_tok=8,
        moe_intermediate_size=2048,
        n_shared_experts=1,
        first_k_dense_replace=3,
        scoring_func="sigmoid",
        use_routing_bias=True,
        n_group=8,
        topk_group=4,
        group_score="top2_sum",
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
    )


def test_deepseek_v2_reads_two_rules() -> None:
    limited = moe_config(find("DeepSeek-V2").config | RULE["DeepSeek-V2"])
    greedy = moe_config(find("DeepSeek-V2-Lite").config | RULE["DeepSeek-V2-Lite"])
    assert (limited.n_group, limited.topk_group, limited.group_score) == (8, 3, "max")
    assert (greedy.n_group, greedy.topk_group) == (1, 1)
    assert not limited.norm_topk_prob and not greedy.norm_topk_prob
    assert limited.routed_scaling_factor == 16.0


def test_longcat_and_ernie_by_hand() -> None:
    longcat = moe_config(
        {
            "model_type": "longcat_flash",
            "n_routed_experts": 512,
            "zero_expert_num": 256,
            "zero_expert_type": "identity",
            "moe_topk": 12,
            "expert_ffn_hidden_size": 2048,
            "routed_scaling_factor": 6.0,
        }
    )
    assert (longcat.num_choices, longcat.zero_expert_num) == (768, 256)
    assert longcat.use_routing_bias and not longcat.norm_topk_prob
    ernie = moe_config(find("ERNIE-4.5-300B-A47B").config)
    assert (ernie.moe_norm_min, ernie.first_k_dense_replace) == (1e-12, 3)
    assert ernie.scoring_func == "softmax" and ernie.use_routing_bias


V3 = {"model_type": "deepseek_v3", "n_routed_experts": 8, "num_experts_per_tok": 2}
V3 |= {"moe_intermediate_size": 4} | ONE_GROUP | {"routed_scaling_factor": 1.0}
QWEN = {"model_type": "qwen2_moe", "num_experts": 8, "num_experts_per_tok": 2}
QWEN |= {"moe_intermediate_size": 4, "norm_topk_prob": False}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (V3 | {"model_type": "llama"}, "model_type is 'llama': known are"),
        ({"n_routed_experts": 8}, "model_type is None"),
        (V3 | {"model_type": "deepseek_v2"}, "model_type is 'deepseek_v2 None'"),
        (V3 | {"topk_method": "greedy"}, "topk_method is 'greedy': deepseek_v3 has only"),
        (V3 | {"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
        (V3 | {"n_routed_experts": None}, "n_routed_experts or .* is missing"),
        (V3 | {"moe_intermediate_size": 0}, "moe_intermediate_size or .* is 0"),
        (QWEN | {"num_experts_per_tok": 2.0}, "num_experts_per_tok or .* is 2.0"),
        (QWEN | {"shared_expert_intermediate_size": "8"}, "shared_expert_intermediate_size is '8'"),
        (V3 | {"n_group": 3}, "n_group 3 must divide"),
        (V3 | {"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'"),
        (V3 | {"moe_layer_freq": 2}, "moe_layer_freq is 2"),
        (V3 | {"moe_layer_freq": [0, 1, 0]}, "moe_layer_freq has 0 after layer 1"),
        (V3 | {"mlp_layer_types": ["sparse", "dense"]}, "'dense' after layer 0"),
        (QWEN | {"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        (QWEN | {"mlp_only_layers": [1]}, r"mlp_only_layers is \[1\]"),
        (QWEN | {"shared_expert_intermediate_size": 6}, "must be a multiple of 4"),
        (QWEN | {"num_experts": [8, 16]}, "num_experts differs between layers"),
        (V3 | {"model_type": "minimax_m2", "use_routing_bias": False}, "use_routing_bias is False"),
        (V3 | {"model_type": "ernie4_5_moe", "moe_layer_interval": 2}, "moe_layer_interval is 2"),
        (V3 | {"model_type": "ernie4_5_moe", "moe_layer_end_index": 1}, "end_index is 1"),
    ],
)
def test_what_is_not_known_is_named(config: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        moe_config(config)


def test_dense_layers_in_every_notation() -> None:
    assert moe_config(V3 | {"first_k_dense_replace": 2}).first_k_dense_replace == 2
    assert moe_config(V3 | {"moe_layer_freq": [0, 0, 1]}).first_k_dense_replace == 2
    assert moe_config(V3 | {"mlp_layer_types": ["dense", "sparse"]}).first_k_dense_replace == 1
    shared = QWEN | {"mlp_only_layers": [0], "shared_expert_intermediate_size": 8}
    assert moe_config(shared).first_k_dense_replace == 1


def test_hash_layers_in_both_notations() -> None:
    v4 = V3 | {"model_type": "deepseek_v4"}
    assert moe_config(v4 | {"num_hash_layers": 3}).num_hash_layers == 3
    assert moe_config(v4 | {"mlp_layer_types": ["hash_moe", "moe"]}).num_hash_layers == 1


def test_every_rule_is_of_a_field_that_exists() -> None:
    known = set(MoEConfig.__dataclass_fields__)
    for name, family in FAMILIES.items():
        assert set(family.always) | set(family.reads) <= known, name
        assert set(family.usual) <= set(family.reads.values()), name
