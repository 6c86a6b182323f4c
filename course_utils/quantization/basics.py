"""Quantization in its plainest form, as chapter 13 builds it: one matrix, one scale for each row.

`affine.py` has the same arithmetic for groups, tensors and stacks, `packing.py` the same bytes for
every width; tests hold them together. `product_seconds` is the roofline: a product takes as long as
its arithmetic or its bytes, whichever is more.

Source: Jacob et al. 2018, section 2.1 (codes); Williams et al. 2009, "Roofline" (time).
Left out: caches and launch costs, which a measurement contains and a roofline does not.
"""

import torch
from torch import Tensor


def absmax_quantize(weight_OI: Tensor, num_bits: int = 8) -> tuple[Tensor, Tensor]:
    """Symmetric codes (O, I), int8, and scale (O, 1): each row's largest magnitude sets its scale.

    scale = largest / (2^(b-1) - 0.5); codes are rounded (halves to even) and clamped to
    -2^(b-1) ... 2^(b-1) - 1. A row of zeros has scale 1.
    """
    half = 2 ** (num_bits - 1)
    scale_O1 = weight_OI.abs().amax(1, keepdim=True) / (half - 0.5)
    scale_O1 = torch.where(scale_O1 == 0, 1.0, scale_O1)
    codes_OI = (weight_OI / scale_O1).round().clamp(-half, half - 1)
    return codes_OI.to(torch.int8), scale_O1


def asymmetric_quantize(weight_OI: Tensor, num_bits: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (O, I) from 0 to 2^b - 1, uint8, scale (O, 1), zero point (O, 1), a whole number.

    Each row's range, stretched to contain 0, fills all codes: (code - zero) * scale is the weight.
    A row of zeros has scale 1.
    """
    largest = 2**num_bits - 1
    low_O1 = weight_OI.amin(1, keepdim=True).clamp(max=0)
    high_O1 = weight_OI.amax(1, keepdim=True).clamp(min=0)
    scale_O1 = (high_O1 - low_O1) / largest
    scale_O1 = torch.where(scale_O1 == 0, 1.0, scale_O1)
    zero_O1 = (-low_O1 / scale_O1).round()
    codes_OI = ((weight_OI / scale_O1).round() + zero_O1).clamp(0, largest)
    return codes_OI.to(torch.uint8), scale_O1, zero_O1


def pack_nibbles(codes_OI: Tensor) -> Tensor:
    """Bytes (O, I / 2), uint8, of signed 4-bit codes (O, I) from -8 to 7, I even.

    8 is added to each code; the first of two neighbours takes the low four bits of their byte.
    """
    stored_OI = (codes_OI + 8).to(torch.uint8)
    return stored_OI[:, 0::2] | (stored_OI[:, 1::2] << 4)


def stored_bits(num_bits: int, group_size: int, scale_bits: int = 16, zero_bits: int = 0) -> float:
    """Bits that a weight takes when `group_size` weights share a scale and perhaps a zero point."""
    return num_bits + (scale_bits + zero_bits) / group_size


def product_seconds(
    rows: int, inputs: int, outputs: int, weight_bits: float, flops: float, bandwidth: float
) -> float:
    """Least time of x (rows, inputs) times a weight (inputs, outputs): its roofline.

    2 operations for each weight and row, at `flops` a second; the weight's bytes read once, at
    `bandwidth` bytes a second. Both happen at the same time. Activations are not counted.
    """
    compute = 2 * rows * inputs * outputs / flops
    memory = inputs * outputs * weight_bits / 8 / bandwidth
    return max(compute, memory)
