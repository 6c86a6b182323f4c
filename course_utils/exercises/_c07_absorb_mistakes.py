"""Wrong answers to the exercise on absorbed latent attention in chapter 07.

`_absorbed` is the form with one mistake at a time; the others expand what need not be expanded.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer


def _causal(T: int, S: int) -> Tensor:
    return torch.ones(T, S, dtype=torch.bool).tril(S - T)


def _at_the_start(T: int, S: int) -> Tensor:
    return torch.ones(T, S, dtype=torch.bool).tril()


def _into_query(q_nope: Tensor, w_uk: Tensor, w_uv: Tensor) -> Tensor:
    return torch.einsum("bhtn,hnr->bhtr", q_nope, w_uk)


def _latent(rows: Tensor, rank: int) -> Tensor:
    return rows[..., :rank]


def _key(rows: Tensor, rank: int) -> Tensor:
    return rows[..., rank:]


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def _absorbed(
    q: Tensor, rows: Tensor, w_uk: Tensor, w_uv: Tensor, scale: float, mask: Tensor | None = None,
    *, into: Callable = _into_query, rope: bool = True, by: Callable = lambda scale, N, P, R: scale,
    causal: Callable = _causal, own_mask: bool = True, inverted: bool = False,
    key: Callable = _key, latent: Callable = _latent, weights: Callable = _softmax,
    out: Callable = lambda summed, w_uk, w_uv: torch.einsum("bhtr,hvr->bhtv", summed, w_uv),
) -> Tensor:  # fmt: skip
    (N, R), T, S = w_uk.shape[1:], q.shape[2], rows.shape[1]
    scores = torch.einsum("bhtr,bsr->bhts", into(q[..., :N], w_uk, w_uv), latent(rows, R))
    if rope:
        scores = scores + torch.einsum("bhtp,bsp->bhts", q[..., N:], key(rows, R))
    scores = scores * by(scale, N, q.shape[-1] - N, R)
    mask = mask if own_mask and mask is not None else causal(T, S)
    scores = scores.masked_fill(mask if inverted else ~mask, -math.inf)
    summed = torch.einsum("bhts,bsr->bhtr", weights(scores), latent(rows, R))
    return out(summed, w_uk, w_uv)


def _with(**mistake) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: _absorbed(*args, **kwargs, **mistake)


def _expanded(*, keys: bool, values: bool) -> Callable[..., Tensor]:
    """Right values: keys or values, or both, of every cached row are made for all heads."""

    def answer(q, rows, w_uk, w_uv, scale, mask=None) -> Tensor:
        (N, R), T, S = w_uk.shape[1:], q.shape[2], rows.shape[1]
        c, r, nope = rows[..., :R], rows[..., R:], q[..., :N]
        if keys:
            scores = torch.einsum("bhtn,bhsn->bhts", nope, torch.einsum("bsr,hnr->bhsn", c, w_uk))
        else:
            scores = torch.einsum("bhtr,bsr->bhts", _into_query(nope, w_uk, w_uv), c)
        scores = (scores + torch.einsum("bhtp,bsp->bhts", q[..., N:], r)) * scale
        weights = scores.masked_fill(~(_causal(T, S) if mask is None else mask), -math.inf)
        weights = weights.softmax(-1)
        if values:
            return weights @ torch.einsum("bsr,hvr->bhsv", c, w_uv)
        return torch.einsum("bhts,bsr,hvr->bhtv", weights, c, w_uv)

    return answer


def _expanded_kernel(q, rows, w_uk, w_uv, scale, mask=None) -> Tensor:
    """The naive form of the chapter, through PyTorch's kernel."""
    (H, _, R), T, S = w_uk.shape, q.shape[2], rows.shape[1]
    k_nope = torch.einsum("bsr,hnr->bhsn", rows[..., :R], w_uk)
    k = torch.cat([k_nope, rows[:, None, :, R:].expand(-1, H, -1, -1)], dim=-1)
    v = torch.einsum("bsr,hvr->bhsv", rows[..., :R], w_uv)
    mask = _causal(T, S) if mask is None else mask
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def _joined(q, rows, w_uk, w_uv, scale, mask=None, *, into: Callable, read: Callable) -> Tensor:
    """One product with the whole row for both parts of the score."""
    (N, R), T, S = w_uk.shape[1:], q.shape[2], rows.shape[1]
    whole = torch.cat([into(q[..., :N], w_uk, w_uv, scale), q[..., N:]], dim=-1)
    scores = torch.einsum("bhtc,bsc->bhts", whole, rows)
    scores = scores if into is _nope_scaled else scores * scale
    weights = scores.masked_fill(~(_causal(T, S) if mask is None else mask), -math.inf).softmax(-1)
    return read(weights, rows, R, w_uv)


def _plain(q_nope: Tensor, w_uk: Tensor, w_uv: Tensor, scale: float) -> Tensor:
    return q_nope @ w_uk


def _nope_scaled(q_nope: Tensor, w_uk: Tensor, w_uv: Tensor, scale: float) -> Tensor:
    return q_nope @ w_uk * scale


def _with_values(q_nope: Tensor, w_uk: Tensor, w_uv: Tensor, scale: float) -> Tensor:
    return q_nope @ w_uv


def _sum_first(weights: Tensor, rows: Tensor, R: int, w_uv: Tensor) -> Tensor:
    return torch.einsum("bhts,bsr->bhtr", weights, rows[..., :R]) @ w_uv.mT


def _expand_first(weights: Tensor, rows: Tensor, R: int, w_uv: Tensor) -> Tensor:
    return weights @ torch.einsum("bsr,hvr->bhsv", rows[..., :R], w_uv)


def _whole_row(weights: Tensor, rows: Tensor, R: int, w_uv: Tensor) -> Tensor:
    return torch.einsum("bhts,bsc->bhtc", weights, rows) @ w_uv.mT


def _heads_merged(weights: Tensor, rows: Tensor, R: int, w_uv: Tensor) -> Tensor:
    return _sum_first(weights, rows, R, w_uv).transpose(1, 2).flatten(2)


def _join(into: Callable = _plain, read: Callable = _sum_first) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: _joined(*args, **kwargs, into=into, read=read)


def _values_as_keys(q_nope: Tensor, w_uk: Tensor, w_uv: Tensor) -> Tensor:
    return torch.einsum("bhtn,hnr->bhtr", q_nope, w_uv)


def _one_head(q_nope: Tensor, w_uk: Tensor, w_uv: Tensor) -> Tensor:
    return torch.einsum("bhtn,nr->bhtr", q_nope, w_uk[0])


MLA_ABSORBED = (
    WrongAnswer(
        "keys and values expanded",
        _expanded(keys=True, values=True),
        "The values are right. You still expand every cached row to the keys and values of all "
        "heads, once per generated token: that is the naive form. Multiply the QUERY by W_UK, and "
        "the SUM by W_UV; both have T entries and not S.",
        also=(_expanded_kernel,),
    ),
    WrongAnswer(
        "values expanded",
        _expanded(keys=False, values=True),
        "The values are right, and the keys are absorbed. W_UV is still applied to every cached "
        "row before the sum. Sum the latents with the weights first: W_UV then meets one vector "
        "per query and head.",
        also=(_join(read=_expand_first),),
    ),
    WrongAnswer(
        "keys expanded",
        _expanded(keys=True, values=False),
        "The values are right, and W_UV comes after the sum. The keys are still expanded for every "
        "cached row: multiply the query by W_UK instead, einsum('bhtn,hnr->bhtr').",
    ),
    WrongAnswer(
        "the wrong side: W_UV into the query",
        _with(into=_values_as_keys),
        "You multiply the query by W_UV. Scores come from keys, so W_UK goes into the query, and "
        "W_UV, which makes values, behind the sum.",
        also=(
            _with(
                into=_values_as_keys,
                out=lambda summed, w_uk, w_uv: torch.einsum("bhtr,hnr->bhtn", summed, w_uk),
            ),
            _join(into=_with_values),
        ),
    ),
    WrongAnswer(
        "one head's matrix for all",
        _with(into=_one_head),
        "Every head has its own W_UK (N, R): you use that of head 0 for all.",
    ),
    WrongAnswer(
        "without the RoPE part",
        _with(rope=False),
        "The scores lack q_rope . k_rope: the last P channels of the query meet the last P numbers "
        "of the row. Without them attention knows what was said and not where.",
    ),
    WrongAnswer(
        "scaled by the latent's width",
        _with(by=lambda scale, N, P, R: (R + P) ** -0.5),
        "You divide by sqrt(R + P), the width of the row. Absorbing changes how a score is "
        "computed and not its value, so its scale stays that of the heads: it is handed in.",
        also=(_with(by=lambda scale, N, P, R: R**-0.5),),
    ),
    WrongAnswer(
        "scaled by the part without RoPE",
        _with(by=lambda scale, N, P, R: N**-0.5),
        "You divide by sqrt(N). A score sums over the N channels without RoPE and the P with it; "
        "the scale of N + P is handed in.",
    ),
    WrongAnswer(
        "scale computed anew",
        _with(by=lambda scale, N, P, R: (N + P) ** -0.5),
        "Right for plain RoPE. With YaRN the scale is larger than 1 / sqrt(N + P), and it is "
        "handed in: use the argument `scale`.",
    ),
    WrongAnswer(
        "no scale",
        _with(by=lambda scale, N, P, R: 1.0),
        "The scores are not multiplied by `scale`: the softmax is too sharp.",
    ),
    WrongAnswer(
        "divided by the scale",
        _with(by=lambda scale, N, P, R: 1 / scale),
        "You divide by `scale`. It is already 1 / sqrt of the width: multiply.",
    ),
    WrongAnswer(
        "scaled twice",
        _with(by=lambda scale, N, P, R: scale * scale),
        "The scale is applied twice, perhaps to the query and again to the scores: once is enough.",
    ),
    WrongAnswer(
        "no mask",
        _with(causal=lambda T, S: torch.ones(T, S, dtype=torch.bool)),
        "With mask None you use none, so that queries see later tokens. None means causal: query t "
        "sees the rows up to S - T + t.",
    ),
    WrongAnswer(
        "mask aligned at the start",
        _with(causal=_at_the_start),
        "With more rows than queries the queries are the LAST tokens: query t sees the rows up to "
        "S - T + t. See causal_mask(T, S). Your mask hides the cache.",
    ),
    WrongAnswer(
        "ignores the mask",
        _with(own_mask=False),
        "A mask was handed in and not used. Where it is given, it takes the place of the causal "
        "one.",
    ),
    WrongAnswer(
        "mask inverted",
        _with(inverted=True),
        "The mask is upside down: True means that a query MAY look. Put -infinity where it may "
        "not: masked_fill(~mask, -inf).",
    ),
    WrongAnswer(
        "softmax over the queries",
        _with(weights=lambda scores: scores.softmax(-2)),
        "Your softmax runs over the queries. Each query's weights over all rows must add up to 1: "
        "dim=-1.",
    ),
    WrongAnswer(
        "the whole row as value",
        _with(latent=lambda rows, R: rows),
        "You use all R + P numbers of the row where only the latent belongs: the value, and the "
        "key without RoPE, are made of the first R.",
        also=(_join(read=_whole_row),),
    ),
    WrongAnswer(
        "half of the score scaled",
        _join(into=_nope_scaled),
        "You multiply the part without RoPE by `scale` and leave the part with it: both belong to "
        "one score.",
    ),
    WrongAnswer(
        "heads merged",
        _join(read=_heads_merged),
        "The numbers are right, with the heads side by side. The result keeps them apart, "
        "(B, H, T, V); the module merges them later.",
    ),
    WrongAnswer(
        "row cut at the wrong place",
        _with(
            latent=lambda rows, R: rows[..., -R:],
            key=lambda rows, R: rows[..., : rows.shape[-1] - R],
        ),
        "The row is the latent first, then the shared key: rows[..., :R] and rows[..., R:], with R "
        "the last dimension of W_UK.",
    ),
    WrongAnswer(
        "left in the latent space",
        _with(out=lambda summed, w_uk, w_uv: summed),
        "You return sums of latents (B, H, T, R). W_UV makes values of them: "
        "einsum('bhtr,hvr->bhtv').",
    ),
)
