"""Affine quantization: a weight w becomes the code round(w / scale) + zero_point, and comes back
as (code - zero_point) * scale.

Symmetric: the zero point is 0 and the largest magnitude fills half the codes. Asymmetric: smallest
and largest weight fill all of them, stretched to contain 0, which a code then means exactly. Inside
the range the error is at most half a step, that is half a scale.

b bits have one negative code more than positive ones. With `symmetric_range` "full" (torchao,
compressed-tensors) the largest magnitude m gives the scale m / (2^(b-1) - 0.5): 127.5 for 8 bits;
with "narrow" m / (2^(b-1) - 1): 127, and m itself has a code.

Weights are (..., O, I), rows by columns; leading dimensions are stacked matrices (experts), each
on its own. S is the number of scales of a row. Left out: choosing the range by the error that it
makes (chapter 14), and weights in float formats (chapter 15).
Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.1.
"""

import torch
from torch import Tensor

from course_utils.quantization.schemes import QuantizationArgs

SYMMETRIC_RANGES = {"full": 0.5, "narrow": 1.0}


def choose_qparams(
    weight_OI: Tensor, args: QuantizationArgs, *, symmetric_range: str = "full"
) -> tuple[Tensor, Tensor]:
    """scale_OS (float32, above 0) and zero_point_OS (int32) of a weight (..., O, I).

    For strategy "tensor" both are (..., 1, 1), else (..., O, S). A row of zeros has scale 1.
    Raises ValueError for infinities and NaN (naming the row), for groups that do not divide the
    row, and for an unknown symmetric_range.
    """
    if symmetric_range not in SYMMETRIC_RANGES:
        raise ValueError(
            f"symmetric_range is {symmetric_range!r}: choose 'full' (2^(b-1) - 0.5) or 'narrow' "
            "(2^(b-1) - 1)"
        )
    check_finite(weight_OI)
    groups_OSG = split_groups(weight_OI.float(), args)
    over = (-3, -1) if args.strategy == "tensor" else (-1,)
    if args.symmetric:
        amax_OS = groups_OSG.abs().amax(over, keepdim=True).squeeze(-1)
        scale_OS = _positive(
            amax_OS / (2 ** (args.num_bits - 1) - SYMMETRIC_RANGES[symmetric_range])
        )
        return scale_OS, torch.zeros_like(scale_OS, dtype=torch.int32)
    low_OS = groups_OSG.amin(over, keepdim=True).squeeze(-1).clamp(max=0)
    high_OS = groups_OSG.amax(over, keepdim=True).squeeze(-1).clamp(min=0)
    scale_OS = _positive(high_OS / args.q_max - low_OS / args.q_max)  # in parts: never overflows
    zero_point_OS = (-low_OS / scale_OS).round().clamp(args.q_min, args.q_max)
    return scale_OS, zero_point_OS.to(torch.int32)


def quantize(
    weight_OI: Tensor, scale_OS: Tensor, zero_point_OS: Tensor, args: QuantizationArgs
) -> Tensor:
    """Codes (..., O, I) between q_min and q_max: int8 if symmetric, else uint8.

    Halves are rounded to the even code. Raises ValueError for infinities and NaN.
    """
    check_finite(weight_OI)
    scaled_OSG = split_groups(weight_OI.float(), args) / scale_OS.float()[..., None]
    codes_OSG = (scaled_OSG.round() + zero_point_OS[..., None]).clamp(args.q_min, args.q_max)
    return codes_OSG.flatten(-2).to(torch.int8 if args.symmetric else torch.uint8)


def dequantize(
    codes_OI: Tensor, scale_OS: Tensor, zero_point_OS: Tensor, args: QuantizationArgs
) -> Tensor:
    """The weights that the codes stand for, in float32: (code - zero_point) * scale."""
    centred_OSG = split_groups(codes_OI.float(), args) - zero_point_OS[..., None]
    return (centred_OSG * scale_OS.float()[..., None]).flatten(-2)


def fake_quantize(weight_OI: Tensor, args: QuantizationArgs) -> Tensor:
    """Simulated quantization: the weights after rounding, in their own dtype.

    Shows what rounding does to quality. It saves no byte and no time, so it is never timed.
    """
    scale_OS, zero_point_OS = choose_qparams(weight_OI, args)
    codes_OI = quantize(weight_OI, scale_OS, zero_point_OS, args)
    return dequantize(codes_OI, scale_OS, zero_point_OS, args).to(weight_OI.dtype)


def already_on_grid(weight_OI: Tensor, args: QuantizationArgs) -> bool:
    """Does every group take at most 2^b values with equal steps between them?

    Then rounding to such a grid loses nothing: the weights were quantized before, as those of a
    Q4_1 file are. False for random weights, unless groups are so small that few values fit any
    grid.
    """
    groups_OSG = split_groups(weight_OI.float(), args)
    if args.strategy == "tensor":
        groups_OSG = groups_OSG.flatten(-3, -1)
    low = groups_OSG.amin(-1, keepdim=True)
    width = groups_OSG.amax(-1, keepdim=True) - low
    steps = torch.arange(1, 2**args.num_bits, device=weight_OI.device)
    fits = torch.zeros_like(low, dtype=torch.bool)
    for count in steps:  # the range may be that many steps wide
        places = (groups_OSG - low) / _positive(width / count)
        fits |= (places - places.round()).abs().amax(-1, keepdim=True) < 0.02
    return bool(fits.all())


def split_groups(weight_OI: Tensor, args: QuantizationArgs) -> Tensor:
    """A weight (..., O, I) with the inputs that share a scale last: (..., O, S, I / S)."""
    if weight_OI.dim() < 2 or 0 in weight_OI.shape:
        raise ValueError(
            f"a weight of shape {tuple(weight_OI.shape)} cannot be quantized: expected rows and "
            "columns, (outputs, inputs), at least one of each"
        )
    return weight_OI.unflatten(-1, (args.scales_per_row(weight_OI.shape[-1]), -1))


def check_finite(weight_OI: Tensor, name: str = "weight") -> None:
    """Raise ValueError naming the first row of `name` that holds an infinity or NaN."""
    if bool(torch.isfinite(weight_OI).all()):
        return
    *row, column = torch.nonzero(~torch.isfinite(weight_OI))[0].tolist()
    value = weight_OI[(*row, column)].item()
    place = row[0] if len(row) == 1 else tuple(row)
    raise ValueError(
        f"{name} holds {value} in row {place}, column {column}: a scale cannot be chosen for it; "
        "find out where it comes from before quantizing"
    )


def _positive(scale: Tensor) -> Tensor:
    """1 where a scale is 0 (a row of zeros), and never so small that dividing by it overflows."""
    return torch.where(scale == 0, 1.0, scale.clamp(min=torch.finfo(torch.float32).tiny))
