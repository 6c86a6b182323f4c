"""The exercises of chapter 13: codes and scales, zero points, packing, bits, and the roofline.

The wrong answers stand in `_c13_mistakes.py`.
"""

import random

import torch

from course_utils.exercises import _c13_mistakes as mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.quantization.basics import (
    absmax_quantize,
    asymmetric_quantize,
    pack_nibbles,
    product_seconds,
    stored_bits,
)


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- codes and scales


def _absmax_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    uneven = torch.randn(3, 8, generator=g) * torch.tensor([[1.0], [0.01], [30.0]])
    negative = -torch.rand(2, 6, generator=g) - 0.1
    return [
        Case((torch.tensor([[0.5, -1.0, 0.25]]),), "one row"),
        Case((torch.tensor([[1.0, -0.3]]), 4), "one row, 4 bits, the largest is positive"),
        Case((torch.zeros(1, 3),), "a row of zeros"),
        Case((uneven, 8), "rows of very different size"),
        Case((negative, 4), "negative weights alone"),
        Case((torch.randn(4, 16, generator=g) * 0.02, 4), "4 bits"),
        Case((torch.randn(2, 16, generator=g) * 0.02, 2), "2 bits"),
    ]


ABSMAX_QUANTIZE = ExerciseSpec(
    name="c13.absmax_quantize",
    title="Codes and scales",
    why="Every format of the next three chapters is this function with another range or grouping.",
    reference=absmax_quantize,
    cases=_absmax_cases,
    wrong_answers=mistakes.ABSMAX,
    hints=(
        "Which number must a row be divided by, so that its largest magnitude becomes 127.5?",
        "weight_OI.abs().amax(1, keepdim=True) / (2 ** (num_bits - 1) - 0.5) is the scale; "
        "torch.where(scale_O1 == 0, 1.0, scale_O1) takes care of zeros.",
        "(weight_OI / scale_O1).round().clamp(-half, half - 1).to(torch.int8), with "
        "half = 2 ** (num_bits - 1)",
    ),
)


# ---- zero points


def _asymmetric_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    return [
        Case((torch.tensor([[0.0, 0.3, 1.0, 1.5]]), 4), "one row from 0 to 1.5, 4 bits"),
        Case((torch.tensor([[-0.4, 0.3, 1.0]]), 4), "one row from -0.4 to 1.0, 4 bits"),
        Case((torch.zeros(1, 3), 4), "a row of zeros"),
        Case((torch.rand(2, 8, generator=g) + 2, 4), "weights from 2 to 3"),
        Case((-torch.rand(2, 8, generator=g) - 2, 4), "weights from -3 to -2"),
        Case((torch.randn(3, 16, generator=g) * 0.02 + 0.01, 8), "8 bits"),
        Case((torch.randn(3, 16, generator=g) + 0.5, 2), "2 bits"),
    ]


ASYMMETRIC_QUANTIZE = ExerciseSpec(
    name="c13.asymmetric_quantize",
    title="A zero point",
    why="With few bits it is worth a quarter of the codes; written wrongly it shifts every weight.",
    reference=asymmetric_quantize,
    cases=_asymmetric_cases,
    wrong_answers=mistakes.ASYMMETRIC,
    hints=(
        "Smallest and largest weight of a row take the codes 0 and 2^b - 1. How wide is a step?",
        "low_O1 is amin clamped to at most 0, high_O1 amax clamped to at least 0. The zero point "
        "is the code of the weight 0: (-low_O1 / scale_O1).round().",
        "((weight_OI / scale_O1).round() + zero_O1).clamp(0, largest).to(torch.uint8)",
    ),
)


# ---- packing


def _pack_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)

    def codes(*rows: list[int]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.int8)

    return [
        Case((codes([1, 2]),), "the codes 1 and 2"),
        Case((codes([-8, 7]),), "the smallest and the largest code"),
        Case((codes([0, 0, 1, -1]),), "four codes"),
        Case((torch.randint(-8, 8, (3, 8), generator=g).to(torch.int8),), "three rows of eight"),
        Case((torch.randint(-8, 8, (2, 64), generator=g).to(torch.int8),), "two rows of 64"),
    ]


PACK_NIBBLES = ExerciseSpec(
    name="c13.pack_nibbles",
    title="Two codes in a byte",
    why="Without it a 4-bit model takes 8 bits a weight; that has been shipped.",
    reference=pack_nibbles,
    cases=_pack_cases,
    wrong_answers=mistakes.PACK,
    hints=(
        "A byte has eight bits and a code four. First make the codes non-negative.",
        "stored = (codes_OI + 8).to(torch.uint8); neighbours are stored[:, 0::2] and 1::2.",
        "stored[:, 0::2] | (stored[:, 1::2] << 4)",
    ),
)


# ---- bits of a weight


def _bits_cases(rng: random.Random) -> list[Case]:
    return [
        Case((4, 32), "4 bits, groups of 32, scales of 16 bits"),
        Case((8, 128, 32), "8 bits, groups of 128, scales of 32 bits"),
        Case((4, 32, 16, 16), "Q4_1: 4 bits, groups of 32, a scale and a minimum of 16 bits"),
        Case((2, 16), "2 bits, groups of 16"),
        Case(
            (
                rng.choice((2, 3, 5)),
                rng.choice((24, 48, 96)),
                rng.choice((8, 16)),
                rng.randint(2, 8),
            )
        ),
    ]


STORED_BITS = ExerciseSpec(
    name="c13.stored_bits",
    title="Bits of a weight",
    why="Formats are compared at equal size, and a '2-bit' format may take 3.",
    reference=stored_bits,
    cases=_bits_cases,
    wrong_answers=mistakes.BITS,
    hints=(
        "What is stored for a whole group? Count its bits, then divide by its weights.",
        "A group has group_size codes, one scale, and perhaps one zero point.",
        "num_bits + (scale_bits + zero_bits) / group_size",
    ),
)


# ---- the roofline


def _seconds_cases(rng: random.Random) -> list[Case]:
    flops, bandwidth = rng.uniform(50, 300) * 1e9, rng.uniform(10, 60) * 1e9
    machine = (flops, bandwidth)
    return [
        Case((1, 100, 100, 32, 1e9, 1e9), "one row, 100 x 100 weights of 32 bits"),
        Case((1000, 100, 100, 8, 1e9, 1e9), "a thousand rows, weights of 8 bits"),
        Case((1, 4096, 4096, 4.5, *machine), "decode, 4.5 bits"),
        Case((512, 576, 1536, 8, *machine), "prefill, 8 bits"),
        Case((rng.randint(6, 12), 1024, 1024, 16, *machine), "a few rows, 16 bits"),
    ]


PRODUCT_SECONDS = ExerciseSpec(
    name="c13.product_seconds",
    title="The roofline of a product",
    why="It says before any measurement whether fewer bits can make a product faster.",
    reference=product_seconds,
    cases=_seconds_cases,
    wrong_answers=mistakes.SECONDS,
    hints=(
        "Two things take time: the arithmetic, and fetching the weight. What does each need?",
        "2 * rows * inputs * outputs operations; inputs * outputs * weight_bits / 8 bytes.",
        "max(operations / flops, weight_bytes / bandwidth)",
    ),
)

EXERCISES = [
    ABSMAX_QUANTIZE,
    ASYMMETRIC_QUANTIZE,
    STORED_BITS,
    PACK_NIBBLES,
    PRODUCT_SECONDS,
]
