"""Small floats against PyTorch's dtypes; FP8 in blocks, its product, and limited sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.quantization.fp8 import (
    ACTIVATION_TILE,
    dequantize_fp8,
    fp8_product,
    limited_sum,
    quantize_fp8,
)
from course_utils.quantization.minifloat import E2M1, E4M3, E5M2
from course_utils.quantization.mxfp4 import E2M1_VALUES, e2m1_table, round_e2m1


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("form", "dtype"), [(E4M3, torch.float8_e4m3fn), (E5M2, torch.float8_e5m2)]
)
def test_values_and_rounding_are_those_of_torch(form, dtype):
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    finite = codes[codes.isfinite() & (codes >= 0)].unique()
    assert torch.equal(form.values(), finite)
    x = normal(20_000) * torch.exp(4 * normal(20_000, seed=1))
    x = x.clamp(-form.largest, form.largest)
    assert torch.equal(form.round(x), x.to(dtype).float())
    between = (finite[1:] + finite[:-1]).float() / 2  # ties
    assert torch.equal(form.round(between), between.to(dtype).float())


def test_e2m1_agrees_with_its_table():
    x = torch.linspace(-8, 8, 1601)
    assert E2M1.values().tolist() == list(E2M1_VALUES)
    assert torch.equal(E2M1.round(x), e2m1_table()[round_e2m1(x).long()])


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(-60, 60),
    st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_error_is_a_share_of_the_number_or_a_step_at_the_bottom(
    rows, columns, high, wide, power, seed
):
    weight = normal(rows, columns, seed=seed) * 2.0**power
    codes, scale = quantize_fp8(weight, (high, wide))
    back = dequantize_fp8(codes, scale, (high, wide))
    assert codes.shape == back.shape == weight.shape
    assert scale.shape == (-(-rows // high), -(-columns // wide))
    step = dequantize_fp8(torch.full_like(codes, E4M3.smallest), scale, (high, wide))
    bound = torch.maximum(weight.abs() / 16, step / 2) * 1.0001
    assert ((back - weight).abs() <= bound).all()


def test_an_outlier_costs_its_block_and_no_other():
    weight = normal(256, 256) * 0.01
    planted = weight.clone()
    planted[200, 30] = 1e5
    same = [dequantize_fp8(*quantize_fp8(w)) for w in (weight, planted)]
    changed = (same[0] != same[1]).nonzero()
    assert changed[:, 0].min() >= 128 and changed[:, 1].max() < 128
    whole = dequantize_fp8(*quantize_fp8(planted, (256, 256)), (256, 256))
    assert (whole[:128] == 0).float().mean() > 0.9


def test_zero_blocks_and_bad_numbers():
    codes, scale = quantize_fp8(torch.zeros(4, 4), (2, 2))
    assert not codes.float().any() and (scale == 1).all()
    bad = torch.zeros(4, 4)
    bad[3, 1] = float("nan")
    with pytest.raises(ValueError, match="row 3"):
        quantize_fp8(bad)


def test_product_of_blocks_is_the_product_of_what_is_read():
    x_TI, weight_OI = normal(5, 384), normal(200, 384, seed=1)
    x_codes, x_scale = quantize_fp8(x_TI, ACTIVATION_TILE)
    codes, scale = quantize_fp8(weight_OI)
    read = dequantize_fp8(x_codes, x_scale, ACTIVATION_TILE) @ dequantize_fp8(codes, scale).T
    assert torch.allclose(fp8_product(x_codes, x_scale, codes, scale), read, atol=1e-3)
    error = (read - x_TI @ weight_OI.T).norm() / (x_TI @ weight_OI.T).norm()
    assert error < 0.06


def test_limited_sums():
    products = torch.rand(50, 4096, generator=torch.Generator().manual_seed(3))
    exact = products.double().sum(1)

    def error(**options) -> float:
        return float(((limited_sum(products, **options) - exact).abs() / exact).max())

    assert error(bits=24) < 1e-5
    assert error(bits=14) > 1e-3 > error(bits=14, promote_every=128)
    assert error(bits=10) > error(bits=14)
    few = torch.full((1, 32), 1.0)
    assert limited_sum(few, bits=6).item() == 32  # one instruction, and 32 needs one bit
