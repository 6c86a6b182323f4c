"""Affine codes: what rounding may and may not do, for every width and every sharing of scales."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.quantization import (
    QuantizationArgs,
    already_on_grid,
    choose_qparams,
    dequantize,
    fake_quantize,
    quantize,
)
from course_utils.quantization.schemes import WIDTHS

SHARINGS = [("tensor", None), ("channel", None), ("group", 8)]


@st.composite
def weights(draw):
    """Random rows of 8 to 24 inputs, some of zeros, some constant, some with one large weight."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight_OI = torch.randn(
        draw(st.integers(1, 5)), 8 * draw(st.integers(1, 3)), generator=generator
    ) * 10.0 ** draw(st.integers(-6, 6))
    kind = draw(st.sampled_from(["random", "zero row", "constant row", "one large"]))
    if kind == "zero row":
        weight_OI[0] = 0
    elif kind == "constant row":
        weight_OI[0] = weight_OI[0, 0]
    elif kind == "one large":
        weight_OI[0, 0] *= 100
    return weight_OI


@st.composite
def schemes(draw):
    strategy, group_size = draw(st.sampled_from(SHARINGS))
    bits, symmetric = draw(st.sampled_from(WIDTHS)), draw(st.booleans())
    return QuantizationArgs(bits, symmetric, strategy, group_size)


def per_weight(scale_OS, weight_OI):
    """The scale of every weight."""
    rows = scale_OS.expand(weight_OI.shape[0], -1)
    return rows.repeat_interleave(weight_OI.shape[1] // rows.shape[1], dim=1)


@settings(max_examples=100, deadline=None)
@given(weights(), schemes())
def test_the_error_is_at_most_half_a_step_inside_the_range(weight_OI, args):
    scale_OS, zero_point_OS = choose_qparams(weight_OI, args)
    codes_OI = quantize(weight_OI, scale_OS, zero_point_OS, args)
    assert int(codes_OI.min()) >= args.q_min and int(codes_OI.max()) <= args.q_max
    back_OI = dequantize(codes_OI, scale_OS, zero_point_OS, args)
    steps_OI = per_weight(scale_OS, weight_OI)
    low_OI = (args.q_min - per_weight(zero_point_OS, weight_OI)) * steps_OI
    high_OI = (args.q_max - per_weight(zero_point_OS, weight_OI)) * steps_OI
    bound_OI = steps_OI * 0.5 + (weight_OI - weight_OI.clamp(low_OI, high_OI)).abs()
    assert ((back_OI - weight_OI).abs() <= bound_OI * (1 + 1e-4)).all()
    # and nothing lies further outside than half a step
    assert ((weight_OI - weight_OI.clamp(low_OI, high_OI)).abs() <= 0.5001 * steps_OI).all()


@settings(max_examples=60, deadline=None)
@given(weights(), schemes(), st.sampled_from([2.0**-9, 0.25, 2.0, 2.0**12]))
def test_a_scaled_weight_has_the_same_codes_and_a_scaled_scale(weight_OI, args, factor):
    scale_OS, zero_point_OS = choose_qparams(weight_OI, args)
    scaled_OS, zero_again_OS = choose_qparams(weight_OI * factor, args)
    assert torch.equal(zero_point_OS, zero_again_OS)
    assert torch.equal(
        quantize(weight_OI, scale_OS, zero_point_OS, args),
        quantize(weight_OI * factor, scaled_OS, zero_again_OS, args),
    )
    if not (weight_OI == 0).all(-1).any():  # the scale of a row of zeros is 1
        assert torch.equal(scale_OS * factor, scaled_OS)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.sampled_from(SHARINGS))
def test_more_bits_never_make_a_larger_error(seed, symmetric, sharing):
    weight_OI = torch.randn(16, 64, generator=torch.Generator().manual_seed(seed))
    errors = [
        (fake_quantize(weight_OI, QuantizationArgs(b, symmetric, *sharing)) - weight_OI).norm()
        for b in WIDTHS
    ]
    assert all(more < fewer for fewer, more in pairwise(errors))


@settings(max_examples=40, deadline=None)
@given(weights(), schemes())
def test_quantizing_what_was_quantized_changes_nothing(weight_OI, args):
    scale_OS, zero_point_OS = choose_qparams(weight_OI, args)
    codes_OI = quantize(weight_OI, scale_OS, zero_point_OS, args)
    back_OI = dequantize(codes_OI, scale_OS, zero_point_OS, args)
    assert torch.equal(quantize(back_OI, scale_OS, zero_point_OS, args), codes_OI)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_zeros_stay_zeros(bits, symmetric):
    for strategy, group_size in SHARINGS:
        args = QuantizationArgs(bits, symmetric, strategy, group_size)
        weight_OI = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) + 3
        weight_OI[1] = 0
        scale_OS, _ = choose_qparams(weight_OI, args)
        assert (scale_OS > 0).all()
        assert (fake_quantize(weight_OI, args)[1] == 0).all()


def test_a_constant_row_keeps_its_value_where_the_range_ends_on_it():
    weight_OI = torch.full((2, 8), -0.7)
    narrow = QuantizationArgs(4)
    scale_OS, zero_OS = choose_qparams(weight_OI, narrow, symmetric_range="narrow")
    codes_OI = quantize(weight_OI, scale_OS, zero_OS, narrow)
    torch.testing.assert_close(dequantize(codes_OI, scale_OS, zero_OS, narrow), weight_OI)
    torch.testing.assert_close(fake_quantize(weight_OI, QuantizationArgs(4, False)), weight_OI)


def test_the_two_symmetric_ranges():
    weight_OI = torch.tensor([[-1.0, 0.5, 1.0, 0.25]])
    full, _ = choose_qparams(weight_OI, QuantizationArgs(8))
    narrow, _ = choose_qparams(weight_OI, QuantizationArgs(8), symmetric_range="narrow")
    assert full.item() == pytest.approx(1 / 127.5) and narrow.item() == pytest.approx(1 / 127)
    with pytest.raises(ValueError, match=r"symmetric_range is 'wide'.*'full'"):
        choose_qparams(weight_OI, QuantizationArgs(8), symmetric_range="wide")


def test_stacked_matrices_are_quantized_each_on_its_own():
    weight_EOI = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(1))
    for strategy, group_size in SHARINGS:
        args = QuantizationArgs(3, False, strategy, group_size)
        together = fake_quantize(weight_EOI, args)
        assert choose_qparams(weight_EOI, args)[0].shape == args.scale_shape(weight_EOI.shape)
        for one, alone in zip(together, weight_EOI, strict=True):
            assert torch.equal(one, fake_quantize(alone, args))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_infinities_and_nan_are_refused_by_name(value):
    weight_OI = torch.ones(4, 8)
    weight_OI[2, 5] = value
    with pytest.raises(ValueError, match=f"weight holds {value} in row 2, column 5"):
        choose_qparams(weight_OI, QuantizationArgs())
    with pytest.raises(ValueError, match=f"{value} in row 2"):
        quantize(weight_OI, torch.ones(4, 1), torch.zeros(4, 1), QuantizationArgs())
    with pytest.raises(ValueError, match=r"row \(0, 2\)"):
        fake_quantize(weight_OI[None], QuantizationArgs())


def test_the_largest_and_the_smallest_floats_survive():
    info = torch.finfo(torch.float32)
    weight_OI = torch.tensor([[info.max / 2, info.min / 2, 0, 1.0], [info.tiny, 1e-45, 0, 0]])
    for symmetric in (True, False):
        assert torch.isfinite(fake_quantize(weight_OI, QuantizationArgs(4, symmetric))).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_bits": 7}, "num_bits is 7: choose one of"),
        ({"strategy": "block"}, "strategy is 'block'"),
        ({"strategy": "group"}, "group_size is None: strategy 'group' needs"),
        ({"group_size": 32}, "group_size is 32 with strategy 'channel'"),
    ],
)
def test_impossible_schemes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        QuantizationArgs(**values)


def test_groups_must_divide_the_row_and_the_message_says_which_do():
    args = QuantizationArgs(4, strategy="group", group_size=128)
    with pytest.raises(ValueError, match=r"128 does not divide the 576 .* such as \[16, 32, 64"):
        choose_qparams(torch.ones(2, 576), args)
    with pytest.raises(ValueError, match=r"shape \(8,\) cannot be quantized"):
        choose_qparams(torch.ones(8), QuantizationArgs())


def test_bits_per_weight_counts_scales_and_zero_points():
    assert QuantizationArgs(8).bits_per_weight((1, 64)) == 8 + 16 / 64
    assert QuantizationArgs(4, True, "group", 32).bits_per_weight((7, 64)) == 4.5  # Q4_0's 18/32
    q4_1 = QuantizationArgs(4, False, "group", 32)
    assert q4_1.bits_per_weight((7, 64), zero_bits=16) == 5  # Q4_1's 20/32
    assert q4_1.bits_per_weight((7, 64)) == 4 + 20 / 32
    assert QuantizationArgs(2, strategy="tensor").bits_per_weight((8, 64)) == 2 + 16 / 512
    assert QuantizationArgs(3).bits_per_weight((1, 3), scale_bits=0) == 16 / 3  # whole bytes


def test_what_was_quantized_before_is_detected():
    weight_OI = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    q4_1 = QuantizationArgs(4, False, "group", 32)
    assert already_on_grid(fake_quantize(weight_OI, q4_1), q4_1)
    assert already_on_grid(fake_quantize(weight_OI, QuantizationArgs(2, True)), q4_1)
    assert not already_on_grid(weight_OI, q4_1)
    one_off = fake_quantize(weight_OI, q4_1)
    one_off[3, 3] = weight_OI[3, 3]
    assert not already_on_grid(one_off, q4_1)
