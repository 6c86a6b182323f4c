"""The plain forms of chapter 13 against the room's general ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.quantization import QuantizationArgs, choose_qparams, pack, quantize
from course_utils.quantization.basics import (
    absmax_quantize,
    asymmetric_quantize,
    pack_nibbles,
    product_seconds,
    stored_bits,
)

matrices = st.builds(
    lambda seed, rows, columns, shift: (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) + shift
    ),
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 33),
    st.sampled_from((0.0, 3.0, -3.0)),
)
WIDTHS = st.sampled_from((2, 3, 4, 5, 6, 8))


@settings(max_examples=60, deadline=None)
@given(matrices, WIDTHS)
def test_they_are_the_rooms_codes_and_scales(weight, bits):
    codes, scale = absmax_quantize(weight, bits)
    args = QuantizationArgs(bits)
    expected = choose_qparams(weight, args)
    assert torch.equal(scale, expected[0])
    assert torch.equal(codes, quantize(weight, *expected, args))
    codes, scale, zero = asymmetric_quantize(weight, bits)
    args = QuantizationArgs(bits, symmetric=False)
    expected = choose_qparams(weight, args)
    assert torch.allclose(scale, expected[0], rtol=1e-6)
    assert ((codes - zero) * scale - weight).abs().max() <= scale.max() * 0.51


def test_rows_of_zeros_stay_zero():
    zeros = torch.zeros(2, 4)
    codes, scale = absmax_quantize(zeros)
    assert (codes * scale == 0).all() and (scale == 1).all()
    codes, scale, zero = asymmetric_quantize(zeros, 4)
    assert ((codes - zero) * scale == 0).all()


@pytest.mark.parametrize("columns", [2, 6, 32])
def test_nibbles_are_the_rooms_bytes(columns):
    g = torch.Generator().manual_seed(columns)
    codes = torch.randint(-8, 8, (3, columns), generator=g).to(torch.int8)
    assert torch.equal(pack_nibbles(codes), pack(codes, 4))


def test_bits_are_the_rooms_bits():
    for bits, group in ((4, 32), (2, 64), (8, 128)):
        args = QuantizationArgs(bits, strategy="group", group_size=group)
        assert stored_bits(bits, group) == args.bits_per_weight((16, 256))
    args = QuantizationArgs(4, symmetric=False, strategy="group", group_size=32)
    assert stored_bits(4, 32, zero_bits=4) == args.bits_per_weight((16, 256)) == 4.625


def test_the_roofline_has_a_flat_and_a_rising_part():
    times = [product_seconds(rows, 1000, 1000, 8, 1e11, 1e10) for rows in (1, 5, 50, 100)]
    assert times == pytest.approx([1e-4, 1e-4, 1e-3, 2e-3])
