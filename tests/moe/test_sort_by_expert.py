"""Sorting pairs by expert: by hand, with experts nobody chose, and in general."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.moe import experts_loop, experts_sorted, sort_by_expert


def test_by_hand():
    experts_TK = torch.tensor([[2, 0], [0, 2], [3, 2]])
    order_S, ends_E = sort_by_expert(experts_TK, 4)
    assert order_S.tolist() == [1, 2, 0, 3, 5, 4]
    assert ends_E.tolist() == [2, 2, 5, 6]  # nobody chose expert 1


def test_no_tokens_and_identity_experts():
    order_S, ends_E = sort_by_expert(torch.zeros(0, 2, dtype=torch.int64), 3)
    assert order_S.shape == (0,) and ends_E.tolist() == [0, 0, 0]
    order_S, ends_E = sort_by_expert(torch.tensor([[4, 1], [3, 0]]), 3)  # 3 and 4 are identities
    assert order_S.tolist() == [3, 1, 2, 0] and ends_E.tolist() == [1, 2, 2]


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 9), st.integers(0, 3), st.data())
def test_every_pair_once_and_in_its_block(T, E, identities, data):
    choices = E + identities
    k, seed = data.draw(st.integers(1, choices)), data.draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    experts_TK = torch.rand(T, choices, generator=generator).topk(k).indices
    order_S, ends_E = sort_by_expert(experts_TK, E)
    assert sorted(order_S.tolist()) == list(range(T * k))
    starts = [0, *ends_E.tolist()]
    for e in range(E):
        block_S = order_S[starts[e] : ends_E[e]]
        assert (experts_TK.flatten()[block_S] == e).all()
        assert (block_S.diff() > 0).all()  # in their old order
    assert (experts_TK.flatten()[order_S[starts[-1] :]] >= E).all()


@settings(deadline=None)  # the first call of a kernel is slow
@given(st.integers(0, 20), st.integers(1, 6), st.integers(0, 2), st.integers(0, 99))
def test_sorted_blocks_give_what_the_loop_gives(T, E, identities, seed):
    generator = torch.Generator().manual_seed(seed)
    choices, D, width = E + identities, 4, 6
    k = 1 + seed % choices
    x_TD = torch.randn(T, D, generator=generator)
    experts_TK = torch.rand(T, choices, generator=generator).topk(k).indices
    weights_TK = torch.rand(T, k, generator=generator)
    shapes = ((E, D, width), (E, D, width), (E, width, D))
    stacked = [torch.randn(shape, generator=generator) for shape in shapes]
    results = [f(x_TD, experts_TK, weights_TK, *stacked) for f in (experts_loop, experts_sorted)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
