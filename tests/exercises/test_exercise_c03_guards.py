"""What the checks of chapter 03 count and forgive: rows through experts, and order in a block."""

import pytest
import torch
import torch.nn.functional as F

from course_utils.exercises import catalog
from course_utils.exercises._c03_counted_weights import CountedWeights, counted_weights
from course_utils.exercises.judge import judge, prepare
from course_utils.moe import sort_by_expert
from course_utils.moe.experts import expert

SPECS = {spec.name: spec for spec in catalog.exercises_of("c03")}
E, D, WIDTH = 3, 4, 6
PRODUCTS = {
    "@ one expert": (lambda x, w: x @ w[1], 5),
    "matmul of all": (lambda x, w: torch.matmul(x, w), 5 * E),
    "einsum of all": (lambda x, w: torch.einsum("td,edf->tef", x, w), 5 * E),
    "linear of the transposed": (lambda x, w: F.linear(x, w[0].T), 5),
    "one large product": (lambda x, w: x @ w.transpose(0, 1).reshape(D, -1), 5 * E),
    "a loop by zip": (lambda x, w: [x[:2] @ part for part in w], 2 * E),
    "turned around": (lambda x, w: (w[2].mT @ x.T).T, 5),
    "no product": (lambda x, w: w[0] + w[1], 0),
    "no rows": (lambda x, w: x[:0] @ w[0], 0),
}


@pytest.mark.parametrize("how", PRODUCTS)
def test_rows_are_counted_however_they_are_computed(how):
    product, rows = PRODUCTS[how]
    weights_EDF = counted_weights(torch.randn(E, D, WIDTH))
    product(torch.randn(5, D), weights_EDF)
    assert weights_EDF.work == rows


def test_counted_weights_are_the_same_numbers_with_the_same_gradient():
    plain_EDF, x_TD = torch.randn(E, D, WIDTH), torch.randn(5, D)
    counted_EDF = counted_weights(plain_EDF.clone())
    assert isinstance(counted_EDF[0], CountedWeights)
    gradients = []
    for weights_EDF in (plain_EDF, counted_EDF):
        weights_EDF.requires_grad_()
        result = x_TD @ weights_EDF[1]
        assert type(result) is torch.Tensor
        result.square().sum().backward()
        gradients.append(torch.as_tensor(weights_EDF.grad).as_subclass(torch.Tensor))
    torch.testing.assert_close(*gradients)


def test_token_by_token_is_no_waste():
    def answer(x_TD, experts_TK, weights_TK, gate, up, down):
        y_TD = torch.zeros_like(x_TD)
        for t, experts in enumerate(experts_TK.tolist()):
            for j, e in enumerate(experts):
                y_TD[t] += weights_TK[t, j] * expert(x_TD[t], gate[e], up[e], down[e])
        return y_TD

    assert judge(prepare(SPECS["c03.experts_loop"]), answer).passed


def test_any_order_within_a_block_is_right_and_no_other():
    def turned(experts_TK, num_experts):
        """The pairs of each expert from last to first."""
        flat_S = experts_TK.flatten()
        blocks = [torch.where(flat_S == e)[0].flip(0) for e in range(num_experts)]
        counts = torch.tensor([len(block) for block in blocks])
        return torch.cat(blocks), counts.cumsum(0)

    def twice_the_first(experts_TK, num_experts):
        order_S, ends_E = turned(experts_TK, num_experts)
        return order_S[:1].expand(len(order_S)).clone(), ends_E

    task = prepare(SPECS["c03.sort_by_expert"])
    assert judge(task, turned).passed
    assert not judge(task, twice_the_first).passed
    assert judge(task, sort_by_expert, may_call_reference=True).passed
