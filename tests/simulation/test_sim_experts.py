"""Imbalance of experts: EPLB's published example, the limits, and what a step loses."""

import numpy as np
import pytest

from course_utils.simulation.costs import Roofline, StepCost, Work
from course_utils.simulation.experts import balancedness, expert_loads, with_imbalance

EPLB = [  # loads of the example in its README: 12 experts, 16 places on 8 devices
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]


@pytest.mark.parametrize(("loads", "published"), [(EPLB[0], 0.932), (EPLB[1], 0.840)])
def test_balancedness_of_the_published_example(loads, published):
    assert balancedness(loads, devices=8, slots=2) == pytest.approx(published, abs=5e-4)


def test_copies_help_and_equal_loads_are_balanced():
    loads = expert_loads(2000, 32, 4, skew=0.8)
    assert loads.sum() == 8000 and loads.max() <= 2000
    without, with_copies = balancedness(loads, 8, 4), balancedness(loads, 8, 6)
    assert without < with_copies <= 1
    assert balancedness([5.0] * 8, 4, 2) == 1


def test_skewed_popularity_and_small_batches_are_less_balanced():
    even = balancedness(expert_loads(4096, 256, 8), 128, 2)
    small = balancedness(expert_loads(64, 256, 8), 128, 2)
    skewed = balancedness(expert_loads(4096, 256, 8, skew=1.0), 128, 2)
    assert even > 0.85 and small < even - 0.1 and skewed < even - 0.3


def test_every_token_goes_to_different_experts_and_the_draw_is_seeded():
    assert expert_loads(50, 6, 6).tolist() == [50] * 6
    assert np.array_equal(expert_loads(50, 6, 2, 1.0, seed=3), expert_loads(50, 6, 2, 1.0, seed=3))
    assert not np.array_equal(expert_loads(50, 6, 2, seed=3), expert_loads(50, 6, 2, seed=4))


def test_only_the_share_in_experts_waits():
    cost, work = StepCost(0.01, per_context=1e-6), Work(8, 8, 4000, 0)
    slow = with_imbalance(cost, 0.8, 0.5)
    assert slow.seconds(work) == pytest.approx(cost.seconds(work) * 1.125)
    assert with_imbalance(cost, 1.0, 0.5).seconds(work) == cost.seconds(work)
    roof = with_imbalance(Roofline(cost, StepCost(1.0)), 0.5, 1.0)
    assert roof.seconds(work) == 2.0


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match=r"balancedness 1\.2"):
        with_imbalance(StepCost(), 1.2, 0.5)
    with pytest.raises(ValueError, match="3 experts, 1 devices x 2: give more slots"):
        balancedness([1, 2, 3], 1, 2)
    with pytest.raises(ValueError, match="to 9 of 8 experts"):
        expert_loads(4, 8, 9)
