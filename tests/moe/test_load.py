"""Counts of experts and what is made of them: at known loads, at the ends, and in general."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.moe import dropped_share, expert_counts, load_entropy, max_violation

COUNTS = st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any)


def test_counts_of_three_tokens():
    experts_TK = torch.tensor([[0, 3], [3, 1], [4, 3]])
    assert expert_counts(experts_TK, 6).tolist() == [1, 1, 0, 3, 1, 0]
    assert expert_counts(experts_TK[:0], 3).tolist() == [0, 0, 0]


def test_counts_by_hand():
    counts_E = torch.tensor([6, 2, 0, 0])
    assert max_violation(counts_E) == 2.0  # 6 where 2 is the mean
    bits = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert load_entropy(counts_E) == pytest.approx(bits / 2)
    assert dropped_share(counts_E, 2) == 0.5
    assert dropped_share(counts_E, 6) == 0.0 and dropped_share(counts_E, 0) == 1.0


def test_even_loads_and_complete_collapse():
    even_E, k = torch.full((16,), 5), 2
    collapsed_E = torch.tensor([40] * k + [0] * 14)
    assert max_violation(even_E) == 0 and load_entropy(even_E) == pytest.approx(1)
    assert max_violation(collapsed_E) == 16 / k - 1
    assert load_entropy(collapsed_E) == pytest.approx(math.log(k) / math.log(16))
    assert load_entropy(torch.tensor([0, 7, 0])) == 0


@given(COUNTS, st.integers(0, 60))
def test_in_general(counts, capacity):
    counts_E = torch.tensor(counts)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(len(counts)))
    assert -1e-9 <= max_violation(counts_E) <= len(counts) - 1 + 1e-9
    assert -1e-9 <= load_entropy(counts_E) <= 1 + 1e-9
    assert max_violation(counts_E[order]) == max_violation(counts_E)
    assert load_entropy(3 * counts_E) == pytest.approx(load_entropy(counts_E))
    kept = sum(min(count, capacity) for count in counts)
    assert dropped_share(counts_E, capacity) == pytest.approx(1 - kept / sum(counts))


@given(COUNTS)
def test_max_violation_is_zero_only_at_even_loads(counts):
    assert (max_violation(torch.tensor(counts)) == 0) == (len(set(counts)) == 1)
