"""The rules that keep or replace draft tokens: exact by enumeration, and the formulas of cost."""

from fractions import Fraction
from itertools import product
from math import lcm

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.generation.acceptance import (
    accept_or_replace,
    accepted_prefix,
    break_even_acceptance,
    draw,
    expected_tokens,
    residual_distribution,
    speedup,
    verify_greedy,
    verify_sampled,
)

some = settings(max_examples=60, deadline=None, derandomize=True)
N = 4  # all probabilities below are multiples of 1 / N
GRID = lcm(*range(1, N + 1))  # then every threshold of a uniform number is a multiple of 1 / GRID
MIDDLES = [(i + 0.5) / GRID for i in range(GRID)]


@st.composite
def shares(draw_from, size: int = 3):
    """Whole numbers of sum N: the distribution shares / N."""
    cuts = sorted(draw_from(st.lists(st.integers(0, N), min_size=size - 1, max_size=size - 1)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, N], strict=True)]


def distribution(counts: list[int]) -> torch.Tensor:
    return torch.tensor(counts, dtype=torch.float64) / N


@some
@given(shares(4))
def test_draw_gives_each_id_its_share(p):
    found = [draw(distribution(p), u) for u in MIDDLES]
    assert [found.count(i) * N for i in range(4)] == [GRID * count for count in p]


def test_draw_never_takes_an_id_without_probability():
    p = torch.tensor([0.0, 0.3, 0.7, 0.0])
    assert draw(p, 0.0) == 1
    assert draw(p, 1 - 1e-9) == 2
    assert draw(torch.tensor([0.1] * 10).float(), 0.99999999) == 9


@some
@given(shares(), shares())
def test_one_token_has_exactly_the_targets_distribution(p, q):
    p_V, q_V = distribution(p), distribution(q)
    found = [Fraction(0)] * 3
    for token, u, v in product(range(3), MIDDLES, MIDDLES):
        if q[token]:
            out, _ = accept_or_replace(token, p_V, q_V, u, v)
            found[out] += Fraction(q[token], N * GRID * GRID)
    assert found == [Fraction(count, N) for count in p]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(shares(), shares(), shares(), shares())
def test_a_round_of_one_draft_token_has_exactly_the_targets_distribution(p0, p1, q0, other):
    """The first token is distributed as p0; after the drafted one, the second as p1.

    A second token comes only after a kept first one, whose place it takes the target's next
    distribution; here that depends on the first token: p1 after 0, `other` after the rest.
    """
    after = {0: p1, 1: other, 2: other}
    first, pairs = [Fraction(0)] * 3, {}
    for token, u, v in product(range(3), MIDDLES, MIDDLES):
        if not q0[token]:
            continue
        for last in MIDDLES:
            numbers = iter((u, v, last))
            p_LV = torch.stack([distribution(p0), distribution(after[token])])
            ids = verify_sampled(
                torch.tensor([token]), distribution(q0)[None], p_LV, lambda n=numbers: next(n)
            ).tolist()
            weight = Fraction(q0[token], N * GRID**3)
            first[ids[0]] += weight
            if len(ids) == 2:
                assert ids[0] == token
                pairs[tuple(ids)] = pairs.get(tuple(ids), 0) + weight
    assert first == [Fraction(count, N) for count in p0]
    kept = {token: sum(w for (a, _), w in pairs.items() if a == token) for token in range(3)}
    for (token, second), weight in pairs.items():
        assert weight == kept[token] * Fraction(after[token][second], N)
    expected = sum(Fraction(min(a, b), N) for a, b in zip(p0, q0, strict=True))
    assert sum(kept.values()) == expected  # the acceptance: the overlap of p and q


@some
@given(shares(), shares())
def test_the_residual_is_a_distribution_that_only_adds(p, q):
    left_V = residual_distribution(distribution(p), distribution(q))
    assert left_V.sum() == pytest.approx(1)
    for count, drafted, left in zip(p, q, left_V, strict=True):
        assert left >= 0 and (p == q or (left > 0) == (count > drafted))


ids = st.integers(0, 2)


@some
@given(st.lists(ids, max_size=5), st.lists(ids, min_size=6, max_size=6))
def test_greedy_keeps_the_longest_common_beginning(draft, best):
    draft_K, best_L = torch.tensor(draft, dtype=torch.long), torch.tensor(best[: len(draft) + 1])
    kept = accepted_prefix(draft_K, best_L)
    assert draft[:kept] == best[:kept]
    assert kept == len(draft) or draft[kept] != best[kept]
    assert verify_greedy(draft_K, best_L).tolist() == best[: kept + 1]


@pytest.mark.parametrize("k", range(5))
def test_expected_tokens_is_the_mean_over_all_outcomes(k):
    for a in (0.0, 0.3, 0.8, 1.0):
        mean = sum(
            (kept + 1) * a**kept * (1 if kept == k else 1 - a)
            for kept in range(k + 1)  # the first `kept` are kept and the next is not
        )
        assert expected_tokens(a, k) == pytest.approx(mean)


@some
@given(st.integers(1, 8), st.floats(1, 6), st.floats(0, 0.5))
def test_break_even_is_where_the_speedup_is_one(k, verify_cost, draft_cost):
    even = break_even_acceptance(k, verify_cost, draft_cost)
    if even is None:
        assert speedup(1.0, k, verify_cost, draft_cost) <= 1
    elif even > 0:
        assert speedup(even, k, verify_cost, draft_cost) == pytest.approx(1, abs=1e-6)
    assert break_even_acceptance(1, 3.2, 0.0) is None  # two tokens for the price of three
    assert break_even_acceptance(3, 1.0, 0.0) == 0.0
