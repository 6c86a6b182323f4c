"""Wrong answers to the exercises of chapter 13.

Rounding to codes is written once with one mistake at a time (`_absmax`, `_asymmetric`); the rest
stands as a learner would write it.
"""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer


def _absmax(
    weight: Tensor, num_bits: int = 8, *, over: tuple[int, ...] = (1,), less: float = 0.5,
    clamp: bool = True, early: bool = False, cut: bool = False, signed: bool = False,
    zeros: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    half = 2 ** (num_bits - 1)
    size = weight if signed else weight.abs()
    scale = size.amax(over, keepdim=True) / (half - less)
    scale = torch.where(scale == 0, 1.0, scale) if zeros else scale
    scaled = weight.round() / scale if early else weight / scale
    codes = scaled.trunc() if cut else scaled.round()
    return (codes.clamp(-half, half - 1) if clamp else codes).to(torch.int8), scale


def _with(**mistake):
    return lambda weight_OI, num_bits=8: _absmax(weight_OI, num_bits, **mistake)


def _overflowing(weight: Tensor, num_bits: int = 8) -> tuple[Tensor, Tensor]:
    half = 2 ** (num_bits - 1)
    scale = weight.abs().amax(1, keepdim=True) / half
    scale = torch.where(scale == 0, 1.0, scale)
    return (weight / scale).round().clamp(-half, half - 1).to(torch.int8), scale


ABSMAX = (
    WrongAnswer(
        "127 for 127.5",
        _with(less=1.0),
        "You divide by 2^(b-1) - 1 (127 for 8 bits). Here the range is 2^(b-1) - 0.5: 127.5. Both "
        "are in use, and codes made with the one do not fit scales made with the other.",
    ),
    WrongAnswer(
        "128 for 127.5",
        _overflowing,
        "You divide by 2^(b-1), so the largest positive weight would need the code 128, which "
        "there is not: it is clamped, and the largest weight has the largest error. Divide by "
        "2^(b-1) - 0.5.",
    ),
    WrongAnswer(
        "codes not clamped",
        _with(clamp=False),
        "The largest weight becomes 127.5, which rounds to 128. That does not fit: int8 turns it "
        "into -128, the wrong end. Clamp before the conversion.",
    ),
    WrongAnswer(
        "amax over the wrong axis",
        _with(over=(0,)),
        "The scales belong to columns. All inputs of an output row are summed up, so they must "
        "share a scale: amax over dimension 1.",
    ),
    WrongAnswer(
        "one scale for the whole matrix",
        _with(over=(0, 1)),
        "One scale for all rows: a row of small weights gets few codes or none. amax over "
        "dimension 1, keepdim=True.",
    ),
    WrongAnswer(
        "rounded before scaling",
        _with(early=True),
        "You round the weights and then divide. Weights are far below 1, so nearly all become 0. "
        "Divide by the scale first, then round.",
    ),
    WrongAnswer(
        "cut off instead of rounded",
        _with(cut=True),
        "You cut the fraction off (trunc, or conversion to int8 alone). That shrinks every weight "
        "and doubles the largest error: round first.",
    ),
    WrongAnswer(
        "largest weight, not largest magnitude",
        _with(signed=True),
        "Your maximum ignores negative weights. A row whose largest magnitude is negative is "
        "clamped: weight_OI.abs() first.",
    ),
    WrongAnswer(
        "a row of zeros",
        _with(zeros=False),
        "A row of zeros has scale 0, and 0 / 0 is not a number. Give such a row the scale 1: "
        "torch.where(scale == 0, 1.0, scale).",
    ),
)


def _asymmetric(
    weight: Tensor, num_bits: int = 8, *, hold_zero: bool = True, rounded: bool = True,
    sign: int = 1, clamp: bool = True, levels: int = 1, inside: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    largest = 2**num_bits - levels
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if hold_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / largest
    scale = torch.where(scale == 0, 1.0, scale)
    zero = -low / scale
    zero = zero.round() if rounded else zero
    codes = weight / scale
    codes = (codes + zero).trunc() if inside else codes.round() + sign * zero
    codes = codes.clamp(0, 2**num_bits - 1) if clamp else codes
    return codes.to(torch.int32).to(torch.uint8), scale, zero


def _from_lowest(weight: Tensor, num_bits: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """The weight that code 0 stands for, in place of the code that stands for 0."""
    codes, scale, _ = _asymmetric(weight, num_bits)
    return codes, scale, weight.amin(1, keepdim=True).clamp(max=0)


def _variant(**mistake):
    return lambda weight_OI, num_bits=8: _asymmetric(weight_OI, num_bits, **mistake)


ASYMMETRIC = (
    WrongAnswer(
        "zero point that does not invert",
        _variant(sign=-1),
        "You subtract the zero point when coding, and it is subtracted again when decoding: "
        "(code - zero) * scale does not give the weight back. Add it: round(w / scale) + zero.",
    ),
    WrongAnswer(
        "a minimum for a zero point",
        _from_lowest,
        "Your zero point is the smallest weight. It must be a CODE, the one that means 0: "
        "round(-low / scale). (GGUF's Q4_1 does store the minimum; its formula is another.)",
    ),
    WrongAnswer(
        "zero point not rounded",
        _variant(rounded=False),
        "The zero point has a fraction, but it is stored as a whole number, and 0 must have a "
        "code of its own: padding and pruned weights are exactly 0. Round it.",
    ),
    WrongAnswer(
        "range without zero",
        _variant(hold_zero=False),
        "In a row of weights that all lie on one side of 0 your range does not contain 0, so the "
        "zero point is no code. Stretch it: low.clamp(max=0), high.clamp(min=0).",
    ),
    WrongAnswer(
        "divided by 2^b",
        _variant(levels=0),
        "16 codes have 15 steps between them: divide the range by 2^b - 1.",
    ),
    WrongAnswer(
        "cut off instead of rounded",
        _variant(inside=True),
        "You cut the fraction off. Every weight becomes smaller, by half a step on average. Round.",
    ),
)


def _stored(codes: Tensor, offset: int = 8) -> Tensor:
    return ((codes.to(torch.int16) + offset) & 15).to(torch.uint8)


def _halves(codes: Tensor) -> Tensor:
    stored = _stored(codes)
    middle = stored.shape[1] // 2
    return stored[:, :middle] | (stored[:, middle:] << 4)


PACK = (
    WrongAnswer(
        "nibbles swapped",
        lambda codes_OI: (_stored(codes_OI)[:, 0::2] << 4) | _stored(codes_OI)[:, 1::2],
        "The first code of a pair is in the high four bits. Here it belongs into the low ones "
        "(bitsandbytes has it your way). The bytes look as good, and every pair is swapped.",
    ),
    WrongAnswer(
        "no offset",
        lambda codes_OI: _stored(codes_OI, 0)[:, 0::2] | (_stored(codes_OI, 0)[:, 1::2] << 4),
        "The codes are packed in two's complement. Add 8 first, so that -8 ... 7 become 0 ... 15.",
    ),
    WrongAnswer(
        "sign bits spill over",
        lambda codes_OI: (codes_OI[:, 0::2] | (codes_OI[:, 1::2] << 4)).to(torch.uint8),
        "A negative low code has ones in all its upper bits, and `|` lays them over its neighbour. "
        "Add 8 first; then every code is 0 ... 15.",
    ),
    WrongAnswer(
        "halves of the row",
        _halves,
        "You pair the first half of the row with the second, as GGUF does within a block. Here "
        "neighbours share a byte: codes 0::2 and 1::2.",
    ),
    WrongAnswer(
        "one code a byte",
        lambda codes_OI: _stored(codes_OI),
        "One code in each byte: that is 8 bits a weight, whatever the codes are called. Two codes "
        "must share a byte: low | (high << 4).",
    ),
)

BITS = (
    WrongAnswer(
        "scales not counted",
        lambda num_bits, group_size, scale_bits=16, zero_bits=0: float(num_bits),
        "You count the codes alone. A scale of 16 bits for 32 weights is half a bit for each.",
    ),
    WrongAnswer(
        "a scale for every weight",
        lambda num_bits, group_size, scale_bits=16, zero_bits=0: float(
            num_bits + scale_bits + zero_bits
        ),
        "Each weight pays for a whole scale. A group shares it: divide by group_size.",
    ),
    WrongAnswer(
        "zero points not counted",
        lambda num_bits, group_size, scale_bits=16, zero_bits=0: num_bits + scale_bits / group_size,
        "The zero point is stored as well, once for each group: add zero_bits to scale_bits.",
    ),
    WrongAnswer(
        "zero point for every weight",
        lambda num_bits, group_size, scale_bits=16, zero_bits=0: (
            num_bits + scale_bits / group_size + zero_bits
        ),
        "The scale is shared and the zero point is not. A group has one of each.",
    ),
    WrongAnswer(
        "whole bits only",
        lambda num_bits, group_size, scale_bits=16, zero_bits=0: float(
            num_bits + (scale_bits + zero_bits) // group_size
        ),
        "// drops the fraction, and the fraction is the point: 16 / 32 is half a bit.",
    ),
)


def _seconds(rows, inputs, outputs, weight_bits, flops, bandwidth):
    compute = 2 * rows * inputs * outputs / flops
    return compute, inputs * outputs * weight_bits / 8 / bandwidth


def _combined(how, compute_factor: float = 1, memory_factor: float = 1):
    def seconds(rows, inputs, outputs, weight_bits, flops, bandwidth):
        compute, memory = _seconds(rows, inputs, outputs, weight_bits, flops, bandwidth)
        return how(compute * compute_factor, memory * memory_factor)

    return seconds


def _read_for_each_row(rows, inputs, outputs, weight_bits, flops, bandwidth):
    compute, memory = _seconds(rows, inputs, outputs, weight_bits, flops, bandwidth)
    return max(compute, rows * memory)


SECONDS = (
    WrongAnswer(
        "added up",
        _combined(lambda a, b: a + b),
        "You add the two times. Reading and computing overlap: the slower of the two decides, max.",
    ),
    WrongAnswer(
        "the faster of the two",
        _combined(min),
        "min takes the part that is done first. The product is done when both are: max.",
    ),
    WrongAnswer(
        "bits for bytes",
        _combined(max, memory_factor=8),
        "The bandwidth is in bytes a second, and you divide bits by it. 8 bits are a byte.",
    ),
    WrongAnswer(
        "one operation for each weight",
        _combined(max, compute_factor=0.5),
        "A weight costs a multiplication and an addition: 2 operations.",
    ),
    WrongAnswer(
        "weights read for each row",
        _read_for_each_row,
        "You read the weight anew for each row. A product reads it once and uses it for all rows: "
        "that is why prefill is limited by arithmetic.",
    ),
)
