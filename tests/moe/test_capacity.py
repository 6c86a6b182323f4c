"""Capacity: exactly the pairs that come too late are dropped, counted, and not computed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.moe import MoE, MoEConfig, beyond_capacity, drop, expert_capacity, experts_loop


def experts_of(T: int, choices: int, k: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    skew = torch.arange(choices) * 0.2  # later experts are more popular
    return (torch.rand(T, choices, generator=generator) + skew).topk(k).indices


@pytest.mark.parametrize(
    ("tokens", "factor", "expected"),
    [(16, 1.0, 4), (17, 1.0, 5), (16, 1.25, 5), (16, 0.1, 1), (0, 1.0, 0), (1, 4.0, 1)],
)
def test_capacity_is_the_even_share_times_the_factor_rounded_up(tokens, factor, expected):
    assert expert_capacity(tokens, MoEConfig(8, 2, 4, capacity_factor=factor)) == expected


def test_by_hand_the_first_in_position_stay():
    experts_TK = torch.tensor([[0, 1], [1, 0], [0, 2], [1, 0]])
    late_TK = beyond_capacity(experts_TK, 3, 2)
    assert late_TK.tolist() == [[False, False], [False, False], [True, False], [True, True]]
    experts, weights = drop(experts_TK, torch.full((4, 2), 0.5), late_TK, nowhere=3)
    assert experts.tolist() == [[0, 1], [1, 0], [3, 2], [3, 3]]
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5], [0.0, 0.5], [0.0, 0.0]]


@settings(deadline=None)
@given(
    st.integers(0, 30), st.integers(1, 6), st.integers(0, 2), st.integers(0, 9), st.integers(0, 99)
)
def test_each_expert_keeps_its_first_tokens(T, E, identities, capacity, seed):
    k = 1 + seed % (E + identities)
    experts_TK = experts_of(T, E + identities, k, seed)
    late_TK = beyond_capacity(experts_TK, E, capacity)
    for e in range(E):
        tokens = (experts_TK == e).any(1).nonzero().flatten().tolist()
        late = ((experts_TK == e) & late_TK).any(1).nonzero().flatten().tolist()
        assert late == tokens[capacity:]
    assert not late_TK[experts_TK >= E].any()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 20), st.floats(0.2, 2.0), st.integers(0, 99))
def test_exactly_the_counted_pairs_are_not_computed(T, factor, seed):
    config = MoEConfig(5, 2, 6, zero_expert_num=1, capacity_factor=factor)
    computed = []

    def counting(x_TD, experts_TK, weights_TK, *stacked):
        computed.append(experts_TK)
        return experts_loop(x_TD, experts_TK, weights_TK, *stacked)

    torch.manual_seed(seed)
    layer = MoE(4, config, dispatch=counting)
    layer.gate.weight.data.normal_()
    layer(torch.randn(T, 4))
    wanted_E = layer.routing.experts_TK.flatten().bincount(minlength=6)
    computed_E = computed[0].flatten().bincount(minlength=7)
    capacity = math.ceil(T * 2 / 5 * factor)
    assert torch.equal(computed_E[:5], wanted_E[:5].clamp(max=capacity))
    assert torch.equal(layer.dropped, wanted_E - computed_E[:6])
    assert layer.dropped.sum() == computed_E[6]


def test_a_dropped_pair_gives_nothing_and_gets_no_gradient():
    torch.manual_seed(0)
    free, limited = (MoE(4, MoEConfig(3, 1, 6, capacity_factor=c)) for c in (None, 0.5))
    limited.load_state_dict(free.state_dict())
    for layer in (free, limited):
        layer.gate.weight.data = torch.tensor([[9.0], [0.0], [0.0]]).expand(3, 4).clone()
    x_TD = torch.rand(12, 4, requires_grad=True)  # all of them choose expert 0, which takes 2
    y_TD = limited(x_TD)
    torch.testing.assert_close(y_TD[:2], free(x_TD)[:2])
    assert y_TD[2:].abs().max() == 0 and limited.dropped.tolist() == [10, 0, 0]
    y_TD.pow(2).sum().backward()
    assert x_TD.grad[2:].abs().max() == 0 and x_TD.grad[:2].abs().max() > 0


def test_enough_capacity_changes_nothing():
    torch.manual_seed(0)
    free, roomy = (MoE(4, MoEConfig(3, 2, 6, capacity_factor=c)) for c in (None, 3.0))
    roomy.load_state_dict(free.state_dict())
    x_TD = torch.randn(10, 4)
    torch.testing.assert_close(roomy(x_TD), free(x_TD))
    assert free.dropped.tolist() == roomy.dropped.tolist() == [0, 0, 0]
