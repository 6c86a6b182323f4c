"""The exercises of chapter 15: FP8 blocks, MXFP4, ternary, straight-through, keys in few bits.

The wrong answers stand in the files `_c15_*.py` beside this one.
"""

import random

import torch
from torch import Tensor

from course_utils.exercises import _c15_float_mistakes as float_mistakes
from course_utils.exercises import _c15_mistakes as mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.quantization.fp8 import quantize_fp8
from course_utils.quantization.kv_cache import quantize_keys
from course_utils.quantization.mxfp4 import round_e2m1, shared_exponents
from course_utils.quantization.qat import straight_through
from course_utils.quantization.ternary import quantize_ternary


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- FP8 in blocks


def _fp8_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    small = torch.randn(2, 4, generator=g)
    outlier = torch.randn(8, 8, generator=g) * 0.01
    outlier[1, 6] = -1000.0
    holes = torch.randn(6, 8, generator=g)
    holes[:3, 4:] = 0
    return [
        Case((small, (1, 2)), "2 x 4 in tiles of 1 x 2"),
        Case((torch.randn(4, 4, generator=g), (2, 4)), "4 x 4 in blocks of 2 x 4"),
        Case((outlier, (4, 4)), "one number of -1000 among numbers of 0.01, blocks of 4 x 4"),
        Case((holes, (3, 4)), "a block of zeros"),
        Case((torch.randn(5, 7, generator=g) * 1e4, (2, 3)), "blocks that reach over the edge"),
        Case((torch.randn(4, 8, generator=g), (2, 2), torch.float8_e5m2), "E5M2, up to 57,344"),
        Case((torch.randn(130, 256, generator=g),), "130 x 256 in blocks of 128 x 128"),
    ]


def _codes_as_numbers(result: object, args: tuple) -> object:
    """FP8 codes cannot be compared as they are: as float32, with the dtype beside them."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Tensor):
        return result
    codes, scale = result
    return {"dtype of the codes": str(codes.dtype), "codes": codes.float(), "scale": scale}


QUANTIZE_FP8 = ExerciseSpec(
    name="c15.quantize_fp8",
    title="FP8 with a scale for each block",
    why="It is how DeepSeek-V3's 671 billion weights are stored, and how its activations travel.",
    reference=quantize_fp8,
    cases=_fp8_cases,
    wrong_answers=float_mistakes.QUANTIZE_FP8,
    hints=(
        "Each block needs one number: which one makes its largest weight 448?",
        "tiles = into_tiles(weight_OI.float(), block) has shape (row blocks, rows, column blocks, "
        "columns): amax over dimensions 1 and 3. torch.finfo(dtype).max is 448 for E4M3.",
        "scale = tiles.abs().amax((1, 3)) / largest, 1 where that is 0; codes = (tiles / "
        "scale[:, None, :, None]).clamp(-largest, largest).to(dtype); from_tiles(codes, shape)",
    ),
    observe=_codes_as_numbers,
)


# ---- E2M1


def _e2m1_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    table = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    return [
        Case((torch.tensor([1.0, 3.0]),), "two values of the table"),
        Case((torch.tensor([1.1, 2.7, 0.3]),), "between values"),
        Case((torch.tensor([-1.1, -6.0]),), "below zero"),
        Case((torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]),), "halfway between values"),
        Case((torch.tensor([6.5, 7.9, -40.0]),), "beyond 6"),
        Case((torch.cat([table, -table[1:]]),), "the whole table"),
        Case((3 * torch.randn(4, 32, generator=g),), "four blocks of 32"),
    ]


ROUND_E2M1 = ExerciseSpec(
    name="c15.round_e2m1",
    title="Round to four bits of float",
    why="Every weight of gpt-oss's experts is one of these sixteen values times a power of two.",
    reference=round_e2m1,
    cases=_e2m1_cases,
    wrong_answers=float_mistakes.ROUND_E2M1,
    hints=(
        "Which of the eight values is nearest? Compare |x| with the seven midpoints between them.",
        "torch.bucketize(|x|, midpoints) counts the midpoints below. At a tie it gives the smaller "
        "value, with right=True the larger: take the one whose code is even.",
        "below, above = both; codes = torch.where(below % 2 == 0, below, above); add 8 where "
        "torch.signbit(x); .to(torch.uint8)",
    ),
)


# ---- the shared exponent


def _exponent_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    powers = torch.zeros(5, 32)
    powers[:, 9] = torch.tensor([1.0, 2.0, 4.0, 6.0, 8.0])
    negative = torch.rand(2, 32, generator=g)
    negative[:, 4] = torch.tensor([-3.1, -100.0])
    sizes = 2.0 ** torch.arange(-30, 30, 6)[:, None]
    return [
        Case((torch.full((1, 32), 4.0),), "a block of fours: 127 + 2 - 2"),
        Case((powers,), "five blocks whose largest numbers are 1, 2, 4, 6, 8"),
        Case((negative,), "the number of largest size is negative"),
        Case((torch.zeros(1, 32),), "a block of zeros"),
        Case((torch.randn(10, 32, generator=g) * sizes,), "ten blocks from tiny to large"),
        Case((torch.randn(3, 2, 32, generator=g) * 0.02,), "weights of three rows, two blocks"),
    ]


SHARED_EXPONENTS = ExerciseSpec(
    name="c15.shared_exponents",
    title="The exponent of a block",
    why="One off, and either half of the values are never used or the largest weights are cut.",
    reference=shared_exponents,
    cases=_exponent_cases,
    wrong_answers=float_mistakes.SHARED_EXPONENTS,
    hints=(
        "After the division the largest number must lie between 4 and 8. Which power of two does "
        "that, for 1? For 6?",
        "floor(log2(largest)) - 2. torch.frexp(x).exponent is floor(log2(x)) + 1, exactly.",
        "exponent = torch.where(largest == 0, -E8M0_BIAS, torch.frexp(largest).exponent - 3), "
        "clamped to +-E8M0_BIAS, plus E8M0_BIAS, .to(torch.uint8)",
    ),
)


# ---- ternary


def _ternary_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    rows = torch.randn(6, 8, generator=g) * torch.tensor([0.1, 1, 3, 1, 0.3, 2])[:, None]
    infinite = torch.ones(2, 2)
    infinite[1, 0] = float("inf")
    return [
        Case((torch.tensor([[0.9, -0.1], [-1.2, 0.2]]),), "2 x 2, mean size 0.6"),
        Case((torch.full((2, 3), -0.7),), "all weights -0.7"),
        Case((torch.zeros(2, 2),), "all weights zero"),
        Case((rows,), "rows of different size"),
        Case((torch.rand(4, 5, generator=g) + 0.1,), "all weights above zero"),
        Case((infinite,), "an infinity: ValueError"),
        Case((torch.randn(3, 4, 8, generator=g),), "three stacked matrices"),
    ]


QUANTIZE_TERNARY = ExerciseSpec(
    name="c15.quantize_ternary",
    title="Three values",
    why="The choice of the scale decides whether a matrix survives as more than zeros.",
    reference=quantize_ternary,
    cases=_ternary_cases,
    wrong_answers=mistakes.QUANTIZE_TERNARY,
    hints=(
        "What is a typical size of a weight of this matrix, signs aside?",
        "weight_OI.abs().mean((-2, -1), keepdim=True), at least LEAST_SCALE. Divide, then round.",
        "check_finite(weight_OI); scale as above with .clamp(min=LEAST_SCALE); return (weight_OI / "
        "scale).round().clamp(-1, 1).to(torch.int8), scale",
    ),
)


# ---- straight through


def _straight_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    inside = torch.rand(2, 3, generator=g) * 2 - 1.2
    scales = torch.rand(4, 1, generator=g) + 0.1
    return [
        Case((inside, torch.tensor(0.5), -4, 3), "all codes between the limits"),
        Case((torch.tensor([[0.2, 5.0], [-9.0, 0.4]]), torch.tensor(1.0), -2, 1), "two clamped"),
        Case((torch.randn(4, 6, generator=g), scales, -2, 1), "a scale for each row, 2 bits"),
        Case((torch.randn(4, 6, generator=g), scales, 0, 3), "codes from 0 to 3"),
        Case(
            (torch.randn(3, 8, generator=g).double(), torch.tensor(0.3).double(), -8, 7), "double"
        ),
    ]


STRAIGHT_THROUGH = ExerciseSpec(
    name="c15.straight_through",
    title="A gradient for rounding",
    why="Without it nothing learns; with a wrong one, weights at the limits drift away unseen.",
    reference=straight_through,
    cases=_straight_cases,
    wrong_answers=mistakes.STRAIGHT_THROUGH,
    hints=(
        "x + (round(x) - x) is round(x). Which of the two parts should the gradient see?",
        "scaled + (scaled.round() - scaled).detach() rounds, with the gradient of the identity. "
        "The clamp needs no trick: its own gradient is what is wanted.",
        "codes = scaled + (scaled.round() - scaled).detach(); return codes.clamp(q_min, q_max) * "
        "scale, with scaled = weight_OI / scale",
    ),
    gradients=True,
)


# ---- keys


def _keys_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    outlier = torch.randn(1, 2, 8, 4, generator=g)
    outlier[..., 2] += 30
    constant = torch.randn(1, 1, 4, 3, generator=g)
    constant[..., 1] = 0.5
    return [
        Case((torch.tensor([[0.0, 10.0], [3.0, 13.0]]), 2), "two tokens, two channels, 2 bits"),
        Case((torch.randn(5, 3, generator=g), 4), "five tokens, three channels, 4 bits"),
        Case((outlier, 2), "two heads; channel 2 lies around 30"),
        Case((constant, 2), "a channel that never changes"),
        Case((torch.randn(2, 3, 16, 8, generator=g), 8), "two texts, three heads, 8 bits"),
    ]


QUANTIZE_KEYS = ExerciseSpec(
    name="c15.quantize_keys",
    title="Keys per channel",
    why="At 2 bits the axis decides between a loss and noise, if a model has large channels.",
    reference=quantize_keys,
    cases=_keys_cases,
    wrong_answers=mistakes.QUANTIZE_KEYS,
    hints=(
        "Which dimension are the tokens of a channel, counted from the end?",
        "lowest = k.amin(-2, keepdim=True) and the same with amax: between them lie 2**bits codes, "
        "so 2**bits - 1 steps. A width of 0 gets scale 1.",
        "codes = ((k - lowest) / scale).round().clamp(0, 2**bits - 1).to(torch.uint8); return "
        "codes, scale, lowest",
    ),
)

EXERCISES = [
    QUANTIZE_FP8,
    ROUND_E2M1,
    SHARED_EXPONENTS,
    QUANTIZE_TERNARY,
    STRAIGHT_THROUGH,
    QUANTIZE_KEYS,
]
