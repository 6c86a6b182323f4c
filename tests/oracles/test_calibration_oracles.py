"""Calibrated methods beside other software: torchao, bitsandbytes, scipy, and llm-compressor where
it is installed (it does not resolve with this `transformers`, so most machines lack it)."""

import pytest
import torch

from course_utils.quantization import QuantizationArgs, choose_qparams
from course_utils.quantization.awq import awq_scale, search_scaling
from course_utils.quantization.calibration import input_stats
from course_utils.quantization.gptq import gptq
from course_utils.quantization.llm_int8 import outlier_columns, quantize_rows
from course_utils.quantization.rotation import hadamard
from course_utils.quantization.smoothquant import smoothing_scale


def inputs(seed: int = 0, outlier: float = 30.0):
    generator = torch.Generator().manual_seed(seed)
    x_TI = torch.randn(200, 64, generator=generator)
    x_TI[:, 5] *= outlier
    return x_TI, torch.randn(32, 64, generator=generator)


def test_smoothing_scales_are_torchaos():
    smoothquant = pytest.importorskip("torchao.prototype.smoothquant.core")
    x_TI, weight_OI = inputs()
    for alpha in (0.25, 0.5, 0.75):
        observer = smoothquant.SmoothQuantObserver(weight_OI, alpha=alpha)
        observer(x_TI)
        expected, _, _ = observer.calculate_qparams()
        torch.testing.assert_close(smoothing_scale(x_TI.abs().amax(0), weight_OI, alpha), expected)


def test_awq_scales_are_torchaos():
    awq = pytest.importorskip("torchao.prototype.awq.core")
    from torchao.quantization import Int8WeightOnlyConfig

    x_TI, weight_OI = inputs()
    observer = awq.AWQObserver(weight_OI, None, Int8WeightOnlyConfig())
    observer(x_TI, x_TI @ weight_OI.T)
    expected = observer.calculate_qparams()
    found = search_scaling(weight_OI, input_stats(x_TI), QuantizationArgs(8))
    candidates = [awq_scale(x_TI.abs().mean(0), step / 20) for step in range(20)]
    step = min(range(20), key=lambda n: float((candidates[n] - expected).norm()))
    torch.testing.assert_close(candidates[step], expected)  # theirs is one that we try
    assert abs(found.alpha - step / 20) <= 0.101  # neighbours differ little, sums in another order


def test_eight_bit_rows_and_outlier_columns_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    x_TI, _ = inputs()
    x_TI = x_TI.clamp(-5.5, 5.5)
    x_TI[3, 17] = 8.0
    codes, amax_T, columns = functional.int8_vectorwise_quant(x_TI.half(), threshold=6.0)
    ours = outlier_columns(x_TI.half(), 6.0)
    assert ours.tolist() == columns.tolist() == [17]
    usual_TI = x_TI.half().float()
    usual_TI[:, ours] = 0
    got, scale_T1 = quantize_rows(usual_TI)
    # They take a row's largest value before the outlier's whole column is set to 0, we after it.
    without = x_TI.half().float().where(x_TI.half().abs() < 6, 0).abs().amax(1)
    same = usual_TI.abs().amax(1) == without
    assert same.sum() > 150
    torch.testing.assert_close(scale_T1[same, 0] * 127, amax_T[same], rtol=1e-3, atol=1e-3)
    assert (got[same].int() - codes[same].int()).abs().max() <= 1  # they divide in 16 bits
    assert (got[same] != codes[same]).float().mean() < 0.05


def test_the_hadamard_matrix_is_scipys():
    linalg = pytest.importorskip("scipy.linalg")
    for n in (2, 8, 64):
        assert hadamard(n).tolist() == linalg.hadamard(n).tolist()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_gives_the_weights_of_llm_compressor(bits, symmetric):
    theirs = pytest.importorskip("llmcompressor.modifiers.gptq.gptq_quantize")
    from compressed_tensors.quantization import QuantizationArgs as TheirArgs

    x_TI, weight_OI = inputs()
    mixing_II = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    hessian_II = input_stats(x_TI @ mixing_II).hessian_II
    args = QuantizationArgs(bits, symmetric, "group", 32)
    scale_OS, zero_OS = choose_qparams(weight_OI, args)
    offset = 0 if symmetric else 2 ** (bits - 1)  # their codes are signed
    their_args = TheirArgs(num_bits=bits, symmetric=symmetric, strategy="group", group_size=32)
    expected, _, _ = theirs.quantize_weight(
        weight_OI[None].clone(), hessian_II[None].clone(), scale_OS[None],
        (zero_OS - offset)[None], None, their_args,
    )  # fmt: skip
    found = gptq(weight_OI, hessian_II, args).dequantize()
    steps = (found - expected[0]).abs() / scale_OS.repeat_interleave(32, 1)
    assert (steps > 0.5).float().mean() == 0
