"""The exercises of chapter 14: LLM.int8, SmoothQuant, AWQ, calibration text, and GPTQ in two steps.

The wrong answers stand in `_c14_mistakes.py` and, for GPTQ, in `_c14_gptq_mistakes.py`.
"""

import random

import torch
from torch import Tensor

from course_utils.exercises import _c14_gptq_mistakes as gptq_mistakes
from course_utils.exercises import _c14_mistakes as mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.quantization import QuantizationArgs
from course_utils.quantization.awq import scaled_quantize
from course_utils.quantization.calibration import without_overlap
from course_utils.quantization.gptq import inverse_cholesky, round_columns
from course_utils.quantization.llm_int8 import mixed_matmul
from course_utils.quantization.smoothquant import smoothing_scale


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- LLM.int8


def _mixed_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    small = torch.tensor([[1.0, -20.0, 0.5], [0.8, 3.0, -0.4]])
    weight = torch.tensor([[0.3, 2.0, -0.2], [0.1, 0.5, 0.7]])
    loud = torch.randn(6, 8, generator=g)
    loud[:, 2] = -torch.rand(6, generator=g) * 30 - 7
    loud[4, 5] = 9.0
    weights = torch.randn(4, 8, generator=g)
    weights[1, 3] = 11.0
    lower = torch.randn(5, 4, generator=g).clamp(-2.9, 2.9)
    lower[1, 0] = 4.0
    return [
        Case((small, weight), "channel 1 reaches -20"),
        Case((small / 20, weight), "no channel reaches 6"),
        Case((loud, weights), "one loud channel, one token that is loud in another"),
        Case((lower, torch.randn(3, 4, generator=g), 3.0), "a threshold of 3"),
    ]


MIXED_MATMUL = ExerciseSpec(
    name="c14.mixed_matmul",
    title="Outlier channels apart",
    why="Six channels decided whether a model of 6.7 billion could be rounded.",
    reference=mixed_matmul,
    cases=_mixed_cases,
    wrong_answers=mistakes.MIXED,
    hints=(
        "The sum over channels can be cut in two: outlier channels, and all others.",
        "outlier_columns gives their numbers. Copies of x and W in which these columns are 0 go "
        "through int8_matmul; the columns themselves through an ordinary product.",
        "int8_matmul(usual_TI, usual_OI) + x_TI[:, columns] @ weight_OI[:, columns].T",
    ),
    rtol=1e-4,
    atol=1e-4,
)


# ---- SmoothQuant


def _smoothing_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    amax = torch.rand(5, generator=g) * 4 + 0.2
    amax[3] = 80.0
    square = torch.randn(5, 5, generator=g) * 0.1
    square[2] *= 8
    return [
        Case((torch.tensor([4.0, 1.0]), torch.tensor([[1.0, -0.25], [0.5, 0.2]])), "two channels"),
        Case((amax, square), "five channels, one of them loud"),
        Case((amax, square, 0.8), "alpha 0.8"),
        Case((amax, torch.randn(3, 5, generator=g), 0.3), "alpha 0.3, three outputs"),
        Case((torch.tensor([0.0, 2.0]), torch.tensor([[0.0, 0.3], [0.0, -1.5]])), "a dead channel"),
    ]


SMOOTHING_SCALE = ExerciseSpec(
    name="c14.smoothing_scale",
    title="Move the difficulty",
    why="It makes inputs fit into 8 bits without a product in two parts, and costs nothing later.",
    reference=smoothing_scale,
    cases=_smoothing_cases,
    wrong_answers=mistakes.SMOOTHING,
    hints=(
        "A loud input channel is to be divided by something large. One number for each channel.",
        "The weight's column j meets channel j: weight_OI.abs().amax(0) are its largest "
        "magnitudes, (I,). Add SMALLEST to both before taking powers.",
        "(amax_I + SMALLEST) ** alpha / (weight_amax_I + SMALLEST) ** (1 - alpha)",
    ),
    rtol=1e-4,
)


# ---- AWQ


def _scaled_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    four, two = (QuantizationArgs(b, False, "group", 4) for b in (4, 2))
    scale = torch.rand(8, generator=g) * 2 + 0.3
    return [
        Case((torch.tensor([[0.5, -1.0]]), torch.tensor([4.0, 0.25]), QuantizationArgs(4))),
        Case((torch.randn(8, 8, generator=g), scale, four), "4 bits, eight rows, groups of 4"),
        Case((torch.randn(3, 8, generator=g), scale, two), "2 bits, three rows, groups of 4"),
        Case((torch.randn(3, 8, generator=g), torch.ones(8), four), "scales of 1"),
    ]


SCALED_QUANTIZE = ExerciseSpec(
    name="c14.scaled_quantize",
    title="Round in another measure",
    why="A scale that is not undone is a different model, and nothing raises an error.",
    reference=scaled_quantize,
    cases=_scaled_cases,
    wrong_answers=mistakes.SCALED,
    hints=(
        "What must the result be, if rounding changed nothing at all? W itself.",
        "A scale for each input channel multiplies a column: weight_OI * scale_I broadcasts so.",
        "fake_quantize(weight_OI * scale_I, args) / scale_I",
    ),
)


# ---- calibration text


def _overlap_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    evaluation = torch.randint(0, 50, (3, 24), generator=g)
    windows = torch.randint(0, 50, (8, 24), generator=g)
    windows[1, 3:9] = evaluation[2, 11:17]  # six tokens, at another place
    windows[2, 5:10] = evaluation[1, 10:15]
    windows[4] = evaluation[0]
    windows[6, :8] = evaluation[1, 4:12].flip(0)  # the same tokens, backwards
    first, second = [1, 2, 3, 4], [5, 6, 7, 8]
    return [
        Case((torch.tensor([first, [9, 6, 7, 0]]), torch.tensor([second]), 2), "6, 7 is shared"),
        Case((torch.tensor([[4, 5, 9, 9]]), torch.tensor([first, second]), 2),
             "4, 5 stands in no row of the evaluation"),
        Case((torch.tensor([first]), torch.tensor([[0, 4, 3, 2]]), 2), "other order"),
        Case((windows, evaluation, 5), "eight windows, runs of 5"),
        Case((windows, evaluation, 7), "the same, runs of 7"),
    ]  # fmt: skip


WITHOUT_OVERLAP = ExerciseSpec(
    name="c14.without_overlap",
    title="Calibration text that is not the test",
    why="Calibrated on the test text, a method looks better on it than it is on any other.",
    reference=without_overlap,
    cases=_overlap_cases,
    wrong_answers=gptq_mistakes.OVERLAP,
    hints=(
        "Collect every run of neighbouring tokens of the evaluation text. What can be looked up?",
        "row.unfold(0, run, 1) gives all runs of a row, one starting at each place; tuples of "
        "numbers go into a set.",
        "keep a window if none of tuple(part) for part in row.unfold(0, run, 1).tolist() is in "
        "the set; return windows_NT[torch.tensor(kept)]",
    ),
)


# ---- the factor


def _hessian(g: torch.Generator, tokens: int, channels: int) -> Tensor:
    x_TI = torch.randn(tokens, channels, generator=g) @ torch.randn(channels, channels, generator=g)
    return x_TI.T @ x_TI / tokens


def _factor_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    full, few = _hessian(g, 64, 5), _hessian(g, 3, 6)
    dead = _hessian(g, 64, 4)
    dead[2], dead[:, 2] = 0, 0
    return [
        Case((torch.tensor([[2.0, 1.0], [1.0, 3.0]]),), "two channels"),
        Case((torch.diag(torch.tensor([4.0, 25.0, 1.0])), 0.1), "channels that are independent"),
        Case((full,), "five channels, many tokens"),
        Case((dead,), "a channel that was always 0"),
        Case((few, 0.1), "six channels, three tokens: H has no inverse"),
    ]


INVERSE_CHOLESKY = ExerciseSpec(
    name="c14.inverse_cholesky",
    title="Damp, invert, factor",
    why="Without damping GPTQ stops with an error, or amplifies what few tokens happened to say.",
    reference=inverse_cholesky,
    cases=_factor_cases,
    wrong_answers=gptq_mistakes.FACTOR,
    hints=(
        "Work on a copy. Set zeros on the diagonal to 1, then add the same number everywhere on "
        "the diagonal. Which number?",
        "torch.linalg.cholesky gives the lower factor of H; torch.cholesky_inverse makes the "
        "inverse of H from it; torch.linalg.cholesky(inverse, upper=True) is the result.",
        "diagonal_I = damped_II.diagonal() is a view: diagonal_I[diagonal_I == 0] = 1, then "
        "diagonal_I += damp * diagonal_I.mean()",
    ),
    rtol=2e-3,
    atol=1e-3,
)


# ---- the loop over columns


def _columns_case(
    g: torch.Generator, rows: int, columns: int, args: QuantizationArgs, says: str
) -> Case:
    weight_OI = torch.randn(rows, columns, generator=g)
    upper_II = torch.randn(columns, columns, generator=g).triu(1) * 0.5
    upper_II += torch.diag(torch.rand(columns, generator=g) + 0.5)
    span = weight_OI.amax(1, keepdim=True) - weight_OI.amin(1, keepdim=True)
    scale_OI = (0.8 * span / (2**args.num_bits - 1)).repeat(1, columns)
    zero = 0 if args.symmetric else 2 ** (args.num_bits - 1) - 1
    zero_point_OI = torch.full((rows, columns), zero, dtype=torch.int32)
    return Case((weight_OI, upper_II, scale_OI, zero_point_OI, args), says)


def _columns_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    args = QuantizationArgs(4)
    one = torch.ones(1, 2)
    upper = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    return [
        Case((torch.tensor([[0.4, 0.2]]), upper, one, torch.zeros(1, 2), args),
             "two columns: 0.4 and 0.2, steps of 1, U = [[2, 1], [0, 1]]"),
        Case((torch.tensor([[0.4, 0.4]]), upper, one, torch.zeros(1, 2), args),
             "two columns: 0.4 and 0.4, the same U"),
        _columns_case(g, 4, 6, QuantizationArgs(4), "six columns, 4 bits"),
        _columns_case(g, 5, 8, QuantizationArgs(2, False), "eight columns, 2 bits, a zero point"),
        _columns_case(g, 16, 16, QuantizationArgs(3), "16 columns, 3 bits"),
    ]  # fmt: skip


ROUND_COLUMNS = ExerciseSpec(
    name="c14.round_columns",
    title="GPTQ's loop",
    why="These lines are GPTQ: everything around them is bookkeeping.",
    reference=round_columns,
    cases=_columns_cases,
    wrong_answers=gptq_mistakes.COLUMNS,
    hints=(
        "Round column i of what is left, find what the code is worth, and hand the difference to "
        "the columns behind it.",
        "error_O = (rest_OI[:, i] - rounded_O) / upper_II[i, i]; each later column j loses "
        "error_O * upper_II[i, j].",
        "rest_OI[:, i + 1 :] -= error_O[:, None] * upper_II[i, i + 1 :]",
    ),
)

EXERCISES = [
    MIXED_MATMUL,
    SMOOTHING_SCALE,
    SCALED_QUANTIZE,
    WITHOUT_OVERLAP,
    INVERSE_CHOLESKY,
    ROUND_COLUMNS,
]
