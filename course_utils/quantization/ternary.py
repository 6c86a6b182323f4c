"""Ternary weights as BitNet b1.58: each weight is -1, 0 or 1 times one scale of the matrix.

The scale is the MEAN absolute value. Weights above half of it become 1, below minus half -1, the
rest 0, so that a bell curve spreads over all three. (With the largest value as scale nearly
everything would be 0.) Three values hold log2(3) = 1.585 bits. A product needs no multiplication
of weights: columns of x are added, subtracted or skipped, and the sum is scaled once.

Trained weights do not survive this rounding; BitNet trains with it from the beginning (`qat`).
BitNet also rounds activations, to 8 bits with one scale a token.

Left out: kernels (BitNet.cpp and T-MAC have them; PyTorch has none for CPUs).
Source: Ma et al. 2024, "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits",
section 2, equations 1 to 3. Scales below 1e-5 are raised to it, as in the published code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.quantization.affine import check_finite

LEAST_SCALE = 1e-5
TRITS = 5  # 3^5 = 243 combinations fit a byte


def quantize_ternary(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Codes -1, 0, 1 (int8, (..., O, I)) and the scale (..., 1, 1) of a weight (..., O, I).

    Of stacked matrices each has its own scale. Raises ValueError on infinities and NaN.
    """
    check_finite(weight_OI)
    scale = weight_OI.abs().mean((-2, -1), keepdim=True).clamp(min=LEAST_SCALE)
    return (weight_OI / scale).round().clamp(-1, 1).to(torch.int8), scale


def dequantize_ternary(codes_OI: Tensor, scale: Tensor) -> Tensor:
    """The weight that codes and scale stand for, in the scale's dtype."""
    return codes_OI.to(scale.dtype) * scale


def round_ternary(weight_OI: Tensor) -> Tensor:
    """The weight after rounding: simulated, for training and for quality."""
    return dequantize_ternary(*quantize_ternary(weight_OI))


def pack_ternary(codes_OI: Tensor) -> Tensor:
    """Five codes a byte, as digits to base 3: (O, ceil(I / 5)) uint8, 1.6 bits a weight.

    The first code is the lowest digit. Two bits a code (`pack` of this room) are faster to unpack.
    """
    digits = F.pad(codes_OI + 1, (0, -codes_OI.shape[-1] % TRITS)).unflatten(-1, (-1, TRITS))
    powers = 3 ** torch.arange(TRITS, device=codes_OI.device)
    return (digits * powers).sum(-1).to(torch.uint8)


def unpack_ternary(packed: Tensor, columns: int) -> Tensor:
    """The codes (O, columns), int8, of `pack_ternary`."""
    powers = 3 ** torch.arange(TRITS, device=packed.device)
    digits = packed.long()[..., None] // powers % 3
    return (digits.flatten(-2)[..., :columns] - 1).to(torch.int8)


def quantize_activations(x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (int8, (..., T, D)) and a scale for each token (..., T, 1): the largest becomes 127."""
    scale = x_TD.abs().amax(-1, keepdim=True).clamp(min=LEAST_SCALE) / 127
    return (x_TD / scale).round().clamp(-128, 127).to(torch.int8), scale


def ternary_linear(x_TD: Tensor, codes_OI: Tensor, scale: Tensor) -> Tensor:
    """x times the transpose of a ternary weight, (T, O), with 8-bit activations.

    Sums of integers, exact, then one multiplication for the token's and the weight's scales.
    """
    x_codes, x_scale = quantize_activations(x_TD)
    sums = x_codes.int() @ codes_OI.int().mT
    return sums * (x_scale * scale.view(1, 1))
