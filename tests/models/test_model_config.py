"""Configs: what cannot be is refused once, by name and value."""

import dataclasses
import json

import pytest

from course_utils.models import ModelConfig

GOOD = dict(
    vocab_size=10,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
)
WHOLE = [field.name for field in dataclasses.fields(ModelConfig) if field.type is int]


def test_good_values_and_the_default_head():
    config = ModelConfig.from_dict(GOOD)
    assert config.head_dim == 2
    assert ModelConfig(**GOOD | {"head_dim": 6}).head_dim == 6
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.vocab_size = 11


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [-1, True, 2.0, "8", None])
def test_sizes_must_be_whole_and_positive(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value!r}: it must be"):
        ModelConfig(**GOOD | {name: value})


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "head_dim"])
def test_sizes_must_not_be_zero(name):
    with pytest.raises(ValueError, match=f"^{name} is 0: it must be at least 1"):
        ModelConfig(**GOOD | {name: 0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ({"num_key_value_heads": 8}, "num_key_value_heads 8 does not divide num_attention_heads 4"),
        ({"hidden_size": 9}, "num_attention_heads 4 does not divide hidden_size 9"),
        ({"head_dim": 3}, "head_dim is 3: RoPE needs an even number"),
        ({"hidden_size": 4}, "head_dim is 1: RoPE needs an even number"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0"),
        ({"rope_theta": -1.0}, "rope_theta -1.0"),
    ],
)
def test_values_that_do_not_fit_together(changes, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**GOOD | changes)


def test_unknown_key_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown config key 'num_experts': known are .*head_dim"):
        ModelConfig.from_dict(GOOD | {"num_experts": 4})


@pytest.mark.parametrize("name", list(GOOD))
def test_missing_key_is_named(name):
    with pytest.raises(ValueError, match=rf"incomplete config: .*'{name}'"):
        ModelConfig.from_dict({key: value for key, value in GOOD.items() if key != name})
