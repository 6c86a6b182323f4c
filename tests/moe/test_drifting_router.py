"""The drifting router: what arrives is what the setting says, and balancing does what it claims."""

import pytest
import torch

from course_utils.moe import max_violation, route
from course_utils.moe.config import MoEConfig
from course_utils.moe.drifting_router import DriftingRouter, simulate_loads
from course_utils.moe.routing import route_with_bias


def mean_violation(setting: DriftingRouter, last: int = 100) -> float:
    loads_SE = simulate_loads(setting)
    return sum(max_violation(counts_E) for counts_E in loads_SE[-last:]) / last


def test_loads_are_all_assignments_and_repeat():
    setting = DriftingRouter(num_experts=8, num_experts_per_tok=3, tokens=64, steps=5)
    loads_SE = simulate_loads(setting)
    assert loads_SE.shape == (5, 8) and loads_SE.dtype == torch.int64
    assert loads_SE.sum(1).tolist() == [64 * 3] * 5
    assert torch.equal(loads_SE, simulate_loads(setting))
    assert not torch.equal(
        loads_SE, simulate_loads(DriftingRouter(8, 3, tokens=64, steps=5, seed=1))
    )


def test_the_first_batch_is_the_same_however_one_balances():
    first = [
        simulate_loads(DriftingRouter(bias_speed=speed, coefficient=coefficient, steps=2))[0]
        for speed, coefficient in ((0, 0), (0.1, 0), (0, 1.0))
    ]
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], first[2])


def test_an_even_task_needs_no_balancing_and_all_experts_balance_themselves():
    assert mean_violation(DriftingRouter(skew=0, drift=0)) < 0.5
    assert mean_violation(DriftingRouter(4, 4)) == 0


def test_a_bias_and_a_loss_balance_what_is_left_alone_otherwise():
    alone = mean_violation(DriftingRouter())
    assert alone > 2
    assert mean_violation(DriftingRouter(bias_speed=0.01)) < 0.5
    assert mean_violation(DriftingRouter(coefficient=1.0)) < alone / 2


def test_a_bias_can_be_too_slow_and_too_fast():
    slow, right, fast = (mean_violation(DriftingRouter(bias_speed=u)) for u in (3e-4, 0.01, 0.3))
    assert right < slow / 2 and right < fast / 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_experts_per_tok": 17}, "num_experts_per_tok is 17"),
        ({"drift": -1.0}, "drift is -1.0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DriftingRouter(**values)


def test_the_router_of_the_exercise_is_the_library_rule():
    generator = torch.Generator().manual_seed(0)
    logits_TE = torch.randn(50, 12, generator=generator, requires_grad=True)
    bias_E = torch.randn(12, generator=generator)
    config = MoEConfig(
        12, 3, 8, scoring_func="sigmoid", use_routing_bias=True, routed_scaling_factor=2.5
    )
    routing = route(logits_TE, config, bias_E)
    experts_TK, weights_TK = route_with_bias(logits_TE, bias_E, 3, 2.5)
    assert torch.equal(experts_TK, routing.experts_TK)
    torch.testing.assert_close(weights_TK, routing.weights_TK)
    square = torch.randn(50, 3, generator=generator)
    one, other = (
        torch.autograd.grad((w * square).sum(), logits_TE, retain_graph=True)[0]
        for w in (weights_TK, routing.weights_TK)
    )
    torch.testing.assert_close(one, other)
