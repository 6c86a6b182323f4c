"""The config of an MoE layer refuses what cannot be, and says what to do."""

import pytest

from course_utils.moe import MoEConfig

GOOD = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_experts": 0}, "num_experts is 0"),
        ({"num_experts_per_tok": True}, "num_experts_per_tok is True"),
        ({"num_experts_per_tok": 9}, "more than the 8 experts"),
        ({"scoring_func": "relu"}, "scoring_func is 'relu'"),
        ({"n_group": 3}, "n_group 3 must divide the 8"),
        ({"n_group": 4, "topk_group": 5}, "topk_group 5 must not exceed"),
        ({"n_group": 8, "topk_group": 1, "group_score": "max"}, "raise topk_group"),
        ({"n_group": 8, "topk_group": 4}, "needs two: lower n_group"),
        ({"norm_topk_prob": None}, "norm_topk_prob is None"),
        ({"router_bias": 1}, "router_bias is 1"),
        ({"moe_norm_min": 0.0}, "moe_norm_min is 0.0"),
        ({"routed_scaling_factor": float("nan")}, "routed_scaling_factor is nan"),
        ({"routed_scaling_factor": None}, "routed_scaling_factor is None"),
        ({"group_score": "mean"}, "group_score is 'mean'"),
        ({"capacity_factor": 0.0}, "capacity_factor is 0.0"),
        ({"use_shared_expert_gate": True}, "needs n_shared_experts"),
        ({"experts": 3}, "unknown MoE config key 'experts'"),
    ],
)
def test_wrong_values_are_named(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MoEConfig.from_dict(GOOD | wrong)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="moe_intermediate_size"):
        MoEConfig.from_dict({"num_experts": 8, "num_experts_per_tok": 2})


def test_identity_experts_can_be_chosen() -> None:
    config = MoEConfig.from_dict(GOOD | {"zero_expert_num": 4, "num_experts_per_tok": 12})
    assert config.num_choices == 12
