"""The cut-off decomposition: nothing is nearer, and what is lost is what was left out."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.layers.low_rank import low_rank_factors


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_the_loss_is_the_squares_left_out(C, D, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(C, D, generator=generator, dtype=torch.float64)
    rank = min(rank, C, D)
    up, down = low_rank_factors(weight, rank)
    assert up.shape == (C, rank) and down.shape == (rank, D)
    lost = (weight - up @ down).pow(2).sum()
    left_out = torch.linalg.svdvals(weight)[rank:].pow(2).sum()
    torch.testing.assert_close(lost, left_out, rtol=1e-9, atol=1e-9)
    other = torch.randn(C, rank, generator=generator, dtype=torch.float64)
    best = other @ torch.linalg.lstsq(other, weight).solution  # any other space of that rank
    assert lost <= (weight - best).pow(2).sum() + 1e-9
    torch.testing.assert_close(down @ down.T, torch.eye(rank, dtype=torch.float64))
