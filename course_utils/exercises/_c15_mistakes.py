"""Wrong answers to the exercises of chapter 15 about ternary weights, training and the cache."""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.quantization.affine import check_finite

# ---- ternary


def _ternary(weight: Tensor, scale: Tensor, codes=None) -> tuple[Tensor, Tensor]:
    check_finite(weight)
    scaled = weight / scale
    codes = scaled.round().clamp(-1, 1) if codes is None else codes(scaled)
    return codes.to(torch.int8), scale


def _mean(weight: Tensor) -> Tensor:
    return weight.abs().mean((-2, -1), keepdim=True).clamp(min=1e-5)


def _unguarded(weight):
    scale = weight.abs().mean((-2, -1), keepdim=True)
    return (weight / scale).nan_to_num(0, 0, 0).round().clamp(-1, 1).to(torch.int8), scale


def _unchecked(weight):
    return (weight / _mean(weight)).round().nan_to_num(0, 0, 0).clamp(-1, 1).to(torch.int8), _mean(
        weight
    )


QUANTIZE_TERNARY = (
    WrongAnswer(
        "the largest as scale",
        lambda w: _ternary(w, w.abs().amax((-2, -1), keepdim=True).clamp(min=1e-5)),
        "Divided by the largest weight, nearly all others lie below one half and become 0. The "
        "scale is the mean absolute value.",
    ),
    WrongAnswer(
        "the mean with signs",
        lambda w: _ternary(w, w.mean((-2, -1), keepdim=True).clamp(min=1e-5)),
        "Positive and negative weights cancel, so the mean is close to 0. Take abs() first.",
    ),
    WrongAnswer(
        "a scale for each row",
        lambda w: _ternary(w, w.abs().mean(-1, keepdim=True).clamp(min=1e-5)),
        "Each row got its own scale. BitNet has one for the matrix: mean over the last two "
        "dimensions.",
    ),
    WrongAnswer(
        "one scale for the stack",
        lambda w: _ternary(w, w.abs().mean().clamp(min=1e-5).expand(*w.shape[:-2], 1, 1).clone()),
        "Stacked matrices share a scale here. Each is a matrix of its own: mean over the last two "
        "dimensions, keepdim=True.",
    ),
    WrongAnswer(
        "not clamped",
        lambda w: _ternary(w, _mean(w), lambda scaled: scaled.round()),
        "Weights of twice the mean became 2 and more: these are not three values. clamp(-1, 1).",
    ),
    WrongAnswer(
        "signs only",
        lambda w: _ternary(w, _mean(w), torch.sign),
        "Every weight became -1 or 1, as in the first BitNet. Round the scaled weight: those below "
        "half of the scale become 0.",
    ),
    WrongAnswer(
        "truncated",
        lambda w: _ternary(w, _mean(w), lambda scaled: scaled.trunc().clamp(-1, 1)),
        "Converting to int8 drops the part after the point, so only weights above the whole scale "
        "count. round() first.",
    ),
    WrongAnswer(
        "a scale of zero",
        _unguarded,
        "A matrix of zeros gives the scale 0, and dividing by it NaN. .clamp(min=LEAST_SCALE).",
    ),
    WrongAnswer(
        "infinities let in",
        _unchecked,
        "With an infinity the scale is infinite and all weights vanish, without a word. "
        "check_finite(weight_OI) first.",
    ),
)


# ---- straight through


def _rounded(weight, scale, q_min, q_max):
    return (weight / scale).round().clamp(q_min, q_max) * scale


def _identity(weight, scale, q_min, q_max):
    codes = weight / scale
    return (codes + ((codes.round()).clamp(q_min, q_max) - codes).detach()) * scale


def _unclamped(weight, scale, q_min, q_max):
    scaled = weight / scale
    return (scaled + (scaled.round() - scaled).detach()) * scale


def _codes_only(weight, scale, q_min, q_max):
    scaled = weight / scale
    return (scaled + (scaled.round() - scaled).detach()).clamp(q_min, q_max)


def _wrong_way(weight, scale, q_min, q_max):
    scaled = weight / scale
    codes = scaled.round() + (scaled - scaled.round()).detach()
    return codes.clamp(q_min, q_max) * scale


def _unscaled(weight, scale, q_min, q_max):
    codes = weight + (weight.round() - weight).detach()
    return (codes / scale).clamp(q_min, q_max) * scale


STRAIGHT_THROUGH = (
    WrongAnswer(
        "the gradient passes the clamp",
        _identity,
        "Values are right, but weights beyond the limits still get a gradient: moving them changes "
        "nothing in the forward pass, so it must be zero. Detach the rounding alone, and clamp "
        "afterwards.",
        also=(
            lambda w, s, low, high: w + (_rounded(w, s, low, high) - w).detach(),
            lambda w, s, low, high: w + (_rounded(w, s, low, high).detach() - w.detach()),
        ),
    ),
    WrongAnswer(
        "no gradient",
        _rounded,
        "Values are right, but round() has the gradient zero: no weight will ever move. Hide the "
        "rounding from the gradient: x + (x.round() - x).detach().",
        also=(lambda w, s, low, high: _rounded(w, s, low, high).detach(),),
    ),
    WrongAnswer(
        "not clamped",
        _unclamped,
        "Codes beyond the limits do not exist in so few bits. clamp(q_min, q_max) after rounding.",
    ),
    WrongAnswer(
        "codes in place of weights",
        _codes_only,
        "These are codes. The layer computes with weights: multiply by the scale again.",
    ),
    WrongAnswer(
        "the wrong part detached",
        _wrong_way,
        "round(x) + (x - round(x)).detach() is x: nothing is rounded, and the gradient is zero. "
        "The part that the gradient sees must be x.",
    ),
    WrongAnswer(
        "rounded before the scale",
        _unscaled,
        "You round the weight itself, and weights are small: most become 0. Divide by the scale "
        "first.",
    ),
)


# ---- keys


def _range(x: Tensor, bits: int, dims, steps: int | None = None, rounding=torch.round):
    lowest, highest = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    steps = 2**bits - 1 if steps is None else steps
    scale = torch.where(highest == lowest, 1.0, (highest - lowest) / steps)
    codes = rounding((x - lowest) / scale).clamp(0, 2**bits - 1)
    return codes.to(torch.uint8), scale, lowest


def _from_zero(x, bits):
    highest = x.abs().amax(-2, keepdim=True)
    scale = torch.where(highest == 0, 1.0, 2 * highest / (2**bits - 1))
    codes = ((x + highest) / scale).round().clamp(0, 2**bits - 1)
    return codes.to(torch.uint8), scale, -highest


def _no_guard(x, bits):
    lowest = x.amin(-2, keepdim=True)
    scale = (x.amax(-2, keepdim=True) - lowest) / (2**bits - 1)
    return ((x - lowest) / scale).nan_to_num(0).round().to(torch.uint8), scale, lowest


QUANTIZE_KEYS = (
    WrongAnswer(
        "per token",
        lambda x, bits: _range(x, bits, -1),
        "The range is that of a token over its channels. One channel around 30 then takes all "
        "codes from the others. Keys share a range along the tokens: dimension -2.",
    ),
    WrongAnswer(
        "one range for a head",
        lambda x, bits: _range(x, bits, (-2, -1)),
        "All channels of a head share one range. Each channel needs its own: reduce over the "
        "tokens alone, dimension -2.",
    ),
    WrongAnswer(
        "heads mixed",
        lambda x, bits: _range(x, bits, tuple(range(x.dim() - 1))),
        "Texts and heads share a range per channel. Channel 5 of one head has nothing to do with "
        "channel 5 of another: reduce over dimension -2 alone.",
    ),
    WrongAnswer(
        "around zero",
        _from_zero,
        "The range is symmetric around zero. A channel between 28 and 32 would use two codes of "
        "its many. Begin at the lowest number.",
    ),
    WrongAnswer(
        "a step too many",
        lambda x, bits: _range(x, bits, -2, steps=2**bits),
        "Between 2**bits codes lie 2**bits - 1 steps. With one more the highest number has no code "
        "of its own.",
    ),
    WrongAnswer(
        "truncated",
        lambda x, bits: _range(x, bits, -2, rounding=torch.floor),
        "Converting to uint8 drops what follows the point: all keys become smaller. round() first.",
    ),
    WrongAnswer(
        "a scale of zero",
        _no_guard,
        "A channel that never changes has width 0, and 0 / 0 is NaN. Give it the scale 1.",
    ),
)
