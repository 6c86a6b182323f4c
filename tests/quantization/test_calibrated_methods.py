"""LLM.int8, SmoothQuant, AWQ, rotation: no change before rounding, less error with outliers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.quantization import QuantizationArgs, fake_quantize
from course_utils.quantization.awq import awq_scale, scaled_quantize, search_scaling
from course_utils.quantization.calibration import input_stats, together, without_overlap
from course_utils.quantization.gptq import output_error
from course_utils.quantization.llm_int8 import (
    int8_matmul,
    mixed_matmul,
    outlier_columns,
    quantize_rows,
)
from course_utils.quantization.rotation import hadamard, rotation
from course_utils.quantization.smoothquant import fold, smoothing_scale


def planted(seed: int = 0, factor: float = 60.0):
    """Inputs (64, 48) whose channel 7 is `factor` times larger, and a weight (32, 48)."""
    generator = torch.Generator().manual_seed(seed)
    x_TI = torch.randn(64, 48, generator=generator)
    x_TI[:, 7] *= factor
    return x_TI, torch.randn(32, 48, generator=generator)


def error(got, expected) -> float:
    return float((got - expected).norm() / expected.norm())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_an_outlier_ruins_eight_bits_and_three_remedies_help(seed):
    x_TI, weight_OI = planted(seed)
    weight_OI[:, 7] *= 0.05  # a channel that shouts, and little depends on it
    expected = x_TI @ weight_OI.T
    plain = error(int8_matmul(x_TI, weight_OI), expected)
    scale_I = smoothing_scale(x_TI.abs().amax(0), weight_OI)
    turn_II = rotation(48, seed=1)
    assert error(mixed_matmul(x_TI, weight_OI), expected) < plain / 5
    assert error(int8_matmul(x_TI / scale_I, weight_OI * scale_I), expected) < plain / 3
    assert error(int8_matmul(x_TI @ turn_II, weight_OI @ turn_II), expected) < plain / 1.5


def test_rows_have_their_own_scale_and_zeros_and_infinities_are_met():
    x_TI = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    codes, scale = quantize_rows(x_TI)
    assert codes.tolist() == [[64, -127], [0, 0]] and scale[1] == 1
    with pytest.raises(ValueError, match="infinities or NaN"):
        quantize_rows(torch.tensor([[torch.inf]]))
    assert outlier_columns(torch.tensor([[1.0, -6.0, 5.9]])).tolist() == [1]


def test_smoothing_balances_both_sides_and_folds_into_the_norm():
    x_TI, weight_OI = planted()
    scale_I = smoothing_scale(x_TI.abs().amax(0), weight_OI)
    sides = (x_TI / scale_I).abs().amax(0), (weight_OI * scale_I).abs().amax(0)
    torch.testing.assert_close(*sides, rtol=1e-3, atol=1e-4)
    norm_I, folded_OI = torch.rand(48) + 0.5, weight_OI.clone()
    expected = (x_TI * norm_I) @ weight_OI.T
    fold(norm_I, [folded_OI], scale_I)
    torch.testing.assert_close((x_TI * norm_I) @ folded_OI.T, expected, rtol=1e-3, atol=1e-2)
    with pytest.raises(ValueError, match="alpha is 2"):
        smoothing_scale(x_TI.abs().amax(0), weight_OI, 2)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4]))
def test_awq_is_never_worse_and_gains_where_there_are_outliers(seed, bits):
    args = QuantizationArgs(bits, False, "group", 16)
    x_TI, weight_OI = planted(seed)
    stats = input_stats(x_TI)
    nearest = output_error(weight_OI, fake_quantize(weight_OI, args), stats.hessian_II)
    found = search_scaling(weight_OI, stats, args)
    assert found.error < nearest and found.alpha > 0
    rounded = scaled_quantize(weight_OI, found.scale_I, args)
    assert output_error(weight_OI, rounded, stats.hessian_II) == pytest.approx(found.error)
    even = input_stats(torch.randn(4096, 48, generator=torch.Generator().manual_seed(seed)))
    flat = output_error(weight_OI, fake_quantize(weight_OI, args), even.hessian_II)
    gain = search_scaling(weight_OI, even, args).error / flat
    assert found.error / nearest < gain <= 1 + 1e-6


def test_the_scale_of_awq_has_its_middle_at_one():
    scale_I = awq_scale(torch.tensor([1.0, 4.0, 16.0]), 0.5)
    torch.testing.assert_close(scale_I, torch.tensor([0.5, 1.0, 2.0]))


@pytest.mark.parametrize("n", [1, 2, 8, 12, 48, 192, 576])
def test_a_hadamard_matrix_has_orthogonal_rows_of_signs(n):
    matrix = hadamard(n)
    assert (matrix.abs() == 1).all()
    torch.testing.assert_close(matrix @ matrix.T, n * torch.eye(n))
    turn = rotation(n, seed=3)
    torch.testing.assert_close(turn @ turn.T, torch.eye(n), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="order 20"):
        hadamard(20)


def test_statistics_of_batches_add_up():
    x_TI, _ = planted()
    one, parts = input_stats(x_TI), together(input_stats(x_TI[:10]), input_stats(x_TI[10:]))
    assert one.tokens == parts.tokens == 64
    for name in ("mean_abs_I", "amax_I", "hessian_II"):
        torch.testing.assert_close(getattr(one, name), getattr(parts, name), rtol=1e-4, atol=1e-3)


def test_windows_that_share_a_run_with_the_evaluation_are_thrown_away():
    windows = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 2, 3, 1]])
    evaluation = torch.tensor([[0, 0, 6, 7]])
    assert without_overlap(windows, evaluation, run=2).tolist() == [[1, 2, 3, 4], [9, 2, 3, 1]]
    assert len(without_overlap(windows, evaluation, run=3)) == 3
    with pytest.raises(ValueError, match="run is 9"):
        without_overlap(windows, evaluation, run=9)
