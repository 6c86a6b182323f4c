"""How far quantized weights are from the original ones: error, and signal against noise.

SQNR (signal to quantization noise ratio, in decibels) compares the power of the weights with that
of the error. It does not change when weights and scales are multiplied by a number, so layers can
be compared. A further bit halves the step and with it the error: 6.02 dB. That is the rule for a
range that is full; a group with one large weight and many small ones wastes most of its codes.

Left out: what the error does to the model, which perplexity measures (`perplexity.py`).
Source: Bennett 1948, "Spectra of Quantized Signals": noise power step^2 / 12; 6 dB a bit.
"""

import math

import torch
from torch import Tensor

DECIBELS_PER_BIT = 20 * math.log10(2)


def sqnr_db(weight: Tensor, restored: Tensor) -> float:
    """10 log10(sum w^2 / sum (w - restored)^2) in dB; infinite without an error.

    Both of the same shape. ValueError where the weights are all zero, or the shapes differ.
    """
    _same_shape(weight, restored)
    signal = float(weight.double().square().sum())
    noise = float((weight.double() - restored.double()).square().sum())
    if signal == 0:
        raise ValueError("all weights are 0: there is no signal to compare the error with")
    return 10 * math.log10(signal / noise) if noise else math.inf


def relative_error(weight: Tensor, restored: Tensor) -> float:
    """Root mean square of the error as a share of that of the weights: 10^(-SQNR / 20)."""
    return 10 ** (-sqnr_db(weight, restored) / 20)


def largest_error(weight: Tensor, restored: Tensor) -> float:
    """The largest |w - restored|: at most half a step inside the range."""
    _same_shape(weight, restored)
    return float((weight.double() - restored.double()).abs().max())


def output_error(weight_OI: Tensor, restored_OI: Tensor, x_NI: Tensor) -> float:
    """Relative error of the layer's output x W^T, which is what the next layer sees."""
    return relative_error(x_NI @ weight_OI.T, x_NI @ restored_OI.T)


def _same_shape(weight: Tensor, restored: Tensor) -> None:
    if weight.shape != restored.shape:
        raise ValueError(
            f"weights {tuple(weight.shape)} and restored {tuple(restored.shape)}: the shapes must "
            "be the same"
        )


def uniform_noise_db(bits: int, peak_to_rms: float = math.sqrt(3)) -> float:
    """SQNR that theory gives, in dB: 20 log10(2^b - 1) + 4.77 - 20 log10(peak / rms).

    The step is 2 peak / (2^b - 1), and the error evenly spread within it: its power is step^2 / 12.
    peak_to_rms: the largest weight of a group over their root mean square; sqrt(3) for evenly
    spread weights, 3 to 4 for normal ones.
    """
    return 20 * math.log10(2**bits - 1) + 10 * math.log10(3) - 20 * math.log10(peak_to_rms)


def peak_to_rms(weight: Tensor) -> float:
    """The largest magnitude over the root mean square: how much room an outlier takes."""
    return float(weight.abs().max() / torch.sqrt(weight.double().square().mean()))
