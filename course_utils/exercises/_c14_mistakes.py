"""Wrong answers to the exercises of chapter 14 that scale channels: mistakes that people make.

Those on calibration text and GPTQ stand in `_c14_gptq_mistakes`.
"""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.quantization import QuantizationArgs, fake_quantize
from course_utils.quantization.llm_int8 import int8_matmul
from course_utils.quantization.smoothquant import SMALLEST

# ---- LLM.int8


def _columns(x: Tensor, threshold: float) -> Tensor:
    return (x.abs() >= threshold).any(0)


def _parts(
    x: Tensor, weight: Tensor, loud: Tensor, *, of_x: bool = True, of_weight: bool = True,
    apart: bool = True,
) -> Tensor:  # fmt: skip
    """The product in two parts, with one of them left out or done twice."""
    usual_x = x.masked_fill(loud, 0) if of_x else x
    usual_weight = weight.masked_fill(loud, 0) if of_weight else weight
    result = int8_matmul(usual_x, usual_weight)
    return result + x[:, loud] @ weight[:, loud].T if apart else result


def _swapped(x: Tensor, weight: Tensor, threshold: float = 6.0) -> Tensor:
    return _parts(x, weight, ~_columns(x, threshold))


def _tokens(x: Tensor, weight: Tensor, threshold: float = 6.0) -> Tensor:
    loud = (x.abs() >= threshold).any(1)
    result = int8_matmul(x, weight)
    result[loud] = x[loud] @ weight.T
    return result


MIXED = (
    WrongAnswer(
        "outlier channels counted twice",
        lambda x, w, t=6.0: _parts(x, w, _columns(x, t), of_x=False, of_weight=False),
        "The outlier channels are in the eight-bit product AND in the floating one: counted twice, "
        "and they still set the scales. Set these columns to 0 in copies of both before "
        "int8_matmul.",
    ),
    WrongAnswer(
        "outlier channels dropped",
        lambda x, w, t=6.0: _parts(x, w, _columns(x, t), apart=False),
        "The outlier channels are gone: you set them to 0 and never add their part. They are what "
        "the model relies on most: + x[:, columns] @ weight[:, columns].T.",
    ),
    WrongAnswer(
        "no channel apart",
        lambda x, w, t=6.0: int8_matmul(x, w),
        "You multiply everything in eight bits. One loud channel sets the scale of each row, and "
        "all else rounds to nothing: that is the problem, not the remedy.",
    ),
    WrongAnswer(
        "threshold on the weights",
        lambda x, w, t=6.0: _parts(x, w, _columns(w, t)),
        "You look for outliers among the weights. They are in the INPUTS: a channel of x in which "
        "some token reaches the threshold.",
    ),
    WrongAnswer(
        "outliers set the weights' scale",
        lambda x, w, t=6.0: _parts(x, w, _columns(x, t), of_weight=False),
        "You take the channels out of x alone. Their weights still take part in the largest "
        "magnitude of each row, so its scale is too wide: set these columns to 0 in a copy of the "
        "weight as well.",
    ),
    WrongAnswer(
        "large negative values missed",
        lambda x, w, t=6.0: _parts(x, w, (x >= t).any(0)),
        "You compare x itself with the threshold, so a channel at -20 passes as harmless. Compare "
        "x.abs().",
    ),
    WrongAnswer(
        "tokens in place of channels",
        _tokens,
        "You take whole tokens out. Outliers sit in channels: with them nearly every token has "
        "one, and nothing would be left for eight bits. any(0) looks along the tokens.",
    ),
    WrongAnswer(
        "only where all tokens are loud",
        lambda x, w, t=6.0: _parts(x, w, (x.abs() >= t).all(0)),
        "You ask for channels in which EVERY token reaches the threshold. One token is enough to "
        "ruin its row: any, not all.",
    ),
    WrongAnswer(
        "the two parts swapped",
        _swapped,
        "The outlier channels go through eight bits, and the many quiet ones through floating "
        "point. It should be the other way round.",
    ),
)

# ---- SmoothQuant


def _power(amax: Tensor, weight: Tensor, one: float, other: float, over: int = 0) -> Tensor:
    return (amax + SMALLEST) ** one * (weight.abs().amax(over) + SMALLEST) ** other


def _signed(amax: Tensor, weight: Tensor, alpha: float = 0.5) -> Tensor:
    return (amax + SMALLEST) ** alpha / (weight.amax(0) + SMALLEST) ** (1 - alpha)


def _by_mean(amax: Tensor, weight: Tensor, alpha: float = 0.5) -> Tensor:
    return (amax + SMALLEST) ** alpha / (weight.abs().mean(0) + SMALLEST) ** (1 - alpha)


def _whole(amax: Tensor, weight: Tensor, alpha: float = 0.5) -> Tensor:
    return (amax + SMALLEST) ** alpha / (weight.abs().max() + SMALLEST) ** (1 - alpha)


SMOOTHING = (
    WrongAnswer(
        "divides on the wrong side",
        lambda a, w, alpha=0.5: _power(a, w, -alpha, 1 - alpha),
        "This is 1 / s: the inputs are divided by it, so the loud channels become louder still. "
        "The inputs' part stands above the line: amax^alpha / weight_amax^(1 - alpha).",
    ),
    WrongAnswer(
        "alpha swapped",
        lambda a, w, alpha=0.5: _power(a, w, 1 - alpha, -alpha),
        "alpha and 1 - alpha have changed places (at 0.5 nobody notices). alpha is the share that "
        "the inputs hand over: alpha 1 moves all of it into the weights.",
    ),
    WrongAnswer(
        "multiplied, not divided",
        lambda a, w, alpha=0.5: _power(a, w, alpha, 1 - alpha),
        "You multiply by the weights' part. A column of large weights has no room left: its "
        "channel should be divided by less, so the weights stand below the line.",
    ),
    WrongAnswer(
        "amax over the wrong axis",
        lambda a, w, alpha=0.5: _power(a, w, alpha, alpha - 1, over=1),
        "You take the largest weight of each row, that is of an output. s belongs to an input "
        "channel, which meets a column: amax(0).",
    ),
    WrongAnswer(
        "the weights left out",
        lambda a, w, alpha=0.5: (a + SMALLEST) ** alpha,
        "You use the inputs alone. The weights' column must have room for what it takes over: "
        "divide by weight_amax^(1 - alpha).",
    ),
    WrongAnswer(
        "sign kept",
        _signed,
        "You take the largest weight with its sign. A column whose largest magnitude is negative "
        "is measured wrongly: weight_OI.abs().amax(0).",
    ),
    WrongAnswer(
        "mean of the weights",
        _by_mean,
        "You take the mean magnitude of a column. It is the largest that sets a scale of eight "
        "bits: amax(0).",
    ),
    WrongAnswer(
        "one number for the whole weight",
        _whole,
        "You take the largest of all weights: one number, so quiet and loud columns look alike. "
        "One for each column: amax(0).",
    ),
)

# ---- AWQ


def _rounded(weight: Tensor, args: QuantizationArgs, before: Tensor, after: Tensor) -> Tensor:
    return fake_quantize(weight * before, args) * after


SCALED = (
    WrongAnswer(
        "scale not undone",
        lambda w, s, args: _rounded(w, args, s, torch.ones_like(s)),
        "You round W s and leave it so. The layer now computes something else: divide by the "
        "scale after rounding.",
    ),
    WrongAnswer(
        "scale applied twice",
        lambda w, s, args: _rounded(w, args, s, s),
        "You multiply by the scale again after rounding. It is to be undone: divide.",
    ),
    WrongAnswer(
        "divided first",
        lambda w, s, args: _rounded(w, args, 1 / s, s),
        "You divide before rounding and multiply afterwards. That makes the important columns "
        "smaller, so rounding hurts them more: multiply first.",
    ),
    WrongAnswer(
        "scale on the rows",
        lambda w, s, args: fake_quantize(w * s[:, None], args) / s[:, None],
        "You scale the rows, that is the outputs. The scale belongs to input channels, the "
        "columns: weight_OI * scale_I.",
    ),
    WrongAnswer(
        "undone before rounding",
        lambda w, s, args: fake_quantize(w, args),
        "The scale is gone before anything is rounded (or was never there): this is plain "
        "rounding to nearest. Round W s, then divide.",
    ),
)
