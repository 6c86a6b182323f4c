"""Wrong answers to the exercises of chapter 12 on masks and channels: mistakes that people make.

Those on layers and on cutting stand in `_c12_cutting_mistakes`.
"""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

# ---- Wanda


def _drop(weight: Tensor, order: Tensor, count: int) -> Tensor:
    return torch.ones_like(weight, dtype=torch.bool).scatter(-1, order[:, :count], False)


def _by(scores: Tensor, sparsity: float) -> Tensor:
    order = scores.argsort(dim=-1, stable=True)
    return _drop(scores, order, int(sparsity * scores.shape[1]))


def _norm(x: Tensor) -> Tensor:
    return x.square().sum(0).sqrt()


def _columns(weight: Tensor, x: Tensor, sparsity: float) -> Tensor:
    return _by((weight.abs() * _norm(x)).T, sparsity).T


def _whole(weight: Tensor, x: Tensor, sparsity: float) -> Tensor:
    scores = (weight.abs() * _norm(x)).flatten()
    count = int(sparsity * scores.numel())
    return _drop(scores[None], scores[None].argsort(dim=-1, stable=True), count).view(weight.shape)


def _tokens(weight: Tensor, x: Tensor, sparsity: float) -> Tensor:
    return _by(weight.abs() * x.square().sum(1).sqrt(), sparsity)


def _keeps_lowest(weight: Tensor, x: Tensor, sparsity: float) -> Tensor:
    order = (weight.abs() * _norm(x)).argsort(dim=-1, descending=True, stable=True)
    return _drop(weight, order, int(sparsity * weight.shape[1]))


def _inverted(weight: Tensor, x: Tensor, sparsity: float) -> Tensor:
    return ~_by(weight.abs() * _norm(x), sparsity)


WANDA_MASK = (
    WrongAnswer(
        "no norm of the inputs",
        lambda w, x, s: _by(w.abs(), s),
        "You compare |w| alone: that is magnitude pruning, row by row. Wanda multiplies by the "
        "norm of the input channel that the weight reads.",
    ),
    WrongAnswer(
        "norm over the wrong dimension",
        _tokens,
        "Your norm has one number a token. A weight reads one channel of all tokens: sum the "
        "squares over the tokens, dimension 0 of x_TD, which gives D numbers.",
    ),
    WrongAnswer(
        "mean of the inputs",
        lambda w, x, s: _by(w.abs() * x.mean(0).abs(), s),
        "You take the mean of a channel, in which positive and negative values cancel. Take the "
        "L2 norm: the root of the sum of squares.",
    ),
    WrongAnswer(
        "sign kept",
        lambda w, x, s: _by(w * _norm(x), s),
        "You compare w with its sign, so all large negative weights go first. Take |w|.",
    ),
    WrongAnswer(
        "compared within a column",
        _columns,
        "You drop the lowest of every column, that is among the outputs. An output is a sum over "
        "its row: only weights of one row compete.",
    ),
    WrongAnswer(
        "one threshold for the matrix",
        _whole,
        "You compare all weights of the matrix with one another, so some outputs lose more than "
        "others. Wanda drops the same share in every row.",
    ),
    WrongAnswer(
        "the highest dropped",
        _keeps_lowest,
        "You drop the weights with the highest scores. The lowest are to go.",
    ),
    WrongAnswer(
        "True where a weight goes",
        _inverted,
        "Your mask is True for what is removed. In this course, and in PyTorch, True means keep: "
        "weight * mask is the pruned weight.",
    ),
    WrongAnswer(
        "scores in place of a mask",
        lambda w, x, s: w * _by(w.abs() * _norm(x), s),
        "You return the pruned weight. Return the mask, booleans: it can be stored, packed and "
        "compared.",
    ),
)

# ---- 2:4


def _best(fours: Tensor, descending: bool = True) -> Tensor:
    best = fours.argsort(dim=-1, descending=descending, stable=True)[..., :2]
    return torch.zeros_like(fours, dtype=torch.bool).scatter(-1, best, True)


def _checked(scores: Tensor) -> None:
    if scores.shape[-1] % 4:
        raise ValueError(f"{scores.shape[-1]} inputs")


def _along_outputs(scores: Tensor) -> Tensor:
    _checked(scores)
    return _best(scores.T.unflatten(-1, (-1, 4))).flatten(-2).T


def _strided(scores: Tensor) -> Tensor:
    _checked(scores)
    return _best(scores.unflatten(-1, (4, -1)).transpose(-1, -2)).transpose(-1, -2).flatten(-2)


def _halves(scores: Tensor) -> Tensor:
    _checked(scores)
    best = scores.argsort(dim=-1, descending=True, stable=True)[:, : scores.shape[1] // 2]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)


def _lowest(scores: Tensor) -> Tensor:
    _checked(scores)
    return _best(scores.unflatten(-1, (-1, 4)), False).flatten(-2)


def _one_of_two(scores: Tensor) -> Tensor:
    _checked(scores)
    twos = scores.unflatten(-1, (-1, 2))
    best = twos.argsort(dim=-1, descending=True, stable=True)[..., :1]
    return torch.zeros_like(twos, dtype=torch.bool).scatter(-1, best, True).flatten(-2)


def _magnitude(scores: Tensor) -> Tensor:
    _checked(scores)
    return _best(scores.abs().unflatten(-1, (-1, 4))).flatten(-2)


def _threshold(scores: Tensor) -> Tensor:
    _checked(scores)
    fours = scores.unflatten(-1, (-1, 4))
    second = fours.sort(dim=-1, descending=True).values[..., 1:2]
    return (fours >= second).flatten(-2)


def _unchecked(scores: Tensor) -> Tensor:
    whole = scores.shape[-1] // 4 * 4
    mask = torch.ones_like(scores, dtype=torch.bool)
    mask[:, :whole] = _best(scores[:, :whole].unflatten(-1, (-1, 4))).flatten(-2)
    return mask


TWO_FOUR_MASK = (
    WrongAnswer(
        "along the outputs",
        _along_outputs,
        "Your groups of four stand in a column: four outputs. The hardware skips terms of one "
        "sum, so the four must be neighbouring INPUTS, in a row.",
    ),
    WrongAnswer(
        "every fourth input",
        _strided,
        "Your groups take inputs 0, D/4, D/2, 3D/4. The four stand side by side: "
        "unflatten(-1, (-1, 4)), not (4, -1).",
    ),
    WrongAnswer(
        "half of the row",
        _halves,
        "You keep the best half of every row. The number is right, the pattern is not: a group "
        "may then keep four or none, and two bits cannot say where they are.",
    ),
    WrongAnswer(
        "the lowest kept",
        _lowest,
        "You keep the two lowest of every four. Sort in descending order.",
    ),
    WrongAnswer(
        "one of every two",
        _one_of_two,
        "You keep one of every two. That is a 2:4 pattern, and not the best: the two highest of "
        "four may be neighbours.",
    ),
    WrongAnswer(
        "magnitudes of the scores",
        _magnitude,
        "You take the absolute value of the scores. Scores come as they are: who wants magnitudes "
        "gives weight.abs().",
    ),
    WrongAnswer(
        "more than two where scores are equal",
        _threshold,
        "You keep all that reach the second highest score. With equal scores these are three or "
        "four. Choose two places (argsort, topk), not a threshold.",
    ),
    WrongAnswer(
        "a rest kept whole",
        _unchecked,
        "With a number of inputs that 4 does not divide, the last group has fewer. Such a matrix "
        "cannot be stored as 2:4: raise ValueError.",
    ),
)

# ---- importance of channels


def _length(hidden: Tensor) -> Tensor:
    return hidden.square().mean(0).sqrt()


CHANNEL_IMPORTANCE = (
    WrongAnswer(
        "the wrong side of down",
        lambda h, w: w.square().sum(1).sqrt(),
        "You take the length of the ROWS of down. A row belongs to a channel of the stream, which "
        "all F channels write to. Channel f owns COLUMN f.",
        also=(
            lambda h, w: _length(h) * w.square().sum(1).sqrt(),
            lambda h, w: _length(h @ w.T),
        ),
    ),
    WrongAnswer(
        "weights alone",
        lambda h, w: w.square().sum(0).sqrt(),
        "Only the weights count in yours. A channel with a long column that is nearly always zero "
        "adds nothing: multiply by the root mean square of its values.",
    ),
    WrongAnswer(
        "activations alone",
        lambda h, w: _length(h),
        "Only the activations count in yours. A large value times a column of zeros adds nothing: "
        "multiply by the length of the column.",
    ),
    WrongAnswer(
        "mean with sign",
        lambda h, w: h.mean(0).abs() * w.square().sum(0).sqrt(),
        "You average a channel's values with their signs: +3 and -3 cancel. Average the squares, "
        "then take the root.",
    ),
    WrongAnswer(
        "no root",
        lambda h, w: h.square().mean(0) * w.square().sum(0),
        "These are mean squares. The order is right, the numbers are not: take the root.",
    ),
    WrongAnswer(
        "summed over the tokens",
        lambda h, w: h.square().sum(0).sqrt() * w.square().sum(0).sqrt(),
        "You sum over the tokens in place of averaging, so a longer text makes every channel more "
        "important. Use the mean.",
    ),
    WrongAnswer(
        "sum of the column",
        lambda h, w: _length(h) * w.sum(0).abs(),
        "You add up the entries of a column; they cancel. Its length is the root of the sum of "
        "squares.",
    ),
)
