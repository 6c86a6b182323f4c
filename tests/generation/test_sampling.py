"""Choosing a token: the nucleus against brute force, temperature, seeds."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.generation import sample, top_p_probabilities

some = settings(max_examples=80, deadline=None, derandomize=True)
logit_rows = st.lists(st.floats(-6, 6), min_size=1, max_size=7)
temperatures = st.floats(0.1, 5.0)


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


@some
@given(logit_rows, temperatures, st.floats(0.01, 1.0))
def test_keeps_the_smallest_nucleus_and_shares_it_out(row, temperature, top_p):
    logits = torch.tensor([row], dtype=torch.float64)
    got = top_p_probabilities(logits, temperature, top_p)
    torch.testing.assert_close(got.sum(-1), torch.ones(1, dtype=torch.float64))
    full = softmax(row, temperature)
    kept = [i for i, p in enumerate(got[0].tolist()) if p > 0]
    mass = sum(full[i] for i in kept)
    assert mass > top_p - 1e-9
    # brute force: no smaller set of tokens reaches p, and none of the same size has more
    sets = [itertools.combinations(full, size) for size in range(len(row) + 1)]
    best = [max(map(sum, some_sets)) for some_sets in sets]
    assert best[len(kept) - 1] < top_p + 1e-9
    assert mass == pytest.approx(best[len(kept)])
    for i in kept:
        assert float(got[0, i]) == pytest.approx(full[i] / mass)


@some
@given(logit_rows, temperatures)
def test_top_p_1_is_the_softmax(row, temperature):
    got = top_p_probabilities(torch.tensor([row], dtype=torch.float64), temperature)
    assert got[0].tolist() == pytest.approx(softmax(row, temperature))


def test_ties_keep_the_first_token_and_never_none():
    got = top_p_probabilities(torch.zeros(1, 4), top_p=0.25)
    assert got.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert top_p_probabilities(torch.zeros(1, 4), top_p=0.26).tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_a_worked_example():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    expected = [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0]
    assert top_p_probabilities(logits, 1.0, 0.9)[0].tolist() == pytest.approx(expected)
    assert top_p_probabilities(logits, 1.0, 0.4)[0].tolist() == pytest.approx([1, 0, 0, 0])


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, -0.5), (1.0, 1.5)]
)
def test_values_that_cannot_be(temperature, top_p):
    with pytest.raises(ValueError, match=rf"temperature {temperature} .*top_p {top_p} "):
        top_p_probabilities(torch.zeros(1, 3), temperature, top_p)


@some
@given(st.lists(logit_rows, min_size=1, max_size=3), st.floats(0.01, 1.0))
def test_temperature_0_is_greedy(rows, top_p):
    width = max(map(len, rows))
    logits = torch.tensor([row + [-9.0] * (width - len(row)) for row in rows])
    assert torch.equal(sample(logits, 0.0, top_p), logits.argmax(-1))


def test_a_tiny_nucleus_is_greedy_whatever_the_temperature():
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample(logits, 5.0, 1e-6), logits.argmax(-1))


def test_drawn_as_often_as_the_probabilities_say():
    row = torch.tensor([0.6, 0.25, 0.1, 0.05]).log()
    generator = torch.Generator().manual_seed(1)
    drawn = sample(row.expand(20_000, 4), 1.0, 0.9, generator)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = top_p_probabilities(row[None], 1.0, 0.9)[0]
    assert expected[3] == 0 and shares[3] == 0
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.015)  # four deviations


def test_the_generator_decides():
    logits = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    draws = [
        sample(logits, 1.0, 1.0, torch.Generator().manual_seed(seed)).tolist() for seed in (3, 3, 4)
    ]
    assert draws[0] == draws[1] != draws[2]
