"""Wrong answers to the exercises of chapter 15 about float formats."""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.quantization.blocks import from_tiles, into_tiles
from course_utils.quantization.mxfp4 import E2M1_VALUES

E4M3, BLOCK = torch.float8_e4m3fn, (128, 128)

# ---- FP8


def _fp8(weight, block=BLOCK, dtype=E4M3, *, scale, rounded=False):
    """Codes and scales with a scale of one's own, made of tiles and the largest value."""
    largest = torch.finfo(dtype).max
    tiles = into_tiles(weight.float(), block)
    scale = scale(tiles, largest)
    codes = (tiles / scale[:, None, :, None]).clamp(-largest, largest)
    codes = codes.round() if rounded else codes
    return from_tiles(codes.to(dtype), weight.shape), scale


def _right(tiles: Tensor, largest: float) -> Tensor:
    scale = tiles.abs().amax((1, 3)) / largest
    return torch.where(scale == 0, 1.0, scale)


def _inverse(weight, block=BLOCK, dtype=E4M3):
    codes, scale = _fp8(weight, block, dtype, scale=_right)
    return codes, 1 / scale


def _whole(tiles, largest):
    scale = tiles.abs().amax() / largest
    return scale.expand(tiles.shape[0], tiles.shape[2]).clone()


def _turned(weight, block=BLOCK, dtype=E4M3):
    """Blocks of columns by rows."""
    return _fp8(weight, block[::-1], dtype, scale=_right)


def _along_rows(tiles, largest):
    """One scale for all column blocks of a row block."""
    scale = tiles.abs().amax((1, 2, 3), keepdim=True)[:, 0, :, 0] / largest
    return torch.where(scale == 0, 1.0, scale).expand(-1, tiles.shape[2]).clone()


def _unsigned(tiles, largest):
    scale = tiles.amax((1, 3)) / largest
    return torch.where(scale <= 0, 1.0, scale)


def _with(scale, **options):
    return lambda w, block=BLOCK, dtype=E4M3: _fp8(w, block, dtype, scale=scale, **options)


QUANTIZE_FP8 = (
    WrongAnswer(
        "a scale that divides",
        _inverse,
        "The codes are right, but you return what you multiplied by to get them. Reading "
        "multiplies code by scale: return amax / 448, which DeepSeek's files call scale_inv.",
    ),
    WrongAnswer(
        "one scale for the whole tensor",
        _with(_whole),
        "All blocks have the same scale, so one outlier anywhere takes the small numbers of every "
        "block. amax over the rows and columns within a block: dimensions 1 and 3.",
    ),
    WrongAnswer(
        "blocks turned round",
        _turned,
        "Rows and columns of the block are swapped: a 1 x 128 tile became 128 x 1. block is "
        "(rows, columns), as into_tiles takes it.",
    ),
    WrongAnswer(
        "one scale for a row of blocks",
        _with(_along_rows),
        "The largest was taken over all column blocks as well. Each block has its own: keep "
        "dimensions 0 and 2, reduce 1 and 3.",
    ),
    WrongAnswer(
        "the largest without its sign",
        _with(_unsigned),
        "amax of signed numbers misses a large negative one, which is then clamped. Take abs() "
        "first.",
    ),
    WrongAnswer(
        "no scale for zeros",
        _with(lambda tiles, largest: tiles.abs().amax((1, 3)) / largest),
        "A block of zeros has the scale 0, and 0 / 0 is NaN. Give such a block the scale 1.",
    ),
    WrongAnswer(
        "rounded to whole numbers",
        _with(_right, rounded=True),
        "You round to integers before FP8. FP8 has values between 0 and 1; the conversion rounds "
        "by itself.",
    ),
    WrongAnswer(
        "no scale at all",
        _with(lambda tiles, largest: torch.ones(tiles.shape[0], tiles.shape[2])),
        "The weights are converted as they are. Small ones fall below FP8's smallest value, large "
        "ones are clamped at 448. Divide each block by its scale first.",
    ),
)


# ---- E2M1

_VALUES = torch.tensor(E2M1_VALUES)
_BETWEEN = (_VALUES[1:] + _VALUES[:-1]) / 2


def _signed(codes: Tensor, x: Tensor) -> Tensor:
    return (codes + 8 * torch.signbit(x)).to(torch.uint8)


def _nearest(x: Tensor) -> Tensor:
    below = torch.bucketize(x.abs(), _BETWEEN)
    return torch.where(below % 2 == 0, below, torch.bucketize(x.abs(), _BETWEEN, right=True))


ROUND_E2M1 = (
    WrongAnswer(
        "truncated",
        lambda x: _signed((torch.bucketize(x.abs(), _VALUES, right=True) - 1).clamp(0, 7), x),
        "Each number became the next smaller value: 2.7 gave 2, where 3 is nearer. That makes "
        "every weight smaller on average. Compare with the midpoints, not with the values.",
    ),
    WrongAnswer(
        "halves away from zero",
        lambda x: _signed(torch.bucketize(x.abs(), _BETWEEN, right=True), x),
        "Only the ties are wrong: you always take the larger value. 2.5 lies between 2 (code 4) "
        "and 3 (code 5): the even code wins.",
    ),
    WrongAnswer(
        "halves towards zero",
        lambda x: _signed(torch.bucketize(x.abs(), _BETWEEN), x),
        "Only the ties are wrong: you always take the smaller value. 3.5 lies between 3 (code 5) "
        "and 4 (code 6): the even code wins.",
        also=(lambda x: _signed((x.abs()[..., None] - _VALUES).abs().argmin(-1), x),),
    ),
    WrongAnswer(
        "sign lost",
        lambda x: _nearest(x).to(torch.uint8),
        "Negative numbers get the code of their size. The fourth bit is the sign: add 8.",
    ),
    WrongAnswer(
        "two's complement",
        lambda x: torch.where(torch.signbit(x), (16 - _nearest(x)) % 16, _nearest(x)).byte(),
        "You write negative codes as integers do, 16 - code. Floats have a sign bit: code + 8.",
    ),
    WrongAnswer(
        "the values, not their codes",
        lambda x: _VALUES[_nearest(x)] * torch.where(torch.signbit(x), -1.0, 1.0),
        "These are the rounded numbers. Return their places in the table, 0 to 7, plus 8 below "
        "zero, as uint8.",
    ),
)


# ---- the shared exponent


def _biased(exponent: Tensor, largest: Tensor, bias: int = 127) -> Tensor:
    exponent = torch.where(largest == 0, -127, exponent.nan_to_num())
    return (exponent.clamp(-127, 127) + bias).to(torch.uint8)


def _largest(blocks: Tensor) -> Tensor:
    return blocks.abs().amax(-1)


def _log(blocks: Tensor) -> Tensor:
    return torch.frexp(_largest(blocks)).exponent - 1


def _signed_largest(blocks):
    largest = blocks.amax(-1).clamp(min=0)
    return _biased(torch.frexp(largest).exponent - 3, largest)


SHARED_EXPONENTS = (
    WrongAnswer(
        "one too large",
        lambda b: _biased(_log(b) - 1, _largest(b)),
        "One too many: the largest number lands between 2 and 4, and the value 6 is never used. "
        "E2M1's largest power of two is 4 = 2^2: subtract 2.",
    ),
    WrongAnswer(
        "the largest power of two forgotten",
        lambda b: _biased(_log(b), _largest(b)),
        "The largest number lands between 1 and 2, where E2M1 has two values. Subtract 2, the "
        "exponent of 4.",
    ),
    WrongAnswer(
        "one too small",
        lambda b: _biased(_log(b) - 3, _largest(b)),
        "The largest number lands between 8 and 16, and all above 6 is clamped. Subtract 2, not 3. "
        "frexp's exponent is one more than floor(log2).",
    ),
    WrongAnswer(
        "rounded up",
        lambda b: _biased(_largest(b).log2().ceil() - 2, _largest(b)),
        "ceil in place of floor: nothing is clamped, but most blocks use only half of the range. "
        "The MX specification takes the power of two at or below the largest.",
    ),
    WrongAnswer(
        "from the largest value 6",
        lambda b: _biased((_largest(b) / 6).log2().floor(), _largest(b)),
        "You divide by 6 before taking the power of two. The rule divides the largest power of two "
        "in the block by that in the format, 4.",
    ),
    WrongAnswer(
        "the largest without its sign",
        _signed_largest,
        "A large negative number is missed. Take abs() before amax.",
    ),
    WrongAnswer(
        "without the bias",
        lambda b: _biased(_log(b) - 2, _largest(b), bias=0),
        "The exponent is stored plus 127, so that it fits an unsigned byte. Add E8M0_BIAS.",
    ),
)
