"""Norm, rotary positions, feed-forward and the one-row linear map, against PyTorch and by rules."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.layers import (
    MLP,
    Linear,
    RMSNorm,
    apply_rope,
    linear,
    rms_norm,
    rope_tables,
    swiglu,
)
from course_utils.layers import linear as linear_function

some = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@some
@given(seeds, st.integers(1, 4), st.integers(1, 5), st.integers(1, 33), st.floats(1e-8, 1e-2))
def test_rms_norm_is_pytorchs_in_value_and_gradient(seed, B, T, D, eps):
    results = []
    for function in (rms_norm, lambda x, w, e: F.rms_norm(x, (D,), w, e)):
        x = (3 * normal(seed, B, T, D)).requires_grad_()
        weight = normal(seed + 1, D).requires_grad_()
        y = function(x, weight, eps)
        grads = torch.autograd.grad((y * normal(seed + 2, B, T, D)).sum(), (x, weight))
        results.append((y, *grads))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@some
@given(seeds, st.floats(0.01, 100.0))
def test_rms_norm_forgets_the_scale(seed, scale):
    x, weight = normal(seed, 3, 8), normal(seed + 1, 8)
    torch.testing.assert_close(rms_norm(scale * x, weight, 0.0), rms_norm(x, weight, 0.0))


def test_rms_norm_of_low_precision_is_computed_in_32_bits():
    x = (200 * normal(0, 4, 64)).to(torch.float16)  # squares overflow 16 bits
    y = rms_norm(x, torch.ones(64, dtype=torch.float16))
    assert y.dtype == torch.float16
    expected = F.rms_norm(x.double(), (64,), eps=1e-6)
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)


def test_rms_norm_of_another_width_names_both():
    with pytest.raises(ValueError, match=r"8 channels and the weight 6"):
        rms_norm(torch.ones(2, 8), torch.ones(6))


def test_rms_norm_takes_another_function():
    asked = []

    def zero(x, weight, eps):
        asked.append((tuple(weight.shape), eps))
        return 0 * x

    assert RMSNorm(4, 1e-3, zero)(torch.ones(2, 4)).abs().sum() == 0
    assert asked == [((4,), 1e-3)]


@some
@given(
    seeds,
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 100),
    st.sampled_from([2, 4, 8, 32]),
    st.sampled_from([100.0, 1e4, 1e6]),
)
def test_rope_scores_depend_on_the_distance_alone(seed, first, distance, shift, d, theta):
    q, k = normal(seed, d), normal(seed + 1, d)

    def score(q_place: int, k_place: int) -> torch.Tensor:
        cos, sin = rope_tables(torch.tensor([q_place, k_place]), d, theta)
        turned = apply_rope(torch.stack([q, k]), cos, sin)
        return turned[0] @ turned[1]

    near = score(first + distance, first)
    far = score(first + distance + shift, first + shift)
    tolerance = 1e-4 * float(q.norm() * k.norm())  # angles are in 32 bits
    assert abs(float(near - far)) < tolerance


@some
@given(seeds, st.integers(0, 1000), st.sampled_from([2, 6, 16]))
def test_rope_keeps_lengths_and_leaves_position_zero(seed, place, d):
    x = normal(seed, 1, d)
    turned = apply_rope(x, *rope_tables(torch.tensor([place]), d))
    torch.testing.assert_close(turned.norm(), x.norm(), rtol=1e-5, atol=0)
    assert torch.equal(apply_rope(x, *rope_tables(torch.tensor([0]), d)), x)


def test_rope_turns_half_split_pairs_by_the_papers_angles():
    d, place, theta = 6, 5, 50.0
    x = normal(3, 1, d)
    as_complex = torch.complex(x[0, :3], x[0, 3:])  # pair i is (i, i + d/2)
    angle = place * theta ** (-2 * torch.arange(3, dtype=torch.float64) / d)
    expected = as_complex * torch.polar(torch.ones(3, dtype=torch.float64), angle)
    got = apply_rope(x, *rope_tables(torch.tensor([place]), d, theta))[0]
    torch.testing.assert_close(got[:3], expected.real, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[3:], expected.imag, rtol=1e-5, atol=1e-6)


def test_rope_refuses_an_odd_head():
    with pytest.raises(ValueError, match=r"head_dim is 7.*even"):
        rope_tables(torch.arange(3), 7)


@pytest.fixture
def products(monkeypatch):
    """Counts what takes the two-halves path."""
    calls = []
    real = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *a: calls.append(1) or real(*a))
    return calls


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("shape", "rows"), [((8,), 1), ((1, 8), 1), ((1, 1, 8), 1), ((2, 8), 2)])
@pytest.mark.parametrize("out", [1, 2, 5, 6])
def test_linear_is_pytorchs(shape, rows, out, with_bias, products):
    x, weight = normal(1, *shape), normal(2, out, 8)
    bias = normal(3, out) if with_bias else None
    with torch.no_grad():
        y = linear(x, weight, bias)
    expected = F.linear(x, weight, bias)
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert len(products) == (1 if rows == 1 and out % 2 == 0 else 0)


def test_linear_with_gradients_is_differentiable(products):
    x, weight = normal(1, 1, 8).requires_grad_(), normal(2, 4, 8).requires_grad_()
    linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad[0], weight.detach().sum(0))
    assert products == []


@some
@given(seeds, st.integers(1, 17), st.integers(1, 17))
def test_linear_of_one_row_with_any_sizes(seed, D, out):
    x, weight = normal(seed, 1, D), normal(seed + 1, out, D)
    with torch.no_grad():
        y = linear_function(x, weight)
    torch.testing.assert_close(y, F.linear(x, weight), rtol=1e-12, atol=1e-12)


def test_linear_module_is_the_function():
    layer = Linear(6, 4).double()
    x = normal(0, 1, 6)
    with torch.no_grad():
        expected = x @ layer.weight.T + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_mlp_is_the_papers_formula():
    mlp, x = MLP(6, 10).double(), normal(4, 2, 3, 6)
    gate, up, down = (p.weight for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    a, b = x @ gate.T, x @ up.T
    torch.testing.assert_close(swiglu(a, b), a * torch.sigmoid(a) * b)
    torch.testing.assert_close(mlp(x), (a * torch.sigmoid(a) * b) @ down.T)
    assert all(p.bias is None for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
