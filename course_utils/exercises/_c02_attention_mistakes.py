"""Wrong answers to the exercise on grouped-query attention in chapter 02.

`_attend` is attention with one mistake at a time; the other functions are mistakes that change the
order of its steps.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer


def _repeated(q: Tensor, k: Tensor) -> Tensor:
    return k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)


def _tiled(q: Tensor, k: Tensor) -> Tensor:
    return torch.cat([k] * (q.shape[-3] // k.shape[-3]), -3)


def _causal(scores: Tensor, shift: int = 0) -> Tensor:
    T, S = scores.shape[-2:]
    return torch.ones(T, S, dtype=torch.bool).tril(S - T + shift)


def _aligned_at_the_start(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool).tril()


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, own: Tensor | None = None, *,
    heads: Callable = _repeated, turn: Callable = lambda k: k.transpose(-2, -1),
    scale: Callable = math.sqrt, causal: Callable = _causal, inverted: bool = False,
    hidden: float = -math.inf, weights: Callable = _softmax,
) -> Tensor:  # fmt: skip
    k, v = heads(q, k), heads(q, v)
    scores = q @ turn(k) / scale(q.shape[-1])
    mask = causal(scores) if own is None else own
    return weights(scores.masked_fill(mask if inverted else ~mask, hidden)) @ v


def _with(**mistake) -> Callable[..., Tensor]:
    return lambda q, k, v, own=None: _attend(q, k, v, own, **mistake)


def _after_softmax(q: Tensor, k: Tensor, v: Tensor, own: Tensor | None = None) -> Tensor:
    k, v = _repeated(q, k), _repeated(q, v)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights * (_causal(weights) if own is None else own)) @ v


def _exp_over_sum(scores: Tensor) -> Tensor:
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def _heads_at_dimension_0(q: Tensor, k: Tensor) -> Tensor:
    return k.repeat_interleave(q.shape[0] // k.shape[0], 0)


GROUPED_QUERY_ATTENTION = (
    WrongAnswer(
        "tiled groups",
        _with(heads=_tiled),
        "The key heads are tiled (0, 1, 0, 1) where they must be repeated in place "
        "(0, 0, 1, 1): neighbouring query heads share one. See repeat_interleave.",
    ),
    WrongAnswer(
        "heads not repeated",
        _with(heads=lambda q, k: k),
        "There are more query heads than key-value heads, so the two do not line up. Give each "
        "query head its key and value first: repeat_interleave(H // G, dim=-3), for k and for v.",
    ),
    WrongAnswer(
        "dimensions counted from the front",
        _with(turn=lambda k: k.transpose(1, 2)),
        "It works for (H, T, d) and fails with a batch in front: dimension 1 is then another. "
        "Count from the back: heads -3, tokens -2, channels -1.",
        also=(_with(heads=_heads_at_dimension_0),),
    ),
    WrongAnswer(
        "keys not transposed",
        _with(turn=lambda k: k),
        "q @ k multiplies (T, d) by (S, d), and the inner sizes do not fit. Every query meets "
        "every key: q @ k.transpose(-2, -1) has shape (T, S).",
    ),
    WrongAnswer(
        "no scale",
        _with(scale=lambda d: 1.0),
        "The scores are not divided by sqrt(d): the softmax is too sharp.",
    ),
    WrongAnswer(
        "divided by d",
        _with(scale=lambda d: d),
        "The scores are divided by d. The dot product of d random numbers grows with sqrt(d), so "
        "divided by d the weights are nearly equal: divide by sqrt(d).",
    ),
    WrongAnswer(
        "softmax over the queries",
        _with(weights=lambda scores: scores.softmax(-2)),
        "Your softmax runs over the queries. Each query's weights over all keys must add up to 1: "
        "softmax over the last dimension.",
        also=(_with(weights=lambda scores: scores.softmax(1)),),
    ),
    WrongAnswer(
        "exp without the maximum",
        _with(weights=_exp_over_sum),
        "exp of a large score is infinite: float32 ends at exp(88.7). torch.softmax subtracts the "
        "largest score first, which changes no weight.",
    ),
    WrongAnswer(
        "sees the next token",
        _with(causal=lambda scores: _causal(scores, 1)),
        "The mask is shifted by one: a token sees its successor. Training would look "
        "wonderful and generation would fail.",
    ),
    WrongAnswer(
        "no mask",
        lambda q, k, v, own=None: _attend(q, k, v, torch.tensor(True) if own is None else own),
        "Without a mask handed in you use none, so tokens see the future. None means the causal "
        "mask, causal_mask(T, S).",
    ),
    WrongAnswer(
        "mask inverted",
        _with(inverted=True),
        "The mask is upside down: True means that a query MAY look, and -infinity belongs where it "
        "may not: masked_fill(~mask, -inf). Tokens now see only what they must not.",
        also=(_with(inverted=True, hidden=-1e9),),
    ),
    WrongAnswer(
        "mask aligned at the start",
        _with(causal=_aligned_at_the_start),
        "With more keys than queries the queries are the LAST tokens: query t sees the keys "
        "up to S - T + t. Your mask counts from the start, so cached tokens are hidden.",
    ),
    WrongAnswer(
        "masked after the softmax",
        _after_softmax,
        "You set weights to zero after the softmax, so they no longer add up to 1. Put "
        "-infinity into the scores before it.",
    ),
    WrongAnswer(
        "masked with zero",
        _with(hidden=0.0),
        "You set the hidden scores to 0, and exp(0) is 1: hidden tokens still get weight. Set them "
        "to -infinity, whose exp is 0.",
    ),
    WrongAnswer(
        "ignores the mask",
        lambda q, k, v, own=None: _attend(q, k, v),
        "A mask was handed in and not used: mask_TS, where it is given, takes the place of "
        "the causal one. In padded batches it keeps the padding out.",
    ),
)
