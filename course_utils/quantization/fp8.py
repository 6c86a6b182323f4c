"""FP8 with a scale for each block, as DeepSeek-V3 trains and stores: products, and their sums.

A weight gets a scale for each 128 x 128 block, an activation for each 1 x 128 tile of a token. The
scale maps the block's largest number to 448, the largest of E4M3. An outlier then costs precision
in its own block and in no other.

A product runs block by block along the inputs: FP8 numbers times FP8 numbers, summed within 128
inputs, times the two scales, added in float32. So the scales cost one multiplication for 128.

The second problem is the sum. Hopper's tensor cores keep about 14 bits while they add up FP8
products, so DeepSeek moves the partial sum to a float32 register every 128 inputs. `limited_sum`
simulates such an accumulator.

In DeepSeek's files the scale is called `weight_scale_inv`: the inverse of what one multiplied by to
get the codes. Reading MULTIPLIES by it.

Left out: FP8 kernels (GPUs have them, this CPU does not; here the numbers are FP8 and the products
float32), and scales that are powers of two (UE8M0, DeepSeek-V3.1). Source: DeepSeek-AI 2024,
"DeepSeek-V3 Technical Report", sections 3.3.1 and 3.3.2.
"""

import torch
from torch import Tensor

from course_utils.quantization.blocks import from_tiles, into_tiles

WEIGHT_BLOCK = (128, 128)
ACTIVATION_TILE = (1, 128)
FP8 = torch.float8_e4m3fn  # torch.float8_e5m2 has more range and fewer digits


def quantize_fp8(
    weight_OI: Tensor, block: tuple[int, int] = WEIGHT_BLOCK, dtype: torch.dtype = FP8
) -> tuple[Tensor, Tensor]:
    """Codes (O, I) in FP8, and the scale of each block (ceil(O / rows), ceil(I / columns)).

    Reading multiplies: weight = code * scale. Blocks at the edge may be smaller; a block of zeros
    has scale 1. Raises ValueError on infinities and NaN.
    """
    largest = torch.finfo(dtype).max
    tiles = into_tiles(weight_OI.float(), block)
    scale = tiles.abs().amax((1, 3)) / largest
    scale = torch.where(scale == 0, 1.0, scale)
    codes = (tiles / scale[:, None, :, None]).clamp(-largest, largest).to(dtype)
    return from_tiles(codes, weight_OI.shape), scale


def dequantize_fp8(
    codes_OI: Tensor, scale: Tensor, block: tuple[int, int] = WEIGHT_BLOCK
) -> Tensor:
    """The weight (O, I), float32, of codes and scales: each block times its scale."""
    rows, columns = codes_OI.shape
    spread = scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)
    return codes_OI.float() * spread[:, :columns]


def fp8_product(x_TI: Tensor, x_scale: Tensor, codes_OI: Tensor, scale: Tensor) -> Tensor:
    """x times the transpose of a weight, both in FP8 with DeepSeek's blocks: (T, O), float32.

    x codes (T, I) with scales (T, I / 128), weight codes (O, I) with scales (O / 128, I / 128).
    The product within each 128 inputs is exact in float32; the scales are applied to its sum.
    """
    rows, width = WEIGHT_BLOCK
    out = torch.zeros(len(x_TI), len(codes_OI), device=x_TI.device)
    parts = zip(x_TI.float().split(width, 1), codes_OI.float().split(width, 1), strict=True)
    for j, (x_TJ, w_OJ) in enumerate(parts):
        w_scale_O = scale[:, j].repeat_interleave(rows)[: len(codes_OI)]
        out += (x_TJ @ w_OJ.T) * x_scale[:, j, None] * w_scale_O
    return out


def limited_sum(
    products_NK: Tensor, bits: int = 14, at_once: int = 32, promote_every: int | None = None
) -> Tensor:
    """Sums (N,) of products (N, K) by an accumulator that keeps `bits` bits: simulated.

    `at_once` products are added exactly, then the accumulator is cut to `bits` significant bits, as
    a tensor core of Hopper does after each instruction of K = 32. With `promote_every` the partial
    sum moves to a float32 sum after so many products and starts again at zero.
    """
    total = products_NK.new_zeros(len(products_NK))
    partial = torch.zeros_like(total)
    for start in range(0, products_NK.shape[1], at_once):
        partial = _cut(partial + products_NK[:, start : start + at_once].sum(1), bits)
        if promote_every and (start + at_once) % promote_every == 0:
            total, partial = total + partial, torch.zeros_like(partial)
    return total + partial


def _cut(x: Tensor, bits: int) -> Tensor:
    """x with its first `bits` significant bits; the rest is dropped, not rounded."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**bits).trunc(), exponent - bits)
