"""NF4: 16 values placed where a bell curve has its numbers, for blocks of 64.

Trained weights are distributed roughly like a bell curve. NF4 (NormalFloat) places its values at
quantiles of the normal distribution, so that each code is used about equally often; scaled so that
they reach from -1 to 1. There are eight values at or below zero and nine at or above, with one
exact zero. A block of 64 numbers is divided by its largest absolute value, then each becomes the
code of the nearest value: 4 bits, and 32 for the block's scale, so 4.5 bits a number.

Layout as bitsandbytes stores it: the tensor flattened, two codes a byte, the first in the HIGH four
bits (MXFP4 and GGUF begin with the low ones), and one scale for each block.

Left out: double quantization, which stores the scales in 8 bits (QLoRA's step to 4.127 bits).
Source: Dettmers et al. 2023, "QLoRA", section 3 and appendix E.
"""

import torch
from torch import Tensor

from course_utils.quantization.affine import check_finite
from course_utils.quantization.blocks import into_blocks

NF4_BLOCK = 64
NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
OFFSET = 0.9677083  # the quantile of the outermost values


def normal_quantiles() -> Tensor:
    """The 16 values derived: 7 quantiles below zero, zero, 8 above, divided by the largest.

    Both sides take evenly spaced probabilities from one half out to `OFFSET`, without the half.
    They agree with `NF4_VALUES`, which are what files are read with, to six digits.
    """
    above = torch.special.ndtri(torch.linspace(OFFSET, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(OFFSET, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([below, torch.zeros(1, dtype=torch.float64), above.flip(0)])
    return (values / values.max()).float()


def quantize_nf4(
    weight: Tensor, block: int = NF4_BLOCK, name: str = "weight"
) -> tuple[Tensor, Tensor]:
    """Packed codes (N / 2,), uint8, and a scale for each block (N / block,), float32.

    weight: any shape of N numbers. Raises ValueError when `block` does not divide N, or on
    infinities and NaN, naming the tensor.
    """
    check_finite(weight, name)
    blocks = into_blocks(weight.reshape(1, -1), block, name)[0].float()
    scale = blocks.abs().amax(-1)
    values = torch.tensor(NF4_VALUES, device=weight.device)
    between = (values[1:] + values[:-1]) / 2
    scaled = blocks * (1 / scale.clamp(min=1e-38))[:, None]
    codes = torch.bucketize(scaled, between).flatten().to(torch.uint8)
    return codes[0::2] << 4 | codes[1::2], scale


def dequantize_nf4(packed: Tensor, scale: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor of `shape`, float32, of packed codes (N / 2,) and scales (N / block,)."""
    codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten()
    values = torch.tensor(NF4_VALUES, device=packed.device)[codes.long()]
    return (values.view(len(scale), -1) * scale[:, None]).view(shape)


def nf4_bits_per_weight(block: int = NF4_BLOCK, scale_bits: int = 32) -> float:
    """4 bits each, and the block's scale: 4.5 with 32 bits for 64."""
    return 4 + scale_bits / block
