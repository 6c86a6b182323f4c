"""Wrong answers to the exercises of chapter 07; those on absorbing: `_c07_absorb_mistakes`.

Each is a mistake that people make, with what a tutor would say.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.layers import apply_rope, apply_rope_interleaved, rms_norm

# ---- pooling heads


def _tiled(weight: Tensor, heads: int, groups: int) -> Tensor:
    return weight.unflatten(0, (heads // groups, groups, -1)).mean(0).flatten(0, 1)


def _first(weight: Tensor, heads: int, groups: int) -> Tensor:
    return weight.unflatten(0, (groups, heads // groups, -1))[:, 0].flatten(0, 1)


def _first_heads(weight: Tensor, heads: int, groups: int) -> Tensor:
    return weight[: weight.shape[0] // heads * groups]


def _sum(weight: Tensor, heads: int, groups: int) -> Tensor:
    return weight.unflatten(0, (groups, heads // groups, -1)).sum(1).flatten(0, 1)


def _channels_first(weight: Tensor, heads: int, groups: int) -> Tensor:
    w = weight.unflatten(0, (-1, groups, heads // groups)).mean(-1)
    return w.transpose(0, 1).flatten(0, 1)


def _neighbouring_rows(weight: Tensor, heads: int, groups: int) -> Tensor:
    return weight.unflatten(0, (-1, heads // groups)).mean(1)


def _input_columns(weight: Tensor, heads: int, groups: int) -> Tensor:
    return weight.unflatten(1, (-1, heads // groups)).mean(2)


def _cut(weight: Tensor, heads: int, groups: int) -> Tensor:
    return weight.unflatten(0, (groups, heads // groups, -1))


def _repeated(weight: Tensor, heads: int, groups: int) -> Tensor:
    pooled = _cut(weight, heads, groups).mean(1)
    return pooled.repeat_interleave(heads // groups, 0).flatten(0, 1)


def _mean_of_all(weight: Tensor, heads: int, groups: int) -> Tensor:
    return weight.unflatten(0, (heads, -1)).mean(0).repeat(groups, 1)


def _over_groups(weight: Tensor, heads: int, groups: int) -> Tensor:
    return _cut(weight, heads, groups).mean(0).flatten(0, 1)


POOL_HEADS = (
    WrongAnswer(
        "not flattened",
        lambda weight, heads, groups: _cut(weight, heads, groups).mean(1),
        "The numbers are right, as (groups, d, D). A projection has two dimensions: flatten the "
        "first two.",
    ),
    WrongAnswer(
        "repeated to all heads again",
        _repeated,
        "You repeat the means until there are as many heads as before, so the cache would not "
        "shrink. Each group is one head of the result.",
    ),
    WrongAnswer(
        "mean of all heads",
        _mean_of_all,
        "Every group gets the mean of all heads. A group is to have the mean of its own.",
    ),
    WrongAnswer(
        "mean over the groups",
        _over_groups,
        "After the cut, dimension 0 is the groups and dimension 1 the heads of a group: average "
        "dimension 1.",
    ),
    WrongAnswer(
        "tiled groups",
        _tiled,
        "You average heads that are far apart (0 and 2, 1 and 3). Query heads share with their "
        "neighbours, so key heads 0 and 1 become one: unflatten to (groups, heads // groups, d).",
    ),
    WrongAnswer(
        "one head kept",
        _first,
        "You keep the first head of each group and throw the others away. GQA's authors tried it: "
        "the mean of the group keeps more of what its queries expect.",
        also=(_first_heads,),
    ),
    WrongAnswer(
        "summed",
        _sum,
        "You sum the heads of a group. Keys and values then are heads / groups times as long as "
        "before, and the softmax that many times as sharp: take the mean.",
    ),
    WrongAnswer(
        "channels and heads swapped",
        _channels_first,
        "The rows of the weight lie head by head: the first d belong to head 0. Your "
        "cut takes them channel by channel.",
    ),
    WrongAnswer(
        "neighbouring channels",
        _neighbouring_rows,
        "You average neighbouring rows, which are channels of one head. Channel c of one head "
        "goes with channel c of the next head, d rows further down.",
    ),
    WrongAnswer(
        "the input is pooled",
        _input_columns,
        "You average along the model width D. A weight has one row per output channel: the heads "
        "lie along dimension 0.",
    ),
)

# ---- interleaved RoPE


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2], x[..., 1::2]


def _angles(table: Tensor) -> Tensor:
    return table[..., : table.shape[-1] // 2]


def _woven(even: Tensor, odd: Tensor) -> Tensor:
    return torch.stack([even, odd], dim=-1).flatten(-2)


def _turned(
    x: Tensor, cos: Tensor, sin: Tensor, angles: Callable, join: Callable, sign: int = 1
) -> Tensor:
    (even, odd), cos, sin = _pairs(x), angles(cos), sign * angles(sin)
    return join(even * cos - odd * sin, odd * cos + even * sin)


def _full_tables(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = _pairs(x)
    return x * cos + _woven(-odd, even) * sin


def _overwritten(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (even, odd), cos, sin = _pairs(x), _angles(cos), _angles(sin)
    even = even * cos - odd * sin
    return _woven(even, odd * cos + even * sin)


def _mixed_signs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (even, odd), cos, sin = _pairs(x), _angles(cos), _angles(sin)
    return _woven(even * cos - odd * sin, even * cos + odd * sin)


APPLY_ROPE_INTERLEAVED = (
    WrongAnswer(
        "a and b mixed up",
        _mixed_signs,
        "The first channel is right. The second is b cos + a sin: yours has a cos + b sin.",
    ),
    WrongAnswer(
        "half-split pairs",
        apply_rope,
        "You turn the pairs (i, i + d/2), as in Llama and Qwen. Here channels 2i and 2i + 1 are a "
        "pair: x[..., 0::2] and x[..., 1::2]. The model would stay fluent with yours, and forget "
        "where things were.",
    ),
    WrongAnswer(
        "tables not regrouped",
        _full_tables,
        "The pairs are right, their angles are not. The tables hold the angles of pairs 0, 1, 2, "
        "... and then the same again, so channel j met angle j. Pair i needs angle i: take the "
        "first half of the tables.",
    ),
    WrongAnswer(
        "every second angle",
        lambda x, cos, sin: _turned(x, cos, sin, lambda t: t[..., 0::2], _woven),
        "You take every second entry of the tables. They hold the angles of pairs 0, 1, 2, ... and "
        "then the same again: the first half, [..., : d // 2], has one for each pair.",
    ),
    WrongAnswer(
        "left in halves",
        lambda x, cos, sin: _turned(x, cos, sin, _angles, lambda a, b: torch.cat([a, b], -1)),
        "The numbers are right and in another order: all first channels, then all second ones. "
        "(Scores do not notice if queries and keys are both so, and `transformers` does it. "
        "A cache that others read does notice.) Weave them: "
        "torch.stack([a, b], dim=-1).flatten(-2)",
    ),
    WrongAnswer(
        "turned back",
        lambda x, cos, sin: _turned(x, cos, sin, _angles, _woven, sign=-1),
        "Your pairs turn the other way: (a, b) becomes (a cos - b sin, b cos + a sin).",
    ),
    WrongAnswer(
        "turned with the new value",
        _overwritten,
        "The second channel is computed from the first one after it was turned. Both need the "
        "old values: keep a and b until both are done.",
    ),
    WrongAnswer(
        "sizes do not fit",
        lambda x, cos, sin: _turned(x, cos, sin, lambda t: t, _woven),
        "Half of the channels meet tables of full width. The second half of cos and sin repeats "
        "the first: take [..., : d // 2] of both.",
    ),
)

# ---- rows of the latent cache


def _split(down: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return down[..., : len(weight)], down[..., len(weight) :]


def _normed_whole(down: Tensor, weight: Tensor) -> Tensor:
    return down * torch.rsqrt(down.pow(2).mean(-1, keepdim=True) + 1e-6)


def _rows(
    latent: Callable = lambda c, w: rms_norm(c, w, 1e-6),
    key: Callable = apply_rope_interleaved,
    join: Callable = lambda c, r: torch.cat([c, r], dim=-1),
) -> Callable[..., Tensor]:
    def answer(down: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        c, r = _split(down, weight)
        return join(latent(c, weight), key(r, cos, sin))

    return answer


def _one_norm(down: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    c, r = _split(_normed_whole(down, weight), weight)
    return torch.cat([c * weight, apply_rope_interleaved(r, cos, sin)], dim=-1)


def _latent_last(down: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    P = down.shape[-1] - len(weight)
    key = apply_rope_interleaved(down[..., :P], cos, sin)
    return torch.cat([rms_norm(down[..., P:], weight, 1e-6), key], dim=-1)


def _normed_key(r: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rms_norm(apply_rope_interleaved(r, cos, sin), torch.ones(r.shape[-1]), 1e-6)


def _normed_then_turned(r: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rope_interleaved(rms_norm(r, torch.ones(r.shape[-1]), 1e-6), cos, sin)


def _layer_norm(c: Tensor, w: Tensor) -> Tensor:
    return rms_norm(c - c.mean(-1, keepdim=True), w, 1e-6)


LATENT_ROWS = (
    WrongAnswer(
        "the mean subtracted",
        _rows(latent=_layer_norm),
        "That is LayerNorm: it subtracts the mean. The latent has RMSNorm: "
        "rms_norm(latent, weight_R, 1e-6).",
    ),
    WrongAnswer(
        "joined along another dimension",
        _rows(join=lambda c, r: torch.cat([c, r])),
        "Latent and key of one token stand side by side in one row: torch.cat([...], dim=-1).",
        also=(_rows(join=lambda c, r: torch.stack([c, r])),),
    ),
    WrongAnswer(
        "two parts come back",
        _rows(join=lambda c, r: (c, r)),
        "The parts are right. The cache keeps them as one row: torch.cat([latent, key], dim=-1).",
    ),
    WrongAnswer(
        "kept before the norm",
        _rows(latent=lambda c, w: c),
        "You keep the latent before its norm. Everything that reads the cache then gets other "
        "numbers, or must norm every cached token again at every step: norm first, then keep.",
    ),
    WrongAnswer(
        "without the RoPE key",
        _rows(join=lambda c, r: c),
        "You keep R numbers and forget the key that carries the position: it is R + P. Without it "
        "attention knows what was said and not where. Many published formulas forget it as well.",
    ),
    WrongAnswer(
        "key not turned",
        _rows(key=lambda r, cos, sin: r),
        "The key is kept as it came, so no position is in it. Turn it by RoPE before it is kept.",
    ),
    WrongAnswer(
        "nothing done",
        _rows(latent=lambda c, w: c, key=lambda r, cos, sin: r),
        "You keep what the projection gives, neither normed nor turned. Norm the first R numbers "
        "and turn the last P by RoPE.",
        also=(lambda down, weight, cos, sin: down,),
    ),
    WrongAnswer(
        "half-split pairs",
        _rows(key=apply_rope),
        "The latent is right. The key is turned in pairs (i, i + P/2); DeepSeek's weights have "
        "interleaved pairs (2i, 2i + 1): apply_rope_interleaved.",
    ),
    WrongAnswer(
        "one norm over both",
        _one_norm,
        "You divide the key by the norm as well: the mean square is to be that of the R latent "
        "numbers alone. Cut first, then norm the latent.",
    ),
    WrongAnswer(
        "key normed too",
        _rows(key=_normed_key),
        "The latent is right. The key has no norm in MLA, only RoPE.",
        also=(_normed_then_turned,),
    ),
    WrongAnswer(
        "norm without its weight",
        _rows(latent=lambda c, w: rms_norm(c, torch.ones(len(w)), 1e-6)),
        "The latent is normed and its learned weight left out: rms_norm(latent, weight_R, 1e-6).",
    ),
    WrongAnswer(
        "cut at the wrong end",
        _latent_last,
        "The projection gives the latent first: numbers 0 to R - 1, with R = len(weight_R). "
        "You take the first P for the key.",
    ),
    WrongAnswer(
        "key first",
        _rows(join=lambda c, r: torch.cat([r, c], dim=-1)),
        "The parts are right and in the wrong order: first the latent, then the key. What reads "
        "the row takes its first R numbers for the latent.",
    ),
)

# ---- low rank


def _factors(left: Callable, right: Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    def answer(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        return left(u, s, vh, rank), right(u, s, vh, rank)

    return answer


def _up(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> Tensor:
    return u[:, :rank] * s[:rank]


def _down(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> Tensor:
    return vh[:rank]


def _first_rows(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    return weight[:, :rank], torch.eye(rank, weight.shape[1])


LOW_RANK_FACTORS = (
    WrongAnswer(
        "not cut",
        _factors(lambda u, s, vh, r: u * s, lambda u, s, vh, r: vh),
        "You keep all directions, so nothing is saved: rank columns of U and rank rows of V^T.",
    ),
    WrongAnswer(
        "the product",
        lambda weight, rank: (
            _up(*torch.linalg.svd(weight, full_matrices=False), rank)
            @ _down(*torch.linalg.svd(weight, full_matrices=False), rank)
        ),
        "You return the product, which is as large as the weight. Return the two factors.",
    ),
    WrongAnswer(
        "rows scaled",
        _factors(lambda u, s, vh, r: u[:, :r] * s[:r, None], _down),
        "Each singular value belongs to a column of U: u[:, :rank] * s[:rank] scales columns, with "
        "[:, None] it would scale rows.",
    ),
    WrongAnswer(
        "three parts",
        lambda weight, rank: tuple(
            part[:, :rank] if n == 0 else part[:rank]
            for n, part in enumerate(torch.linalg.svd(weight, full_matrices=False))
        ),
        "Two factors are asked for: multiply the singular values into one of them.",
    ),
    WrongAnswer(
        "singular values on both sides",
        _factors(_up, lambda u, s, vh, r: s[:r, None] * vh[:r]),
        "The singular values are in both factors, so the product has their squares. Put them into "
        "one factor, or their square roots into both.",
    ),
    WrongAnswer(
        "no singular values",
        _factors(lambda u, s, vh, r: u[:, :r], _down),
        "U and V alone only turn; how much each direction counts is in the singular values. "
        "Multiply the columns of U by them.",
    ),
    WrongAnswer(
        "rank of the wrong axis",
        _factors(lambda u, s, vh, r: u[:r] * s[None, :], lambda u, s, vh, r: vh),
        "You keep the first rows of U, which are output channels. A rank is a number of "
        "directions: columns of U and rows of V^T.",
        also=(
            _factors(lambda u, s, vh, r: u[:r] * s, _down),
            _factors(lambda u, s, vh, r: u[:r, :r] * s[:r], lambda u, s, vh, r: vh[:r]),
            _factors(lambda u, s, vh, r: u * s, lambda u, s, vh, r: vh[:, :r]),
            _factors(lambda u, s, vh, r: u[:, :r] * s[:r], lambda u, s, vh, r: vh[:, :r]),
        ),
    ),
    WrongAnswer(
        "V turned once too often",
        _factors(_up, lambda u, s, vh, r: vh.T[:r]),
        "torch.linalg.svd gives V already transposed (Vh): its first rows are what you need, "
        "without another .T",
        also=(_factors(_up, lambda u, s, vh, r: vh.T[:, :r]),),
    ),
    WrongAnswer(
        "the smallest ones",
        _factors(
            lambda u, s, vh, r: u[:, -r:] * s[-r:],
            lambda u, s, vh, r: vh[-r:],
        ),
        "You keep the last singular values, the smallest. They come in falling order: keep the "
        "first.",
    ),
    WrongAnswer(
        "no decomposition",
        _first_rows,
        "You keep the first columns of the weight itself. Nothing makes them its most important "
        "directions: decompose it first, torch.linalg.svd(weight, full_matrices=False).",
    ),
    WrongAnswer(
        "factors swapped",
        _factors(_down, _up),
        "The factors come back in the wrong order: first up (C, rank), then down (rank, D), so "
        "that up @ down has the shape of the weight.",
    ),
)
