"""Five ways to compute experts give one result, in value and gradient, whatever the routing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_utils.layers import MLP
from course_utils.moe import (
    experts_dense,
    experts_fast,
    experts_grouped,
    experts_loop,
    experts_sorted,
)
from course_utils.moe.permute import Combine, Dispatch

ALL = {
    "dense": experts_dense,
    "loop": experts_loop,
    "sorted": experts_sorted,
    "grouped": experts_grouped,
    "fast": experts_fast,
}
SLOW_START = settings(deadline=None, max_examples=40)
each_dispatch = pytest.mark.parametrize("name", ALL)


def make(T=7, D=8, E=5, width=12, k=3, identities=0, seed=0, dtype=torch.float64) -> list[Tensor]:
    """x, experts, weights and the three stacked weights, all leaves that want gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=dtype).requires_grad_()

    experts_TK = torch.rand(T, E + identities, generator=generator).topk(k).indices
    stacked = [normal(E, D, width), normal(E, D, width), normal(E, width, D)]
    return [normal(T, D), experts_TK, normal(T, k), *stacked]


def precision(name: str) -> torch.dtype:
    """float64 where there is a kernel for it."""
    return torch.float32 if name == "grouped" else torch.float64


def value_and_gradients(dispatch, inputs: list[Tensor]) -> list[Tensor]:
    """y, then the gradients of x, weights and the stacked weights, under a fixed dense d_y."""
    leaves = [tensor for tensor in inputs if tensor.is_floating_point()]
    y_TD = dispatch(*inputs)
    d_y_TD = torch.randn(y_TD.shape, generator=torch.Generator().manual_seed(9)).to(y_TD.dtype)
    found = torch.autograd.grad(y_TD, leaves, d_y_TD, allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves)
    return [y_TD.detach(), *(z if g is None else g for g, z in zip(found, zeros, strict=True))]


def by_hand(inputs: list[Tensor]) -> Tensor:
    """The definition, token by token."""
    x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD = inputs
    rows = []
    for x_D, experts_K, weights_K in zip(x_TD, experts_TK, weights_TK, strict=True):
        y_D = torch.zeros_like(x_D)
        for e, weight in zip(experts_K.tolist(), weights_K, strict=True):
            if e >= len(w_gate_EDF):
                y_D = y_D + weight * x_D
                continue
            gate_F, up_F = x_D @ w_gate_EDF[e], x_D @ w_up_EDF[e]
            y_D = y_D + weight * ((gate_F * gate_F.sigmoid() * up_F) @ w_down_EFD[e])
        rows.append(y_D)
    return torch.stack(rows) if rows else x_TD * 1.0


def same(got: list[Tensor], expected: list[Tensor]) -> None:
    loose = got[0].dtype == torch.float32
    for a, b in zip(got, expected, strict=True):
        largest = max(1.0, float(b.abs().max()) if b.numel() else 1.0)
        atol = (1e-5 if loose else 1e-12) * largest
        torch.testing.assert_close(a, b.to(a.dtype), rtol=0, atol=atol)


@each_dispatch
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("identities", [0, 2])
@pytest.mark.parametrize("shape", [(7, 5, 3), (40, 4, 2), (1, 5, 2), (3, 16, 4), (5, 1, 1)])
def test_value_and_gradients_are_the_definition_s(name, dtype, identities, shape):
    T, E, k = shape
    inputs = make(T, E=E, k=k, identities=identities, dtype=dtype)
    if name == "grouped" and dtype == torch.float64:
        with pytest.raises(RuntimeError, match="Double"):  # as its docstring says
            ALL[name](*inputs)
        return
    same(value_and_gradients(ALL[name], inputs), value_and_gradients(_definition, inputs))


def _definition(*inputs: Tensor) -> Tensor:
    return by_hand(list(inputs))


@SLOW_START
@given(st.integers(0, 12), st.integers(1, 6), st.integers(0, 2), st.integers(0, 999))
def test_all_agree_on_any_routing(T, E, identities, seed):
    k = 1 + seed % (E + identities)
    inputs = make(T, E=E, k=k, identities=identities, seed=seed, dtype=torch.float32)
    results = {name: value_and_gradients(dispatch, inputs) for name, dispatch in ALL.items()}
    doubles = [t.detach().double().requires_grad_(t.is_floating_point()) for t in inputs[2:]]
    doubles = [inputs[0].detach().double().requires_grad_(), inputs[1], *doubles]
    expected = value_and_gradients(_definition, doubles)
    for got in results.values():
        same(got, expected)


@pytest.mark.parametrize("name", ["grouped", "fast"])
def test_promising_no_identity_experts_changes_nothing(name):
    inputs = make(9, dtype=precision(name))

    def promised(*tensors):
        return ALL[name](*tensors, identity=False)

    same(value_and_gradients(promised, inputs), value_and_gradients(ALL[name], inputs))


@each_dispatch
def test_no_tokens(name):
    inputs = make(0, dtype=precision(name))
    y_TD, d_x_TD, d_weights_TK, *d_stacked = value_and_gradients(ALL[name], inputs)
    assert y_TD.shape == d_x_TD.shape == (0, 8) and d_weights_TK.shape == (0, 3)
    assert all(gradient.abs().max() == 0 for gradient in d_stacked)


@each_dispatch
def test_experts_without_tokens_get_no_gradient(name):
    inputs = make(6, E=8, k=2, dtype=precision(name))
    inputs[1] = torch.tensor([[6, 1]]).expand(6, 2).contiguous()
    *_, d_gate_EDF, d_up_EDF, d_down_EFD = value_and_gradients(ALL[name], inputs)
    for gradient in (d_gate_EDF, d_up_EDF, d_down_EFD):
        largest_E = gradient.abs().amax((1, 2))
        assert (largest_E > 0).tolist() == [e in (1, 6) for e in range(8)]


@each_dispatch
def test_one_expert_is_its_feed_forward_block(name):
    dtype = precision(name)
    x_TD, _, _, w_gate_EDF, w_up_EDF, w_down_EFD = inputs = make(6, E=1, k=1, dtype=dtype)
    inputs[2] = torch.ones(6, 1, dtype=dtype)
    mlp = MLP(8, 12).to(dtype)
    with torch.no_grad():
        for layer, weight in zip(mlp.children(), (w_gate_EDF, w_up_EDF, w_down_EFD), strict=True):
            layer.weight.copy_(weight[0].T)
    torch.testing.assert_close(ALL[name](*inputs), mlp(x_TD), rtol=1e-5, atol=1e-5)


@each_dispatch
@SLOW_START
@given(seed=st.integers(0, 999))
def test_permuted_tokens_give_permuted_results(name, seed):
    x_TD, experts_TK, weights_TK, *stacked = make(11, seed=seed, dtype=precision(name))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    y_TD = ALL[name](x_TD, experts_TK, weights_TK, *stacked)
    permuted = ALL[name](x_TD[order], experts_TK[order], weights_TK[order], *stacked)
    torch.testing.assert_close(permuted, y_TD[order], rtol=1e-5, atol=2e-5)


@each_dispatch
def test_a_token_twice_is_computed_twice(name):
    x_TD, experts_TK, weights_TK, *stacked = make(3, dtype=precision(name))
    twice = torch.tensor([0, 1, 1, 2, 1])
    y_TD = ALL[name](x_TD, experts_TK, weights_TK, *stacked)
    got = ALL[name](x_TD[twice], experts_TK[twice], weights_TK[twice], *stacked)
    torch.testing.assert_close(got, y_TD[twice], rtol=1e-5, atol=2e-5)


@each_dispatch
def test_inputs_are_left_alone_and_strange_layouts_are_read(name):
    inputs = make(8, k=2, dtype=precision(name))
    expected = value_and_gradients(ALL[name], inputs)
    before = [tensor.detach().clone() for tensor in inputs]
    strided = [t.detach().repeat_interleave(2, 0)[::2] for t in inputs[:3]]
    strided = [t.requires_grad_(t.is_floating_point()) for t in strided]
    same(value_and_gradients(ALL[name], [*strided, *inputs[3:]]), expected)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@each_dispatch
def test_an_expanded_gradient_is_accepted(name):
    inputs = make(5, dtype=precision(name))
    ALL[name](*inputs).sum().backward()
    assert inputs[0].grad.abs().max() > 0


def test_dispatch_and_combine_are_transposes():
    generator = torch.Generator().manual_seed(0)
    order_S = torch.randperm(12, generator=generator)
    both = (order_S, order_S.argsort(), 3)
    x_TD = torch.randn(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    rows_SD = torch.randn(12, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.equal(Dispatch.apply(x_TD, *both), x_TD[order_S // 3])
    left = (Dispatch.apply(x_TD, *both) * rows_SD).sum()
    right = (x_TD * Combine.apply(rows_SD, *both)).sum()
    torch.testing.assert_close(left, right)
    assert torch.autograd.gradcheck(lambda x: Dispatch.apply(x, *both), x_TD)
    assert torch.autograd.gradcheck(lambda rows: Combine.apply(rows, *both), rows_SD)


def test_the_backward_pass_by_hand_is_the_numerical_one():
    x_TD, experts_TK, *rest = make(4, D=3, E=3, width=2, k=2, identities=1)
    assert torch.autograd.gradcheck(lambda x, *r: experts_fast(x, experts_TK, *r), (x_TD, *rest))
