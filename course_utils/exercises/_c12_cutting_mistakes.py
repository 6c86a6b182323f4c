"""Wrong answers to the exercises of chapter 12 on layers, and on cutting heads and experts."""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

# ---- heads


def _shaped(q, k, v, o, d: int) -> tuple[Tensor, ...]:
    return *(w.unflatten(0, (-1, d)) for w in (q, k, v)), o.unflatten(1, (-1, d))


def _groups(q: Tensor, k: Tensor, kept: list[int]) -> list[int]:
    """The groups that stay; ValueError where they keep different numbers of heads."""
    size = len(q) // len(k)
    owners = [head // size for head in kept]
    if len({owners.count(g) for g in owners}) != 1:
        raise ValueError("groups of different sizes")
    return sorted(set(owners))


def _heads(q, k, v, o, kept, d, groups=None, columns=None, rows=None) -> tuple[Tensor, ...]:
    """The right cut, with other rows of q, other groups or other columns of o."""
    kept = sorted(kept)
    q_h, k_h, v_h, o_h = _shaped(q, k, v, o, d)
    right = _groups(q_h, k_h, kept)
    groups = right if groups is None else groups(q_h, k_h, kept)
    own = q_h[kept if rows is None else rows(kept)], k_h[groups], v_h[groups]
    out = o_h[:, kept].flatten(1) if columns is None else columns(o, o_h, kept)
    return *(w.flatten(0, 1) for w in own), out


def _masked(q, k, v, o, kept, d) -> tuple[Tensor, ...]:
    q_h, k_h, v_h, o_h = _shaped(q, k, v, o, d)
    groups = _groups(q_h, k_h, sorted(kept))

    def zeroed(w: Tensor, stay, dim: int) -> Tensor:
        mask = torch.zeros(w.shape[dim], dtype=w.dtype)
        mask[list(stay)] = 1
        return w * mask.view([-1 if n == dim else 1 for n in range(w.dim())])

    new = zeroed(q_h, kept, 0), zeroed(k_h, groups, 0), zeroed(v_h, groups, 0)
    return *(w.flatten(0, 1) for w in new), zeroed(o_h, kept, 1).flatten(1)


def _every_other(q_h: Tensor, k_h: Tensor, kept: list[int]) -> list[int]:
    return sorted({head % len(k_h) for head in kept})


def _rows_of_o(o: Tensor, o_h: Tensor, kept: list[int]) -> Tensor:
    d = o_h.shape[-1]
    rows = [head * d + n for head in kept for n in range(d) if head * d + n < len(o)]
    return o[rows]


def _channels_of_q(q, k, v, o, kept, d) -> tuple[Tensor, ...]:
    heads = len(q) // d
    q_h, k_h, v_h, _ = _shaped(q, k, v, o, d)
    groups = _groups(q_h, k_h, sorted(kept))
    new_q = q.unflatten(0, (-1, heads))[:, sorted(kept)].flatten(0, 1)
    new_o = o.unflatten(1, (-1, heads))[..., sorted(kept)].flatten(1)
    return new_q, k_h[groups].flatten(0, 1), v_h[groups].flatten(0, 1), new_o


def _unchecked(q, k, v, o, kept, d) -> tuple[Tensor, ...]:
    kept = sorted(kept)
    q_h, k_h, v_h, o_h = _shaped(q, k, v, o, d)
    groups = sorted({head // (len(q_h) // len(k_h)) for head in kept})
    own = q_h[kept], k_h[groups], v_h[groups]
    return *(w.flatten(0, 1) for w in own), o_h[:, kept].flatten(1)


CUT_HEADS = (
    WrongAnswer(
        "mask applied, storage unchanged",
        _masked,
        "You set rows and columns to zero. The tensors are as large as before, and so are the "
        "bytes and the operations. Build smaller tensors: index with the list of kept heads.",
    ),
    WrongAnswer(
        "output projection not cut",
        lambda *a: _heads(*a, columns=lambda o, o_h, kept: o),
        "o_proj still expects all H * d channels, and attention now gives fewer. Every head that "
        "leaves takes its d columns of o_proj along.",
    ),
    WrongAnswer(
        "rows of the output projection",
        lambda *a: _heads(*a, columns=_rows_of_o),
        "You cut rows of o_proj. Its rows are the channels of the stream, which all stay; heads "
        "come in through its COLUMNS.",
    ),
    WrongAnswer(
        "first columns of the output projection",
        lambda *a: _heads(*a, columns=lambda o, o_h, kept: o_h[:, : len(kept)].flatten(1)),
        "You keep the first columns of o_proj, whatever heads are kept. The shapes fit, and head 2 "
        "is then read through the columns of head 0.",
    ),
    WrongAnswer(
        "keys and values not cut",
        lambda *a: _heads(*a, groups=lambda q_h, k_h, kept: list(range(len(k_h)))),
        "All key-value heads are still there. When every query head of a group has left, its key "
        "and value are computed and cached for nobody, and the others get new partners.",
    ),
    WrongAnswer(
        "groups by remainder",
        lambda *a: _heads(*a, groups=_every_other),
        "You give query head h the key-value head h % G. Groups are neighbours: h // (H / G).",
    ),
    WrongAnswer(
        "first rows of the queries",
        lambda *a: _heads(*a, rows=lambda kept: list(range(len(kept)))),
        "You keep the first rows of q_proj. Keep those of the heads in `kept`.",
    ),
    WrongAnswer(
        "heads interleaved",
        _channels_of_q,
        "You take the heads as the fast index: row = channel * H + head. The d rows of a head "
        "stand together: unflatten(0, (-1, head_dim)).",
    ),
    WrongAnswer(
        "groups of different sizes",
        _unchecked,
        "Two heads of one group and one of another: no config can say that, and attention would "
        "pair heads with the wrong keys. Raise ValueError.",
    ),
)

# ---- experts


def _experts(gate, bias, w_gate, w_up, w_down, kept, rows=None, own=None, biases=None):
    """The right cut, with other rows of the router, other stacks or another bias."""
    right = list(kept) + list(range(len(w_gate), len(gate)))
    rows = right if rows is None else rows
    own = list(kept) if own is None else own
    new = bias if bias is None else bias[rows] if biases is None else biases(bias)
    return gate[rows], new, w_gate[own], w_up[own], w_down[own]


def _closed(gate, bias, w_gate, w_up, w_down, kept):
    stay = torch.zeros(len(w_gate), dtype=torch.bool)
    stay[list(kept)] = True
    zero = stay.view(-1, 1, 1)
    return gate, bias, w_gate * zero, w_up * zero, w_down * zero


CUT_EXPERTS = (
    WrongAnswer(
        "router not renumbered",
        lambda g, b, wg, wu, wd, kept: (g, b, wg[list(kept)], wu[list(kept)], wd[list(kept)]),
        "The router still has a row for every old expert: it sends tokens to numbers that do not "
        "exist, or to strangers. Row i must belong to the i-th expert that stayed.",
    ),
    WrongAnswer(
        "first rows of the router",
        lambda *a: _experts(*a, rows=[*range(len(a[-1])), *range(len(a[2]), len(a[0]))]),
        "You keep the first rows of the router and its bias. The sizes fit, so nothing fails; "
        "every token goes to an expert that another row was trained for.",
    ),
    WrongAnswer(
        "bias not renumbered",
        lambda *a: _experts(*a, biases=lambda bias: bias),
        "The bias still has an entry for every old expert. It is added to the scores one by one: "
        "cut it with the same list as the router's rows.",
    ),
    WrongAnswer(
        "first entries of the bias",
        lambda *a: _experts(
            *a,
            biases=lambda bias: bias[: len(a[-1]) + len(a[0]) - len(a[2])],
        ),
        "You keep the first entries of the bias. Each expert needs its own, or the balance that "
        "it was trained for is that of another.",
    ),
    WrongAnswer(
        "experts sorted, rows not",
        lambda *a: _experts(*a, own=sorted(a[-1])),
        "The stacks are in ascending order and the router's rows in the order of `kept`. Both must "
        "be in one order, that of `kept`.",
    ),
    WrongAnswer(
        "rows sorted, experts not",
        lambda *a: _experts(*a, rows=[*sorted(a[-1]), *range(len(a[2]), len(a[0]))]),
        "The router's rows are in ascending order and the stacks in the order of `kept`. Both must "
        "be in one order, that of `kept`.",
    ),
    WrongAnswer(
        "identity experts lost",
        lambda *a: _experts(*a, rows=list(a[-1])),
        "The router has more rows than there are experts: the last ones belong to identity "
        "experts, which have no weights. They stay, behind the kept ones.",
    ),
    WrongAnswer(
        "mask applied, storage unchanged",
        _closed,
        "You set the weights of the others to zero. All bytes are still there, and tokens are "
        "still sent to them, to get zeros.",
    ),
    WrongAnswer(
        "the others kept",
        lambda g, b, wg, wu, wd, kept: _experts(
            g, b, wg, wu, wd, [e for e in range(len(wg)) if e not in kept]
        ),
        "You cut out what should stay. `kept` lists the experts that stay.",
    ),
)

# ---- block influence


def _centred(x: Tensor, y: Tensor) -> float:
    change = torch.cosine_similarity(x, y - x, dim=-1)
    return float(1 - change.mean())


BLOCK_INFLUENCE = (
    WrongAnswer(
        "cosine inverted",
        lambda x, y: float(torch.cosine_similarity(x, y, dim=-1).mean()),
        "You return the cosine itself: a layer that changes nothing would be the most important. "
        "Influence is 1 minus the cosine.",
    ),
    WrongAnswer(
        "cosine minus 1",
        lambda x, y: float(torch.cosine_similarity(x, y, dim=-1).mean() - 1),
        "The sign is turned round: your influence is never positive. It is 1 minus the cosine.",
    ),
    WrongAnswer(
        "over the tokens",
        lambda x, y: float(1 - torch.cosine_similarity(x, y, dim=0).mean()),
        "Your cosine runs over the tokens, channel by channel. It compares two vectors of one "
        "token: the last dimension.",
    ),
    WrongAnswer(
        "all tokens as one vector",
        lambda x, y: float(1 - torch.cosine_similarity(x.flatten(), y.flatten(), dim=0)),
        "You take one cosine of everything together, so long token vectors decide alone. Take one "
        "for each token, then their mean.",
    ),
    WrongAnswer(
        "against the change",
        _centred,
        "You compare what goes in with what the layer ADDS. Compare it with what comes out.",
    ),
    WrongAnswer(
        "not divided by the lengths",
        lambda x, y: float(1 - (x * y).sum(-1).mean()),
        "That is a dot product. Divide by the lengths of both vectors, as torch.cosine_similarity "
        "does.",
    ),
    WrongAnswer(
        "distance in place of the angle",
        lambda x, y: float(((y - x).norm(dim=-1) / x.norm(dim=-1)).mean()),
        "You measure how far the vector moved. Block influence ignores length, because the next "
        "norm removes it: only the angle counts.",
    ),
)
