"""The rules of routing, each by itself, and what holds for every router."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_utils.moe import MoEConfig, Routing, route, route_top_k, rules

E, K = 8, 3
SIZES = {"num_experts": E, "num_experts_per_tok": K, "moe_intermediate_size": 4}
GROUPS = {"n_group": 4, "topk_group": 2}
BIASED = {"use_routing_bias": True, "routed_scaling_factor": 2.5}
SOFTMAX = {
    "softmax": MoEConfig(**SIZES),
    "softmax, not renormalised": MoEConfig(**SIZES, norm_topk_prob=False),
    "softmax, groups": MoEConfig(**SIZES, **GROUPS, group_score="max", norm_topk_prob=False),
    "softmax of chosen": MoEConfig(**SIZES, scoring_func="softmax_of_chosen"),
    "softmax, bias": MoEConfig(**SIZES, **BIASED),
}
OTHERS = {
    "sigmoid": MoEConfig(**SIZES, **BIASED, scoring_func="sigmoid"),
    "sigmoid, groups": MoEConfig(**SIZES, **BIASED, **GROUPS, scoring_func="sigmoid"),
    "sqrtsoftplus": MoEConfig(**SIZES, **BIASED, scoring_func="sqrtsoftplus"),
    "identity": MoEConfig(**(SIZES | {"num_experts": 6}), zero_expert_num=2),
}
CONFIGS = SOFTMAX | OTHERS
GROUPED = [name for name, config in CONFIGS.items() if config.n_group > 1]
WITH_BIAS = [name for name, config in CONFIGS.items() if config.use_routing_bias]

tokens = st.integers(0, 12)
seeds = st.integers(0, 2**31)
few = settings(deadline=None, max_examples=40)


def drawn(seed: int, T: int, ties: bool = False) -> Tensor:
    """Random logits in 64 bits; with ties, of few different values."""
    generator = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(-2, 3, (T, E), generator=generator).double()
    return torch.randn(T, E, generator=generator, dtype=torch.float64) * 3


def bias_of(config: MoEConfig, seed: int = 1) -> Tensor | None:
    """A bias that makes score + bias negative for some experts; None where the rule has none."""
    generator = torch.Generator().manual_seed(seed)
    bias_E = torch.randn(E, generator=generator, dtype=torch.float64) - 1
    return bias_E if config.use_routing_bias else None


def same(a: Routing, b: Routing, to: float = 0.0) -> bool:
    """The same experts, and the rest equal bit by bit, or to `to`."""
    close = all(torch.allclose(x, y, rtol=0, atol=to) for x, y in zip(a[1:], b[1:], strict=True))
    return torch.equal(a.experts_TK, b.experts_TK) and close


def rows(routing: Routing, which: Tensor | slice) -> Routing:
    return Routing(*(part[which] for part in routing))


@pytest.mark.parametrize("name", CONFIGS)
@given(seed=seeds, T=tokens, ties=st.booleans())
@few
def test_tokens_are_routed_one_by_one(name: str, seed: int, T: int, ties: bool) -> None:
    """In any order, alone, twice in a batch, or a second time: ties are decided alike as well.

    Weights may differ in the last bit: vectorised sigmoids round the ends of a tensor otherwise.
    """
    config, logits_TE = CONFIGS[name], drawn(seed, T, ties)
    bias_E = bias_of(config)
    found = route(logits_TE, config, bias_E)
    assert found.experts_TK.shape == found.weights_TK.shape == (T, K)
    assert found.experts_TK.dtype is torch.int64
    order_T = torch.randperm(T, generator=torch.Generator().manual_seed(seed))
    assert same(route(logits_TE[order_T], config, bias_E), rows(found, order_T), 1e-14)
    assert same(route(logits_TE, config, bias_E), found)
    twice = route(torch.cat([logits_TE, logits_TE]), config, bias_E)
    assert same(rows(twice, slice(T)), found, 1e-14)
    assert same(rows(twice, slice(T, None)), found, 1e-14)
    for token in range(T):
        alone = slice(token, token + 1)
        assert same(route(logits_TE[alone], config, bias_E), rows(found, alone), 1e-14)


@pytest.mark.parametrize("name", CONFIGS)
@given(seed=seeds, T=tokens, ties=st.booleans())
@few
def test_experts_differ_and_are_sorted_best_first(name: str, seed: int, T: int, ties: bool) -> None:
    config, logits_TE = CONFIGS[name], drawn(seed, T, ties)
    bias_E = bias_of(config)
    found = route(logits_TE, config, bias_E)
    assert all(len(set(experts)) == K for experts in found.experts_TK.tolist())
    choice_TE = found.scores_TE if bias_E is None else found.scores_TE + bias_E
    chosen_TK = choice_TE.gather(1, found.experts_TK)
    assert (chosen_TK.diff(dim=1) <= 1e-15).all()
    if config.n_group == 1:
        left_T = choice_TE.scatter(1, found.experts_TK, -torch.inf).amax(1)
        assert (left_T <= chosen_TK[:, -1] + 1e-15).all()


@pytest.mark.parametrize("name", GROUPED)
@given(seed=seeds, T=tokens, ties=st.booleans())
@few
def test_experts_lie_in_few_groups(name: str, seed: int, T: int, ties: bool) -> None:
    config = CONFIGS[name]
    found = route(drawn(seed, T, ties), config, bias_of(config))
    groups_TK = found.experts_TK // (E // config.n_group)
    assert all(len(set(groups)) <= config.topk_group for groups in groups_TK.tolist())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@given(data=st.data())
@few
def test_extreme_logits_stay_finite(name: str, dtype: torch.dtype, data) -> None:
    values = st.sampled_from([-1e4, -104.0, -88.0, -60.0, -1.0, 0.0, 1.0, 60.0, 1e4])
    drawn = data.draw(st.lists(values, min_size=E, max_size=E))
    logits_TE = torch.tensor([drawn], dtype=dtype, requires_grad=True)
    config = CONFIGS[name]
    found = route(logits_TE, config, bias_of(config))
    assert found.weights_TK.dtype is torch.promote_types(dtype, torch.float32)
    assert found.weights_TK.isfinite().all() and (found.weights_TK >= 0).all()
    projection_TK = torch.tensor([[1.0, -2.0, 3.0]], dtype=found.weights_TK.dtype)
    (found.weights_TK * projection_TK).sum().backward()
    assert logits_TE.grad.isfinite().all()


@pytest.mark.parametrize("name", CONFIGS)
@given(seed=seeds, T=tokens)
@few
def test_k_of_all_keeps_all(name: str, seed: int, T: int) -> None:
    old = CONFIGS[name]
    every = {"num_experts_per_tok": E, "n_group": 1, "topk_group": 1}
    config = MoEConfig(**(vars(old) | every))
    found = route(drawn(seed, T), config, bias_of(config))
    assert torch.equal(found.experts_TK.sort(1).values, torch.arange(E).expand(T, E))
    total_T = found.weights_TK.sum(1) / config.routed_scaling_factor
    if config.norm_topk_prob or "softmax" in config.scoring_func:
        torch.testing.assert_close(total_T, torch.ones_like(total_T))


@pytest.mark.parametrize("name", SOFTMAX)
@given(seed=seeds, T=tokens, shift=st.floats(-50, 50))
@few
def test_softmax_does_not_see_a_constant(name: str, seed: int, T: int, shift: float) -> None:
    config, logits_TE = SOFTMAX[name], drawn(seed, T)
    a = route(logits_TE, config, bias_of(config))
    b = route(logits_TE + shift, config, bias_of(config))
    assert torch.equal(a.experts_TK, b.experts_TK)
    torch.testing.assert_close(a.weights_TK, b.weights_TK, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["sigmoid", "sqrtsoftplus"])
def test_other_scores_see_a_constant(name: str) -> None:
    logits_TE, config = drawn(0, 9), CONFIGS[name]
    a, b = route(logits_TE, config), route(logits_TE + 2, config)
    assert (a.weights_TK - b.weights_TK).abs().max() > 0.05


@pytest.mark.parametrize("name", WITH_BIAS)
@given(seed=seeds, T=st.integers(1, 12))
@few
def test_weights_and_gradients_do_not_see_the_bias(name: str, seed: int, T: int) -> None:
    """Bit by bit what they are when the same experts are chosen without a bias."""
    config, logits_TE = CONFIGS[name], drawn(seed, T).requires_grad_()
    bias_E = bias_of(config).requires_grad_()
    projection_TK = torch.randn(T, K, generator=torch.Generator().manual_seed(seed))

    def gradient(found: Routing) -> Tensor:
        return torch.autograd.grad((found.weights_TK * projection_TK).sum(), logits_TE)[0]

    found = route(logits_TE, config, bias_E)
    given_experts = route(logits_TE, config, None, found.experts_TK)
    assert same(found, given_experts)
    assert torch.equal(gradient(found), gradient(given_experts))
    (route(logits_TE, config, bias_E).weights_TK * projection_TK).sum().backward()
    assert bias_E.grad is None and logits_TE.grad.abs().sum() > 0


@pytest.mark.parametrize("name", WITH_BIAS)
def test_a_bias_moves_the_choice(name: str) -> None:
    config, logits_TE = CONFIGS[name], drawn(0, 50)
    bias_E = torch.zeros(E).index_fill(0, torch.tensor([5]), 10.0)
    assert not (route(logits_TE, config).experts_TK == 5).any(1).all()
    assert (route(logits_TE, config, bias_E).experts_TK[:, 0] == 5).all()
    everywhere = route(logits_TE, config, torch.full((E,), 0.25))
    assert torch.equal(everywhere.experts_TK, route(logits_TE, config).experts_TK)


def test_one_renormalised_expert_leaves_the_router_without_gradient() -> None:
    """Why Switch (top-1) does not renormalise: a weight of w / w = 1 does not move."""
    sizes = SIZES | {"num_experts_per_tok": 1}

    def gradient(**rule) -> Tensor:
        logits_TE = drawn(0, 20).requires_grad_()
        routing = route(logits_TE, MoEConfig(**sizes, **rule))
        return torch.autograd.grad(
            (routing.weights_TK * torch.arange(20.0)[:, None]).sum(), logits_TE
        )[0]

    assert gradient(norm_topk_prob=False).abs().max() > 0.1
    for scores in ("softmax", "sigmoid", "sqrtsoftplus", "softmax_of_chosen"):
        assert gradient(norm_topk_prob=True, scoring_func=scores).abs().max() < 1e-12


@given(seed=seeds, T=tokens)
@few
def test_softmax_of_chosen_is_softmax_renormalised(seed: int, T: int) -> None:
    """gpt-oss and Mixtral have one rule in two notations."""
    logits_TE = drawn(seed, T)
    a = route(logits_TE, SOFTMAX["softmax"])
    b = route(logits_TE, SOFTMAX["softmax of chosen"])
    assert torch.equal(a.experts_TK, b.experts_TK)
    torch.testing.assert_close(a.weights_TK, b.weights_TK, rtol=1e-12, atol=1e-12)


@given(seed=seeds, T=tokens)
@few
def test_route_top_k_is_mixtrals_rule(seed: int, T: int) -> None:
    logits_TE = drawn(seed, T)
    found = route(logits_TE, SOFTMAX["softmax"])
    experts_TK, weights_TK = route_top_k(logits_TE, K)
    assert torch.equal(experts_TK, found.experts_TK)
    torch.testing.assert_close(weights_TK, found.weights_TK, rtol=1e-12, atol=1e-12)


def test_rules_by_hand() -> None:
    scores_TE = torch.tensor([[0.9, 0.1, 0.6, 0.5, 0.2, 0.3]])
    assert rules.choose_with_bias(scores_TE, None, 2).tolist() == [[0, 2]]
    bias_E = torch.tensor([-1.0, 0.0, 0.0, 0.2, 0.0, 0.0])
    assert rules.choose_with_bias(scores_TE, bias_E, 2).tolist() == [[3, 2]]
    best = rules.limit_to_groups(scores_TE, 3, 1, "max")
    assert best.isinf().tolist() == [[False, False, True, True, True, True]]
    pair = rules.limit_to_groups(scores_TE, 3, 1, "top2_sum")  # 1.0, 1.1, 0.5
    assert pair.isinf().tolist() == [[True, True, False, False, True, True]]
    torch.testing.assert_close(
        rules.renormalize(torch.tensor([[3.0, 1.0], [0.0, 0.0]])),
        torch.tensor([[0.75, 0.25], [0.0, 0.0]]),
    )
    weight_T1 = rules.identity_weight(
        torch.tensor([[0, 6], [7, 6], [1, 2]]), torch.tensor([[0.5, 0.25]] * 3), num_experts=6
    )
    assert weight_T1.tolist() == [[0.25], [0.75], [0.0]]


def test_gpt_oss_chooses_by_logits_where_softmax_has_only_zeros() -> None:
    logits_TE = torch.tensor([[-300.0, -250.0, -300.0, 10.0, -260.0, -300.0, -240.0, -300.0]])
    found = route(logits_TE, SOFTMAX["softmax of chosen"])
    assert found.experts_TK.tolist() == [[3, 6, 1]]
    assert (found.scores_TE > 0).sum() == 1


def test_scores_by_hand() -> None:
    logits_TE = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    ones = torch.tensor([[1.0, 2.718281828459045, 7.38905609893065]], dtype=torch.float64)
    torch.testing.assert_close(rules.softmax_scores(logits_TE), ones / ones.sum())
    torch.testing.assert_close(rules.sigmoid_scores(logits_TE), ones / (1 + ones))
    torch.testing.assert_close(rules.sqrt_softplus_scores(logits_TE), (1 + ones).log().sqrt())


def test_the_floor_under_softplus_is_needed() -> None:
    """The plain formula has a gradient of NaN at logits that a table's experts can have."""
    for function, finite in (
        (lambda x: F.softplus(x).sqrt(), False),
        (rules.sqrt_softplus_scores, True),
    ):
        logits_E = torch.tensor([-200.0, 1.0], requires_grad=True)
        function(logits_E).sum().backward()
        assert logits_E.grad.isfinite().all() == finite


def test_where_the_floor_of_the_sum_differs_from_adding_to_it() -> None:
    """DeepSeek divides by sum + 1e-20: the same until scores are lost in it."""

    def added(weights_TK: Tensor) -> Tensor:
        return weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)

    small = torch.tensor([[-29.0, -30.0]]).sigmoid()
    assert torch.equal(rules.renormalize(small), added(small))
    smaller = torch.tensor([[-47.0, -48.0]]).sigmoid()
    assert (rules.renormalize(smaller) - added(smaller)).abs().max() > 0.1


@given(seed=seeds, T=tokens)
@few
def test_hash_layers_go_by_the_token_alone(seed: int, T: int) -> None:
    config = CONFIGS["sqrtsoftplus"]
    table_VK = rules.random_hash_table(30, E, K, seed=3)
    ids_T = torch.randint(0, 30, (T,), generator=torch.Generator().manual_seed(seed))
    hashed_TK = rules.hash_experts(ids_T, table_VK)
    a, b = drawn(seed, T), drawn(seed + 1, T)
    found, other = route(a, config, None, hashed_TK), route(b, config, None, hashed_TK)
    assert torch.equal(found.experts_TK, table_VK[ids_T])
    assert torch.equal(found.experts_TK, other.experts_TK)
    assert T == 0 or not torch.equal(found.weights_TK, other.weights_TK)
    total_T = found.weights_TK.sum(1)
    torch.testing.assert_close(total_T, torch.full_like(total_T, 2.5))


def test_random_hash_table_spreads_tokens() -> None:
    table_VK = rules.random_hash_table(8000, E, K)
    assert all(len(set(experts)) == K for experts in table_VK.tolist())
    counts_E = table_VK.flatten().bincount(minlength=E)
    assert (counts_E - 8000 * K / E).abs().max() < 250  # 6 standard deviations
    assert torch.equal(table_VK, rules.random_hash_table(8000, E, K))
    assert not torch.equal(table_VK, rules.random_hash_table(8000, E, K, seed=1))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="7 logits a token and 8 experts"):
        route(torch.zeros(2, 7), SOFTMAX["softmax"])
    with pytest.raises(ValueError, match="set use_routing_bias=True"):
        route(torch.zeros(2, E), SOFTMAX["softmax"], torch.zeros(E))
