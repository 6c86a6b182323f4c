"""Wrong answers to the first exercises of chapter 02: bits per byte, RMSNorm, RoPE."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

# ---- bits per byte

BITS_PER_BYTE = (
    WrongAnswer(
        "still nats",
        lambda nats, tokens, text_bytes: nats * tokens / text_bytes,
        "The total is still in nats. One bit is ln 2 = 0.693 nats: divide by it.",
    ),
    WrongAnswer(
        "per token",
        lambda nats, tokens, text_bytes: nats / math.log(2),
        "These are bits per token. A tokenizer with longer tokens would look worse. "
        "Spread the loss of all tokens over all bytes.",
    ),
    WrongAnswer(
        "ratio upside down",
        lambda nats, tokens, text_bytes: nats * text_bytes / (tokens * math.log(2)),
        "Bytes and tokens have changed places: the loss of `tokens` tokens is shared by "
        "`text_bytes` bytes, so tokens stand above the line.",
    ),
    WrongAnswer(
        "times ln 2",
        lambda nats, tokens, text_bytes: nats * math.log(2) * tokens / text_bytes,
        "You multiply by ln 2. A nat is larger than a bit (1.443 bits), so the number in bits "
        "must be larger: divide by ln 2.",
    ),
    WrongAnswer(
        "decimal logarithm",
        lambda nats, tokens, text_bytes: nats * tokens / (text_bytes * math.log10(2)),
        "You use the logarithm to base 10. A nat belongs to the natural logarithm: math.log(2) "
        "is 0.693, math.log10(2) is 0.301.",
    ),
    WrongAnswer(
        "digits instead of bits",
        lambda nats, tokens, text_bytes: nats * tokens / (text_bytes * math.log(10)),
        "Divided by ln 10 the loss is in decimal digits. A bit has two values: divide by ln 2.",
    ),
)


# ---- RMSNorm


def _scaled(x: Tensor, denominator: Tensor, weight: Tensor) -> Tensor:
    return weight * x / denominator


def _over(x: Tensor, weight: Tensor, eps: float, dim: int | None) -> Tensor:
    """RMSNorm whose mean runs over one dimension, or over all."""
    square = x.pow(2)
    mean = square.mean() if dim is None else square.mean(dim, keepdim=True)
    return _scaled(x, (mean + eps).sqrt(), weight)


RMS_NORM = (
    WrongAnswer(
        "eps outside the root",
        lambda x, w, eps=1e-6: _scaled(x, x.pow(2).mean(-1, keepdim=True).sqrt() + eps, w),
        "Is your eps inside the square root? It is added to the mean square, before the root: "
        "for small vectors the two differ a lot.",
    ),
    WrongAnswer(
        "no eps",
        lambda x, w, eps=1e-6: _scaled(x, x.pow(2).mean(-1, keepdim=True).sqrt(), w),
        "eps is missing: a token of zeros divides zero by zero and gives NaN.",
    ),
    WrongAnswer(
        "subtracts the mean",
        lambda x, w, eps=1e-6: F.layer_norm(x, x.shape[-1:], w, None, eps),
        "This is LayerNorm: it subtracts the mean first. RMSNorm leaves the mean where it is.",
    ),
    WrongAnswer(
        "sum instead of mean",
        lambda x, w, eps=1e-6: _scaled(x, (x.pow(2).sum(-1, keepdim=True) + eps).sqrt(), w),
        "You divide by the length of the vector, so it comes out with length 1. Divide by the "
        "root of the MEAN square: it comes out with length sqrt(D).",
        also=(
            lambda x, w, eps=1e-6: _scaled(x, x.norm(dim=-1, keepdim=True), w),
            lambda x, w, eps=1e-6: _scaled(x, x.norm(dim=-1, keepdim=True) + eps, w),
            lambda x, w, eps=1e-6: w * F.normalize(x, dim=-1),
        ),
    ),
    WrongAnswer(
        "over the tokens",
        lambda x, w, eps=1e-6: _over(x, w, eps, -2),
        "The mean runs over the tokens. Each token is normalised by itself, over its channels: "
        "the last dimension.",
        also=(lambda x, w, eps=1e-6: _over(x, w, eps, 0),),
    ),
    WrongAnswer(
        "over dimension 1",
        lambda x, w, eps=1e-6: _over(x, w, eps, 1),
        "You count the dimension from the front. With a batch in front, dimension 1 holds the "
        "tokens: the channels are always the last dimension, -1.",
    ),
    WrongAnswer(
        "over everything",
        lambda x, w, eps=1e-6: _over(x, w, eps, None),
        "One mean over the whole input: a token's result now depends on its neighbours. Take the "
        "mean over the last dimension alone.",
    ),
    WrongAnswer(
        "no keepdim",
        lambda x, w, eps=1e-6: _scaled(x, (x.pow(2).mean(-1) + eps).sqrt(), w),
        "The mean over the last dimension has lost that dimension: shape (T,), which does not "
        "line up with (T, D). keepdim=True leaves (T, 1), one number for each token.",
    ),
    WrongAnswer(
        "forgets the weight",
        lambda x, w, eps=1e-6: x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt(),
        "The learned weight is missing: after the division every channel is multiplied by it.",
    ),
)


# ---- RoPE


def _interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    a, b, c, s = x[..., ::2], x[..., 1::2], cos[..., :half], sin[..., :half]
    return torch.stack([a * c - b * s, b * c + a * s], dim=-1).flatten(-2)


def _halves(x: Tensor, first_sign: int, second_sign: int, swap: bool = True) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([first_sign * b, second_sign * a] if swap else [-a, b], dim=-1)


def _overwritten(x: Tensor, cos: Tensor, sin: Tensor, copy: bool = True) -> Tensor:
    """a is a view: after the first assignment it holds the turned values."""
    half = x.shape[-1] // 2
    out = x.clone() if copy else x
    a, b, cos, sin = out[..., :half], out[..., half:], cos[..., :half], sin[..., :half]
    out[..., :half] = a * cos - b * sin
    out[..., half:] = b * cos + a * sin
    return out


def _whole_cosines(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _halves_of_heads(x: Tensor, cos: Tensor, sin: Tensor, dim: int = -1) -> Tensor:
    a, b = x.chunk(2)
    return x * cos + torch.cat([-b, a], dim=dim) * sin


APPLY_ROPE = (
    WrongAnswer(
        "interleaved pairs",
        _interleaved,
        "You pair neighbouring channels (0, 1), (2, 3): the interleaved form of the paper and "
        "of GGUF files. These weights expect half-split pairs: channel i with i + d/2.",
    ),
    WrongAnswer(
        "turns backwards",
        lambda x, cos, sin: x * cos + _halves(x, 1, -1) * sin,
        "You turn by the negative angle: the minus belongs to the second half, which moves to "
        "the front: (-b, a).",
    ),
    WrongAnswer(
        "no minus",
        lambda x, cos, sin: x * cos + _halves(x, 1, 1) * sin,
        "A minus is missing, so the pairs are not turned but stretched: a cos - b sin.",
    ),
    WrongAnswer(
        "halves not swapped",
        lambda x, cos, sin: x * cos + _halves(x, 1, 1, swap=False) * sin,
        "The halves must change places: the first half gets -b, the second half gets a.",
    ),
    WrongAnswer(
        "sine and cosine swapped",
        lambda x, cos, sin: x * sin + _halves(x, -1, 1) * cos,
        "Sine and cosine have changed places: at position 0 (cos 1, sin 0) nothing may move.",
    ),
    WrongAnswer(
        "first half overwritten",
        _overwritten,
        "The first half is overwritten before the second is computed from it: a slice is a view, "
        "no copy. Compute both halves first, then put them together with torch.cat.",
        also=(lambda x, cos, sin: _overwritten(x, cos, sin, copy=False),),
    ),
    WrongAnswer(
        "half of x with the whole cos",
        _whole_cosines,
        "a and b have d/2 channels, cos and sin have d. The second half of cos repeats the first: "
        "use cos[..., :d/2] with the halves, or the whole cos with the whole x.",
    ),
    WrongAnswer(
        "chunk without a dimension",
        _halves_of_heads,
        "chunk(2) without a dimension cuts the first one, the heads. The channels are the last: "
        "chunk(2, dim=-1).",
        also=(lambda x, cos, sin: _halves_of_heads(x, cos, sin, dim=0),),
    ),
)
