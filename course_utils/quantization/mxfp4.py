"""MXFP4: 32 numbers of 4 bits that share one exponent of 8 bits, 4.25 bits a number.

Four bits are a float E2M1: a sign, two bits of exponent, one of mantissa. They can say 0, 0.5, 1,
1.5, 2, 3, 4, 6 and the same below zero: close together near zero, far apart at the end. A block of
32 neighbours is first divided by a power of two, its scale, of which only the exponent is stored
(E8M0: the exponent plus 127). Multiplying by a power of two is exact, so all error is E2M1's.

The scale is 2^(floor(log2(largest)) - 2): 4 = 2^2 is the largest power of two in the table. So the
largest number of a block lands in [4, 8), and what lies above 6 is clamped to 6.

Layout as gpt-oss stores it: (O, I / 32, 16) bytes, two codes a byte, the first in the low four
bits, and exponents (O, I / 32). llama.cpp keeps the same codes in another order: a block's first
half lies in the low bits of its 16 bytes, its second half in the high ones.

Left out: the other ways to round the exponent (up, or to the nearest), and NVFP4 (blocks of 16 with
an FP8 scale). Source: OCP Microscaling Formats (MX) v1.0, sections 5.3.3, 5.4.1 and 6.3.
"""

import torch
from torch import Tensor

from course_utils.quantization.blocks import into_blocks

MX_BLOCK = 32
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # codes 0 to 7; code + 8 is the negative
E8M0_BIAS = 127


def round_e2m1(x: Tensor) -> Tensor:
    """Codes 0 to 15 (uint8) of the nearest E2M1 values; of two equally near, the even code.

    x: any shape, already divided by its scale. What lies beyond 6 becomes 6. Negative numbers get
    8 more; those that round to zero give minus zero, code 8. Source: MX v1.0, section 5.3.3.
    """
    values = torch.tensor(E2M1_VALUES, device=x.device)
    between = (values[1:] + values[:-1]) / 2
    below = torch.bucketize(x.abs().float(), between)  # at equal distance: the smaller value
    above = torch.bucketize(x.abs().float(), between, right=True)  # there: the larger one
    codes = torch.where(below % 2 == 0, below, above)
    return (codes + 8 * torch.signbit(x)).to(torch.uint8)


def e2m1_table(device: torch.device | str = "cpu") -> Tensor:
    """The values (16,) of all codes."""
    values = torch.tensor(E2M1_VALUES, device=device)
    return torch.cat([values, -values])


def shared_exponents(blocks: Tensor) -> Tensor:
    """The exponent that each block (..., 32) shares, plus 127: uint8 (...).

    floor(log2(amax)) - 2, at least -127; a block of zeros gets -127. frexp is exact where log2 is
    not. Source: MX v1.0, section 6.3.
    """
    largest = blocks.abs().amax(-1).float()
    exponent = torch.frexp(largest).exponent - 1  # largest = mantissa * 2^exponent, in [1, 2)
    exponent = torch.where(largest == 0, -E8M0_BIAS, exponent - 2)
    return (exponent.clamp(-E8M0_BIAS, E8M0_BIAS) + E8M0_BIAS).to(torch.uint8)


def quantize_mxfp4(weight_OI: Tensor, name: str = "weight") -> tuple[Tensor, Tensor]:
    """Packed codes (O, I / 32, 16) and exponents (O, I / 32), both uint8, of a weight (O, I).

    Raises ValueError when 32 does not divide I, or on infinities and NaN, naming the tensor.
    """
    blocks = into_blocks(weight_OI, MX_BLOCK, name)
    exponents = shared_exponents(blocks)
    codes = round_e2m1(blocks.float() / _scale(exponents)[..., None])
    return codes[..., 0::2] | codes[..., 1::2] << 4, exponents


def dequantize_mxfp4(packed: Tensor, exponents: Tensor) -> Tensor:
    """The weight (O, I), float32, of packed codes (O, I / 32, 16) and exponents (O, I / 32)."""
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
    values = e2m1_table(packed.device)[codes.long()]
    return (values * _scale(exponents)[..., None]).flatten(-2)


def mxfp4_bits_per_weight() -> float:
    """4 bits each, and 8 bits for 32: 4.25."""
    return 4 + 8 / MX_BLOCK


def _scale(exponents: Tensor) -> Tensor:
    return torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents.int() - E8M0_BIAS)
