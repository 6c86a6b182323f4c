"""LLM.int8(): eight-bit products in which a few outlier channels stay in floating point.

Each row of inputs and each row of the weight is scaled by its largest magnitude to -127..127; the
product of the integers, times both scales, is the output. One channel that is a hundred times
larger than the others sets the scale of every row, and all else rounds to nothing. So channels that
somewhere reach `threshold` are multiplied in floating point, and the rest in eight bits.

The integers are multiplied as floats here, which hold them exactly up to about a thousand inputs:
the arithmetic is that of an int8 kernel, the speed is not, so it is never timed.
Source: Dettmers et al. 2022, "LLM.int8()", sections 2.1, 3.1 and 3.2 (threshold 6).
"""

import torch
from torch import Tensor

LARGEST = 127  # -128 is not used: the range is the same on both sides


def quantize_rows(x_TI: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (T, I), int8, and scales (T, 1): each row's largest magnitude has the code 127.

    A row of zeros has scale 1. Raises ValueError for infinities and NaN.
    """
    if not bool(torch.isfinite(x_TI).all()):
        raise ValueError("the inputs hold infinities or NaN: no scale can be chosen for them")
    amax_T1 = x_TI.abs().amax(-1, keepdim=True).float()
    scale_T1 = torch.where(amax_T1 == 0, 1.0, amax_T1 / LARGEST)
    return (x_TI / scale_T1).round().to(torch.int8), scale_T1


def int8_matmul(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """x W^T (T, O) from eight-bit codes: a scale for each token and each output."""
    codes_TI, scale_T1 = quantize_rows(x_TI)
    codes_OI, scale_O1 = quantize_rows(weight_OI)
    return (codes_TI.float() @ codes_OI.float().T) * scale_T1 * scale_O1.T


def outlier_columns(x_TI: Tensor, threshold: float = 6.0) -> Tensor:
    """Numbers of the input channels in which some token reaches `threshold`, in order."""
    return torch.where((x_TI.abs() >= threshold).any(0))[0]


def mixed_matmul(x_TI: Tensor, weight_OI: Tensor, threshold: float = 6.0) -> Tensor:
    """x W^T (T, O): outlier channels in floating point, the others in eight bits."""
    columns = outlier_columns(x_TI, threshold)
    usual_TI, usual_OI = x_TI.clone(), weight_OI.clone()
    usual_TI[:, columns], usual_OI[:, columns] = 0, 0
    return int8_matmul(usual_TI, usual_OI) + x_TI[:, columns] @ weight_OI[:, columns].T
