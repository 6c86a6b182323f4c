"""MXFP4 and NF4: value tables, rounding, exponents, packing, and their bounds on any numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_utils.quantization.mxfp4 import (
    dequantize_mxfp4,
    e2m1_table,
    mxfp4_bits_per_weight,
    quantize_mxfp4,
    round_e2m1,
    shared_exponents,
)
from course_utils.quantization.nf4 import (
    NF4_VALUES,
    dequantize_nf4,
    nf4_bits_per_weight,
    normal_quantiles,
    quantize_nf4,
)

weights = st.builds(
    lambda seed, rows, blocks, power: (
        torch.randn(rows, 64 * blocks, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    ),
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(-40, 40),
)


def both(weight: Tensor) -> list[Tensor]:
    packed, scale = quantize_nf4(weight)
    return [dequantize_mxfp4(*quantize_mxfp4(weight)), dequantize_nf4(packed, scale, weight.shape)]


def test_e2m1_rounds_to_the_nearest_and_halves_to_the_even_code():
    x = torch.tensor([0.2, 0.25, 0.26, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 5.1, 7.0, 100.0])
    values = e2m1_table()[round_e2m1(x).long()]
    assert values.tolist() == [0, 0, 0.5, 1, 1, 2, 2, 4, 4, 6, 6, 6]
    assert torch.equal(round_e2m1(-x), round_e2m1(x) + 8)


def test_every_code_comes_back():
    assert round_e2m1(e2m1_table()).tolist() == list(range(16))


@pytest.mark.parametrize(
    ("largest", "exponent"),
    [(0.0, -127), (1.0, -2), (1.999, -2), (2.0, -1), (6.0, 0), (8.0, 1), (2.0**-126, -127)],
)
def test_exponent_puts_the_largest_number_between_4_and_8(largest, exponent):
    block = torch.zeros(32)
    block[7] = -largest
    assert int(shared_exponents(block)) - 127 == exponent


def test_first_code_lies_in_the_low_bits_of_mxfp4_and_the_high_ones_of_nf4():
    weight = torch.full((1, 64), 4.0)
    weight[0, 1::2] = 0
    packed, _ = quantize_mxfp4(weight)
    assert packed.flatten().tolist() == [6] * 32
    packed, _ = quantize_nf4(weight)
    assert packed.tolist() == [15 << 4 | 7] * 32


def test_sizes_are_those_that_bits_per_weight_promises():
    weight = torch.randn(6, 192)
    for tensors, bits in (
        (quantize_mxfp4(weight), mxfp4_bits_per_weight()),
        (quantize_nf4(weight), nf4_bits_per_weight()),
    ):
        assert 8 * sum(t.nbytes for t in tensors) == bits * weight.numel()


def test_nf4_values_are_quantiles_of_the_normal_distribution():
    assert torch.allclose(normal_quantiles(), torch.tensor(NF4_VALUES), atol=1e-6)


@given(weights)
@settings(max_examples=40, deadline=None)
def test_error_is_bounded_by_half_the_widest_step_below_the_clamp(weight):
    blocks = weight.unflatten(-1, (-1, 32))
    _, exponents = quantize_mxfp4(weight)
    scale = (2.0 ** (exponents.int() - 127))[..., None]
    error = (dequantize_mxfp4(*quantize_mxfp4(weight)).unflatten(-1, (-1, 32)) - blocks).abs()
    # steps are at most 2 (from 4 to 6); between 6 and 8 numbers are clamped, at most 2 away
    assert (error <= torch.where(blocks.abs() > 6 * scale, 2.0, 1.0) * scale).all()


@given(weights, st.integers(-10, 10))
@settings(max_examples=40, deadline=None)
def test_scaling_by_a_power_of_two_scales_the_result(weight, power):
    for one, other in zip(both(weight), both(weight * 2.0**power), strict=True):
        assert torch.allclose(one * 2.0**power, other, rtol=1e-6)


@given(weights)
@settings(max_examples=20, deadline=None)
def test_rounding_twice_changes_nothing(weight):
    for once, twice in ((w, both(w)[n]) for n, w in enumerate(both(weight))):
        assert torch.allclose(once, twice, rtol=1e-6)


def test_zero_rows_and_constant_rows():
    weight = torch.zeros(2, 64)
    weight[1] = -0.37
    mx, nf = both(weight)
    assert not mx[0].any() and not nf[0].any()
    assert torch.allclose(nf[1], weight[1])  # the largest is exact
    assert (mx[1] == mx[1, 0]).all() and abs(float(mx[1, 0]) + 0.37) < 0.37 / 6


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("quantize", [quantize_mxfp4, quantize_nf4])
def test_infinities_and_nan_are_refused_by_name_and_row(quantize, bad):
    weight = torch.zeros(3, 64)
    weight[2, 5] = bad
    with pytest.raises(ValueError, match=f"gate holds {bad} in row 2"):
        quantize(weight, name="gate")


@pytest.mark.parametrize("quantize", [quantize_mxfp4, quantize_nf4])
def test_blocks_must_divide(quantize):
    with pytest.raises(ValueError, match="do not divide"):
        quantize(torch.zeros(3, 63))
