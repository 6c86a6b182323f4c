"""Divergence between labels: by definition, planted and found, absent and not found."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from course_utils.moe import (
    expert_shares,
    jensen_shannon,
    measure_specialization,
    routing_divergence,
    top_tokens,
)

N, E, K, WINDOW = 3200, 16, 2, 32
LABELS = torch.arange(N // WINDOW).remainder(4).repeat_interleave(WINDOW)  # 100 windows, 4 domains


def routed(logits_NE: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """k experts each by logits plus noise."""
    noise = torch.rand(logits_NE.shape, generator=torch.Generator().manual_seed(seed))
    return (logits_NE - (-noise.log()).log()).topk(K, dim=-1).indices


def test_shares_by_hand():
    experts_NK = torch.tensor([[0, 1], [0, 2], [3, 2], [0, 3]])
    shares_GE = expert_shares(experts_NK, torch.tensor([0, 0, 1, 0]), 4, 3)
    expected = torch.tensor([[3, 1, 1, 1], [0, 0, 3, 3]], dtype=torch.float64) / 6
    torch.testing.assert_close(shares_GE[:2], expected)
    assert shares_GE[2].isnan().all()


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_jensen_shannon_is_the_mean_divergence_from_the_middle(E, seed):
    pair = torch.rand(2, E, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    p_E, q_E = pair / pair.sum(-1, keepdim=True)
    middle_E = (p_E + q_E) / 2
    nats = [F.kl_div(middle_E.log(), part_E, reduction="sum") for part_E in (p_E, q_E)]
    torch.testing.assert_close(jensen_shannon(p_E, q_E), sum(nats) / 2 / math.log(2))
    torch.testing.assert_close(jensen_shannon(p_E, q_E), jensen_shannon(q_E, p_E))


def test_equal_is_zero_and_disjoint_is_one():
    p_E = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    assert float(jensen_shannon(p_E, p_E)) == 0
    assert float(jensen_shannon(p_E, p_E.flip(0))) == pytest.approx(1)
    experts_NK = torch.tensor([[0, 1], [2, 3]] * 5)
    assert routing_divergence(experts_NK, torch.tensor([7, 9] * 5), 4) == pytest.approx(1)


def test_mean_over_pairs():
    experts_NK = torch.tensor([[0], [0], [1]])  # labels 0 and 1 agree, 2 shares nothing
    assert routing_divergence(experts_NK, torch.tensor([0, 1, 2]), 2) == pytest.approx(2 / 3)


def test_planted_specialisation_is_found():
    logits_NE = torch.zeros(N, E)
    logits_NE[torch.arange(N), LABELS * 4] = 2.0  # each domain favours one expert
    result = measure_specialization(routed(logits_NE), LABELS, E, block=WINDOW)
    assert result.beyond_chance
    assert result.divergence > 0.05 > 5 * result.control_mean


@pytest.mark.parametrize("seed", range(3))
def test_random_routing_shows_none(seed):
    result = measure_specialization(routed(torch.zeros(N, E), seed), LABELS, E, block=WINDOW)
    assert abs(result.divergence - result.control_mean) < 4 * result.control_spread
    # Chance alone: two distributions of n assignments over E experts differ by this much.
    expected = (E - 1) / (4 * math.log(2) * N * K / 4)
    assert result.control_mean == pytest.approx(expected, rel=0.5)


def test_tokens_that_are_alike_within_a_text_fool_a_control_of_single_tokens():
    topics = torch.randint(E, (N // WINDOW,), generator=torch.Generator().manual_seed(0))
    logits_NE = torch.zeros(N, E)
    logits_NE[torch.arange(N), topics.repeat_interleave(WINDOW)] = 4.0  # by window, not by domain
    experts_NK = routed(logits_NE)
    by_token = measure_specialization(experts_NK, LABELS, E)
    by_window = measure_specialization(experts_NK, LABELS, E, block=WINDOW)
    assert by_token.beyond_chance  # wrongly
    assert by_window.control_mean > 5 * by_token.control_mean
    excess = by_window.divergence - by_window.control_mean
    assert excess < 4 * by_window.control_spread


def test_same_seeds_same_control():
    experts_NK = routed(torch.zeros(N, E))
    twice = [measure_specialization(experts_NK, LABELS, E) for _ in range(2)]
    assert twice[0] == twice[1]


def test_top_tokens_by_share_of_their_occurrences():
    ids_N = torch.tensor([5] * 4 + [8] * 3 + [9] * 6 + [2])
    first = [0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 2]
    experts_NK = torch.tensor([[e, 3] for e in first])
    found = top_tokens(experts_NK, ids_N, 5, best=2, least=3)
    assert found[0] == [(8, 1.0), (5, 0.75)]
    assert found[1] == [(9, pytest.approx(5 / 6)), (5, 0.25)]
    assert found[2] == []  # its only token is too rare to say anything
    assert found[3] == [(9, 1.0), (5, 1.0)] and found[4] == []  # all the same: frequent ones first


def test_what_cannot_be_is_refused():
    experts_NK = torch.zeros(6, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="at least two"):
        routing_divergence(experts_NK, torch.zeros(6, dtype=torch.long), 4)
    with pytest.raises(ValueError, match="block 4 must divide the 6 tokens"):
        measure_specialization(experts_NK, torch.tensor([0, 1] * 3), 4, block=4)
    with pytest.raises(ValueError, match="needs two seeds"):
        measure_specialization(experts_NK, torch.tensor([0, 1] * 3), 4, seeds=(0,))
