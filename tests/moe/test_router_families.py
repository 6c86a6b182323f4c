"""Every family's router is that of `transformers`, and known mistakes are told apart from it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from router_oracles import (
    ORACLES,
    D,
    K,
    KeepFloat64,
    Oracle,
    T,
    agree,
    correction_bias,
    gradients,
    ours,
    theirs,
)
from torch import Tensor

from course_utils.moe import MoEConfig, Routing, route, rules

SEEDS = (0, 1, 2)


def compare(name: str, seed: int, dtype: torch.dtype, route: Callable = route) -> None:
    """Hold `route` to the oracle `name` in values and gradients."""
    router, config = ORACLES[name].build(seed)
    router.to(dtype)
    x_TD = torch.randn(T, D, dtype=dtype, requires_grad=True)
    ids_T = torch.randint(0, 40, (T,))
    found = ours(route, router, config, x_TD, ids_T)
    experts_TK, weights_TK = theirs(router, x_TD, ids_T)
    to = 1e-5 if dtype is torch.float32 else 1e-9
    scale = config.routed_scaling_factor
    agree(found.experts_TK, found.weights_TK / scale, experts_TK, weights_TK / scale, to)
    assert found.weights_TK.dtype is dtype
    mine = gradients(found.experts_TK, found.weights_TK, router, x_TD)
    other = gradients(experts_TK, weights_TK, router, x_TD)
    for a, b in zip(mine, other, strict=True):
        assert b.abs().max() > 1e-3, "nothing to compare"
        torch.testing.assert_close(a, b, atol=to * T * scale, rtol=to)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ORACLES)
def test_float32(name: str, seed: int) -> None:
    compare(name, seed, torch.float32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ORACLES)
def test_float64(name: str, seed: int) -> None:
    with KeepFloat64():
        compare(name, seed, torch.float64)


@pytest.mark.parametrize("name", ORACLES)
def test_only_gpt_oss_and_deepseek_v4_do_not_convert_to_32_bits(name: str) -> None:
    """Why the comparison in 64 bits takes the conversions out."""
    router, config = ORACLES[name].build(0)
    x_TD, ids_T = torch.randn(T, D, dtype=torch.float64), torch.randint(0, 40, (T,))
    with torch.no_grad():
        found = ours(route, router.double(), config, x_TD, ids_T)
        experts_TK, weights_TK = theirs(router, x_TD, ids_T)
    pair = (found.experts_TK, found.weights_TK, experts_TK, weights_TK.double())
    agree(*pair, to=1e-5)
    if config.scoring_func in ("softmax_of_chosen", "sqrtsoftplus"):
        return agree(*pair, to=1e-14)
    with pytest.raises(AssertionError):
        agree(*pair, to=1e-9)


# Mistakes of real code. Each is a `route` with one thing wrong.


def normalised(weights_TK: Tensor, config: MoEConfig) -> Tensor:
    if config.norm_topk_prob:
        weights_TK = rules.renormalize(weights_TK, config.moe_norm_min)
    return weights_TK * config.routed_scaling_factor


def bias_in_weights(logits_TE: Tensor, config: MoEConfig, bias_E: Tensor, *hashed) -> Routing:
    right = route(logits_TE, config, bias_E, *hashed)
    weights_TK = (right.scores_TE + bias_E).gather(1, right.experts_TK)
    return right._replace(weights_TK=normalised(weights_TK, config))


def bias_ignored(logits_TE: Tensor, config: MoEConfig, bias_E: Tensor, *hashed) -> Routing:
    return route(logits_TE, config, None, *hashed)


def groups_closed_with_0(logits_TE: Tensor, config: MoEConfig, bias_E: Tensor | None) -> Routing:
    right = route(logits_TE, config, bias_E)
    choice_TE = right.scores_TE if bias_E is None else right.scores_TE + bias_E
    sizes = (config.n_group, config.topk_group, config.group_score)
    open_TE = rules.limit_to_groups(choice_TE, *sizes)
    experts_TK = open_TE.masked_fill(open_TE.isinf(), 0.0).topk(K).indices
    weights_TK = right.scores_TE.gather(1, experts_TK)
    return right._replace(experts_TK=experts_TK, weights_TK=normalised(weights_TK, config))


def groups_ignored(logits_TE: Tensor, config: MoEConfig, *rest) -> Routing:
    return route(logits_TE, replace(config, n_group=1), *rest)


def other_group_score(logits_TE: Tensor, config: MoEConfig, *rest) -> Routing:
    other = {"max": "top2_sum", "top2_sum": "max"}[config.group_score]
    return route(logits_TE, replace(config, group_score=other), *rest)


def normalised_the_other_way(logits_TE: Tensor, config: MoEConfig, *rest) -> Routing:
    return route(logits_TE, replace(config, norm_topk_prob=not config.norm_topk_prob), *rest)


def scaled_inside(logits_TE: Tensor, config: MoEConfig, *rest) -> Routing:
    right = route(logits_TE, config, *rest)
    return right._replace(weights_TK=rules.renormalize(right.weights_TK))


def unscaled(logits_TE: Tensor, config: MoEConfig, *rest) -> Routing:
    return route(logits_TE, replace(config, routed_scaling_factor=1.0), *rest)


def softmax_for_sigmoid(logits_TE: Tensor, config: MoEConfig, *rest) -> Routing:
    other = {"softmax": "sigmoid"}.get(config.scoring_func, "softmax")
    return route(logits_TE, replace(config, scoring_func=other), *rest)


def names(which: Callable[[Oracle, MoEConfig], bool]) -> list[str]:
    return [name for name, oracle in ORACLES.items() if which(oracle, oracle.build(0)[1])]


BIASED = names(lambda oracle, config: oracle.bias_std > 0)
NEGATIVE = names(lambda oracle, config: oracle.bias_mean < 0)
GROUPED = names(lambda oracle, config: config.n_group > 1)
SCALED = names(lambda oracle, config: config.routed_scaling_factor != 1)
SUMMED = names(lambda oracle, config: config.norm_topk_prob)
OF_ALL = names(lambda oracle, config: config.scoring_func != "softmax_of_chosen")
SIGMOID = names(lambda oracle, config: config.scoring_func != "softmax" and oracle.bias_std > 0)
MISTAKES = {
    bias_in_weights: BIASED,
    bias_ignored: BIASED,
    groups_closed_with_0: NEGATIVE,
    groups_ignored: GROUPED,
    other_group_score: GROUPED,
    normalised_the_other_way: OF_ALL,
    scaled_inside: [name for name in SCALED if name in SUMMED],
    unscaled: SCALED,
    softmax_for_sigmoid: SIGMOID,
}


def test_mistakes_are_tried_on_something() -> None:
    assert {wrong.__name__: len(tried) for wrong, tried in MISTAKES.items()} == {
        "bias_in_weights": 15,
        "bias_ignored": 15,
        "groups_closed_with_0": 3,
        "groups_ignored": 7,
        "other_group_score": 7,
        "normalised_the_other_way": 27,
        "scaled_inside": 9,
        "unscaled": 14,
        "softmax_for_sigmoid": 12,
    }


@pytest.mark.parametrize(
    ("wrong", "name"), [(wrong, name) for wrong, tried in MISTAKES.items() for name in tried]
)
def test_the_comparison_tells_mistakes_apart(wrong: Callable, name: str) -> None:
    with pytest.raises(AssertionError, match=r"other experts|not close"):
        compare(name, 0, torch.float32, wrong)


@pytest.mark.parametrize("name", [name for name in GROUPED if name not in NEGATIVE])
def test_closing_with_0_is_no_mistake_while_scores_are_positive(name: str) -> None:
    """DeepSeek-V2 does it, and why V3's first code passed: a bias near zero hides it."""
    router, config = ORACLES[name].build(0)
    logits_TE = torch.randn(T, config.num_choices)
    bias = correction_bias(router)
    bias_E = None if bias is None else bias.abs()
    right = route(logits_TE, config, bias_E)
    wrong = groups_closed_with_0(logits_TE, config, bias_E)
    agree(*right[:2], *wrong[:2], to=0.0)


@pytest.mark.parametrize("name", names(lambda oracle, config: config.zero_expert_num > 0))
def test_identity_experts_return_the_token(name: str) -> None:
    """With real experts that return zero, LongCat's layer gives the token times that weight."""
    from transformers import LongcatFlashConfig
    from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashMoE

    sizes = ORACLES[name].config | {"expert_ffn_hidden_size": 4}
    layer = LongcatFlashMoE(LongcatFlashConfig(hidden_size=D, **sizes))
    router, config = ORACLES[name].build(0)
    layer.router = router
    torch.nn.init.normal_(layer.experts.gate_up_proj)
    torch.nn.init.zeros_(layer.experts.down_proj)
    x_TD = torch.randn(T, D)
    found = ours(route, router, config, x_TD, x_TD)
    weight_T1 = rules.identity_weight(found.experts_TK, found.weights_TK, config.num_experts)
    assert 0 < (weight_T1 > 0).sum() < T
    torch.testing.assert_close(layer(x_TD[None])[0], weight_T1 * x_TD)
