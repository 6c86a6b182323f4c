"""The configs of attention: what cannot be is refused by name, what can comes back from JSON."""

import dataclasses
import json

import pytest

from course_utils.attention import IndexerConfig, LinearAttentionConfig, MLAConfig, YarnConfig
from course_utils.models import ModelConfig

MLA = {"kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
YARN = {"factor": 4, "original_max_position_embeddings": 32}
INDEX = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 16}
LINEAR = {
    "kind": "gated_deltanet", "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 16,
}  # fmt: skip
MODEL = dict(
    vocab_size=10,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
)
MIXED = ["linear_attention", "sliding_attention", "linear_attention", "full_attention"]
WHOLE = {
    MLAConfig: (MLA, [*MLA, "q_lora_rank"]),
    IndexerConfig: (INDEX, [*INDEX]),
    LinearAttentionConfig: (LINEAR, [*LINEAR][1:]),
    YarnConfig: (YARN, ["original_max_position_embeddings"]),
}


def test_a_model_with_everything_comes_back_from_json():
    mla = MLA | {"q_lora_rank": 7, "rope_scaling": YARN | {"type": "yarn"}, "index": INDEX}
    values = MODEL | {
        "mla": mla, "linear": LINEAR, "sliding_window": 3, "layer_types": MIXED,
    }  # fmt: skip
    config = ModelConfig.from_dict(values)
    assert config.mla.rope_scaling == YarnConfig(4, 32) and config.mla.index.index_topk == 16
    assert [config.layer_type(n) for n in range(4)] == MIXED
    assert config.mla.qk_head_dim == 10 and config.linear.linear_conv_kernel_dim == 4
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.mla.kv_lora_rank = 9


def test_a_plain_config_has_none_of_the_new_keys():
    config = ModelConfig(**MODEL)
    assert not {"moe", "mla", "linear", "sliding_window", "layer_types"} & set(config.to_dict())
    assert config.layer_type(3) == "full_attention"


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "8"])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, (_, names) in WHOLE.items() for name in names]
)
def test_sizes_must_be_whole_and_positive(kind, name, value):
    if name == "linear_conv_kernel_dim" and value == 0:
        pytest.skip("lightning attention has none")
    with pytest.raises(ValueError, match=f"^{name} is {value!r}: it must be a whole number"):
        kind.from_dict(WHOLE[kind][0] | {name: value})


@pytest.mark.parametrize("kind", list(WHOLE))
def test_unknown_and_missing_keys_are_named(kind):
    good, names = WHOLE[kind]
    with pytest.raises(ValueError, match=f"unknown {kind.__name__} key 'q_rank'"):
        kind.from_dict(good | {"q_rank": 3})
    lacking = {key: value for key, value in good.items() if key != names[0]}
    with pytest.raises(ValueError, match=rf"incomplete {kind.__name__}: .*'{names[0]}'"):
        kind.from_dict(lacking)


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (MLAConfig, MLA | {"qk_rope_head_dim": 3}, "qk_rope_head_dim is 3: RoPE needs an even"),
        (MLAConfig, MLA | {"rope_scaling": 4}, "rope_scaling is 4: it must be of class YarnConfig"),
        (MLAConfig, MLA | {"index": "all"}, "index is 'all': it must be of class Index"),
        (MLAConfig, MLA | {"index": INDEX | {"index_head_dim": 2}}, "index_head_dim 2 is less"),
        (IndexerConfig, INDEX | {"index_head_dim": 5}, "index_head_dim is 5: RoPE needs an even"),
        (YarnConfig, YARN | {"type": "linear"}, "type is 'linear': only 'yarn'"),
        (YarnConfig, YARN | {"factor": 0.5}, "factor is 0.5: YaRN stretches by 1 or more"),
        (YarnConfig, YARN | {"beta_slow": 40}, "beta_slow 40 must be > 0 and below beta_fast 32"),
        (YarnConfig, YARN | {"mscale": -1}, "mscale is -1"),
        (LinearAttentionConfig, LINEAR | {"kind": "rnn"}, "kind is 'rnn': it must be one of gated"),
        (LinearAttentionConfig, LINEAR | {"linear_num_key_heads": 3}, "3 does not divide"),
        (LinearAttentionConfig, LINEAR | {"kind": "kda"}, r"kda has key heads \(2, 8\)"),
        (
            LinearAttentionConfig,
            LINEAR | {"linear_conv_kernel_dim": 0},
            "linear_conv_kernel_dim is",
        ),
    ],
)
def test_values_that_do_not_fit_together(kind, values, words):
    with pytest.raises(ValueError, match=words):
        kind.from_dict(values)


def test_lightning_has_no_convolution():
    same = LINEAR | {"kind": "lightning", "linear_num_value_heads": 2, "linear_value_head_dim": 8}
    assert LinearAttentionConfig(**same).linear_conv_kernel_dim == 0
    with pytest.raises(ValueError, match="linear_conv_kernel_dim is 4: lightning attention has"):
        LinearAttentionConfig(**same, linear_conv_kernel_dim=4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries: there are 4 layers"),
        ({"layer_types": ["local"] * 4}, "layer_types has 'local': it must be one of full"),
        ({"sliding_window": 3}, "sliding_window is given, but layer_types has no 'sliding"),
        ({"layer_types": ["sliding_attention"] * 4}, "sliding_window is missing, but layer_types"),
        ({"linear": LINEAR}, "linear is given, but layer_types has no 'linear_attention'"),
        ({"layer_types": ["linear_attention"] * 4}, "linear is missing, but layer_types has"),
        ({"sliding_window": 0}, "sliding_window is 0: it must be at least 1"),
        ({"sliding_window": 2.5}, "sliding_window is 2.5: it must be a whole number"),
        ({"mla": "latent"}, "mla is 'latent': it must be an MLAConfig"),
        ({"linear": 3}, "linear is 3: it must be a LinearAttentionConfig"),
        (
            {"mla": MLA, "sliding_window": 2, "layer_types": ["sliding_attention"] * 4},
            "mla is given, but layer_types has no 'full_attention'",
        ),
    ],
)
def test_layers_and_their_sizes_go_together(changes, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig.from_dict(MODEL | changes)
