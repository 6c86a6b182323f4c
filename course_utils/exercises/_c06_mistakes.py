"""Wrong answers to the exercises of chapter 06 on sending tokens: copies, combining, bytes."""

import math
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

# ---- copies to send


def _wanted(rank_TK: Tensor, ranks: int) -> Tensor:
    return (rank_TK == torch.arange(ranks)[:, None, None]).any(-1)


def _by_rank(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """(rank, token) pairs as two tensors, in order of the rank."""
    pairs = sorted(pairs)
    numbers = torch.tensor(pairs, dtype=torch.long).view(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def _pairs(rank_TK: Tensor) -> list[tuple[int, int]]:
    return [(r, t) for t, row in enumerate(rank_TK.tolist()) for r in row]


def _sorted_pairs(rank_TK: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs by rank, also those without an expert."""
    order = rank_TK.flatten().argsort(stable=True)
    token_TK = torch.arange(len(rank_TK))[:, None].expand_as(rank_TK)
    return rank_TK.flatten()[order], token_TK.flatten()[order]


def _by_scatter(rank_TK: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    wanted_TR = torch.zeros(len(rank_TK), ranks, dtype=torch.bool).scatter(1, rank_TK, True)
    return wanted_TR.T.nonzero(as_tuple=True)


def _by_one_hot(rank_TK: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    return F.one_hot(rank_TK, ranks).sum(1).bool().T.nonzero(as_tuple=True)


def _in_order_of_tokens(rank_TK: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    token_C, rank_C = _wanted(rank_TK, ranks).T.nonzero(as_tuple=True)
    return rank_C, token_C


def _in_order_of_choice(rank_TK: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """Token by token, each rank where it first appears."""
    found = [(r, t) for t, row in enumerate(rank_TK.tolist()) for r in dict.fromkeys(row) if r >= 0]
    numbers = torch.tensor(found, dtype=torch.long).view(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def _from_lists(rank_TK: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """Right, but for torch.tensor([])."""
    rank_C, token_C = _wanted(rank_TK, ranks).nonzero(as_tuple=True)
    return torch.tensor(rank_C.tolist()), torch.tensor(token_C.tolist())


def _last_is_minus_one(rank_TK: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """-1 as an index is the last."""
    wanted_TR = torch.zeros(len(rank_TK), ranks, dtype=torch.bool)
    wanted_TR[torch.arange(len(rank_TK))[:, None], rank_TK] = True
    return wanted_TR.T.nonzero(as_tuple=True)


def _neighbours(rank_TK: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """Repetitions left out only where they stand side by side."""
    rows = rank_TK.tolist()
    return _by_rank([(r, t) for t, row in enumerate(rows) for r, _ in groupby(row) if r >= 0])


COPIES_TO_SEND = (
    WrongAnswer(
        "one copy for each expert",
        lambda rank_TK, ranks: _by_rank([(r, t) for r, t in _pairs(rank_TK) if r >= 0]),
        "A token with two experts on one rank is sent there twice. One copy is enough: that rank "
        "computes both experts and adds them up.",
        also=(lambda rank_TK, ranks: _sorted_pairs(rank_TK),),
    ),
    WrongAnswer(
        "in order of the tokens",
        _in_order_of_tokens,
        "The right copies in the wrong order: yours go token by token. An all-to-all sends BLOCKS, "
        "one for each rank, so what goes to one rank must stand together.",
        also=(_in_order_of_choice,),
    ),
    WrongAnswer(
        "changed places",
        lambda rank_TK, ranks: _wanted(rank_TK, ranks).nonzero(as_tuple=True)[::-1],
        "Rank and token have changed places: return the ranks first, then the tokens.",
    ),
    WrongAnswer(
        "-1 is sent somewhere",
        _last_is_minus_one,
        "-1 means that this place has no expert on any rank. Used as an index it is the LAST rank, "
        "which then gets tokens that nobody asked it to compute.",
    ),
    WrongAnswer(
        "-1 is no index",
        _by_scatter,
        "scatter and one_hot take no -1, which means here: no expert on any rank. Compare instead, "
        "rank_TK == a rank, or leave out what is negative.",
        also=(_by_one_hot,),
    ),
    WrongAnswer(
        "-1 sent to rank 0",
        lambda rank_TK, ranks: _wanted(rank_TK.clamp(min=0), ranks).nonzero(as_tuple=True),
        "-1 became rank 0, which then gets tokens that nobody asked it to compute. -1 means: no "
        "expert on any rank.",
    ),
    WrongAnswer(
        "-1 as a rank",
        lambda rank_TK, ranks: _by_rank(list(set(_pairs(rank_TK)))),
        "Your ranks contain -1, which means: no expert here. Nothing is sent for it.",
    ),
    WrongAnswer(
        "the first expert alone",
        lambda rank_TK, ranks: _wanted(rank_TK[:, :1], ranks).nonzero(as_tuple=True),
        "You look at each token's first expert alone. Any of its K experts may be on another rank.",
    ),
    WrongAnswer(
        "neighbours alone",
        _neighbours,
        "Repetitions disappear only where they stand side by side. A token with ranks 2, 0, 2 "
        "still goes to rank 2 twice.",
    ),
    WrongAnswer(
        "floats when nothing is sent",
        _from_lists,
        "A rank may have no tokens, and torch.tensor([]) is a tensor of floats, which is no index. "
        "Give the dtype: torch.tensor(numbers, dtype=torch.long).",
    ),
    WrongAnswer(
        "lists",
        lambda rank_TK, ranks: tuple(
            part.tolist() for part in _wanted(rank_TK, ranks).nonzero(as_tuple=True)
        ),
        "Two lists came back: make them tensors of whole numbers, "
        "torch.tensor(numbers, dtype=torch.long).",
        also=(
            lambda rank_TK, ranks: [
                part.tolist() for part in _wanted(rank_TK, ranks).nonzero(as_tuple=True)
            ],
        ),
    ),
    WrongAnswer(
        "one tensor of pairs",
        lambda rank_TK, ranks: _wanted(rank_TK, ranks).nonzero(),
        "One tensor with two columns came back. nonzero(as_tuple=True) gives the columns apart.",
    ),
    WrongAnswer(
        "a list for each rank",
        lambda rank_TK, ranks: [row.nonzero()[:, 0].tolist() for row in _wanted(rank_TK, ranks)],
        "You have the tokens of each rank in a list of its own. Put the lists one behind the other "
        "(token_C), and beside each entry its rank (rank_C).",
        also=(lambda rank_TK, ranks: [row.nonzero()[:, 0] for row in _wanted(rank_TK, ranks)],),
    ),
    WrongAnswer(
        "counts",
        lambda rank_TK, ranks: _wanted(rank_TK, ranks).sum(1),
        "These are numbers of copies, the send counts. Wanted are the copies themselves: the rank "
        "and the token of each. The counts follow in the next cell.",
        also=(
            lambda rank_TK, ranks: rank_TK.flatten().clamp(min=0).bincount(minlength=ranks),
            lambda rank_TK, ranks: rank_TK[rank_TK >= 0].bincount(minlength=ranks),
        ),
    ),
    WrongAnswer(
        "the mask itself",
        _wanted,
        "This table says which rank wants which token. Wanted are the places where it is true: "
        "nonzero(as_tuple=True).",
    ),
)


# ---- combine


def _overwrite(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    y_TD = y_CD.new_zeros(num_tokens, y_CD.shape[1])
    y_TD[token_C] = y_CD
    return y_TD


def _plus_equals(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    y_TD = y_CD.new_zeros(num_tokens, y_CD.shape[1])
    y_TD[token_C] += y_CD
    return y_TD


def _overwrite32(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    y_TD = torch.zeros(num_tokens, y_CD.shape[1])
    y_TD[token_C] = y_CD
    return y_TD


def _plus_equals32(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    y_TD = torch.zeros(num_tokens, y_CD.shape[1])
    y_TD[token_C] += y_CD
    return y_TD


def _sum(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    return y_CD.new_zeros(num_tokens, y_CD.shape[1]).index_add(0, token_C, y_CD)


def _mean(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    copies_T1 = token_C.bincount(minlength=num_tokens)[:, None].clamp(min=1)
    return _sum(y_CD, token_C, num_tokens) / copies_T1


def _too_short(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    return _sum(y_CD, token_C, int(token_C.max()) + 1 if len(token_C) else 0)


def _float32(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    return torch.zeros(num_tokens, y_CD.shape[1]).index_add(0, token_C, y_CD)


def _first_column(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    y_TD = y_CD.new_zeros(num_tokens, y_CD.shape[1])
    return y_TD.scatter_add(0, token_C[:, None], y_CD)


COMBINE = (
    WrongAnswer(
        "the last copy wins",
        _overwrite,
        "Where a token comes back from several ranks, one result overwrites the others. "
        "y[token_C] += y_CD does that too: with an index that repeats, PyTorch adds once. "
        "index_add adds every row.",
        also=(_plus_equals, _overwrite32, _plus_equals32),
    ),
    WrongAnswer(
        "the mean of the copies",
        _mean,
        "You divide by the number of copies. The weights are in the results already, and sum to "
        "what they should: add up, no more.",
    ),
    WrongAnswer(
        "sorted, not added",
        lambda y_CD, token_C, num_tokens: y_CD[token_C.argsort(stable=True)],
        "You have one row for each copy, in the order of the tokens. What comes back from several "
        "ranks for one token must become one row, their sum.",
    ),
    WrongAnswer(
        "read, not written",
        lambda y_CD, token_C, num_tokens: y_CD[token_C],
        "y_CD[token_C] READS row token_C[c]. The other way is wanted: row c goes TO row "
        "token_C[c] of the result.",
    ),
    WrongAnswer(
        "as it came",
        lambda y_CD, token_C, num_tokens: y_CD,
        "The rows come back in order of the rank that computed them. token_C[c] says to which "
        "token row c belongs.",
        also=(lambda y_CD, token_C, num_tokens: y_CD[:num_tokens],),
    ),
    WrongAnswer(
        "too few rows",
        _too_short,
        "The last tokens may have no copy at all, and still need their row of zeros: the result "
        "has num_tokens rows, whatever token_C contains.",
    ),
    WrongAnswer(
        "as many rows as copies",
        lambda y_CD, token_C, num_tokens: torch.zeros_like(y_CD).index_add(0, token_C, y_CD),
        "Your result has a row for each copy. It needs one for each token: begin with num_tokens "
        "rows of zeros.",
    ),
    WrongAnswer(
        "always 32 bits",
        _float32,
        "Your zeros are float32 whatever comes in. y_CD.new_zeros(...) has the dtype and device "
        "of y_CD.",
    ),
    WrongAnswer(
        "the first column alone",
        _first_column,
        "scatter_add needs an index for every number, and yours has one column, so all other "
        "columns stay zero. Expand it, token_C[:, None].expand_as(y_CD), or use index_add.",
    ),
    WrongAnswer(
        "gradient cut off",
        lambda y_CD, token_C, num_tokens: _sum(y_CD.detach(), token_C, num_tokens),
        "The values are right, but no gradient comes back: detach, .data or torch.no_grad cut the "
        "graph. Without it the experts do not learn.",
    ),
)


# ---- bytes on the wire

WIRE_BYTES = (
    WrongAnswer(
        "one way only",
        lambda copies, width, size: copies * width * size,
        "This is the way out alone, once. The result comes back; and backward, gradients make "
        "both ways again.",
    ),
    WrongAnswer(
        "forward only",
        lambda copies, width, size: 2 * copies * width * size,
        "There and back, forward. In training the backward pass makes both ways again, with "
        "gradients of the same size.",
    ),
    WrongAnswer(
        "three ways",
        lambda copies, width, size: 3 * copies * width * size,
        "Three of four: each of the two ways forward has its gradient on the way back.",
    ),
    WrongAnswer(
        "six ways",
        lambda copies, width, size: 6 * copies * width * size,
        "The rule that backward costs twice as much as forward is about operations. On the wire, "
        "backward sends one gradient for each vector: as many bytes as forward.",
    ),
    WrongAnswer(
        "bits",
        lambda copies, width, size: 32 * copies * width * size,
        "These are bits: eight times too much. `bytes_per_number` counts bytes already.",
        also=(lambda copies, width, size: 8 * copies * width * size,),
    ),
    WrongAnswer(
        "numbers, not bytes",
        lambda copies, width, size: 4 * copies * width,
        "So many numbers travel. Each takes `bytes_per_number` bytes.",
    ),
    WrongAnswer(
        "copies, not vectors",
        lambda copies, width, size: 4 * copies * size,
        "A copy of a token is a vector of `width` numbers.",
    ),
)


# ---- expected copies


def _missed(E: int, k: int, ranks: int, limit: int | None) -> tuple[int, float]:
    """Number of open ranks, and the chance that none of the k experts is on a given one."""
    size, m = E // ranks, limit or ranks
    return m, math.comb((m - 1) * size, k) / math.comb(m * size, k)


def _own_counted(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    m, missed = _missed(E, k, ranks, limit)
    return m * (1 - missed)


def _own_always_among(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    m, missed = _missed(E, k, ranks, limit)
    return (m - 1) * (1 - missed)


def _minus_one(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    m, missed = _missed(E, k, ranks, limit)
    return m * (1 - missed) - 1


def _with_replacement(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    m = limit or ranks
    return m * (1 - (1 - 1 / m) ** k) * (ranks - 1) / ranks


def _with_replacement_unlimited(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    return (ranks - 1) * (1 - (1 - 1 / ranks) ** k)


def _all_others_open(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    _, missed = _missed(E, k, ranks, limit)
    return (ranks - 1) * (1 - missed)


def _no_limit(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    m, missed = _missed(E, k, ranks, None)
    return m * (1 - missed) * (ranks - 1) / ranks


def _cut(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    return min(_no_limit(E, k, ranks), limit or ranks)


def _cut_before(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    return min(_own_counted(E, k, ranks), limit or ranks) * (ranks - 1) / ranks


def _from_all_experts(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    _, missed = _missed(E, k, ranks, None)
    return (limit or ranks) * (1 - missed) * (ranks - 1) / ranks


def _chance_alone(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    _, missed = _missed(E, k, ranks, limit)
    return 1 - missed


def _the_missed(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    m, missed = _missed(E, k, ranks, limit)
    return m * missed * (ranks - 1) / ranks


def _one_each(E: int, k: int, ranks: int, limit: int | None = None) -> float:
    return k * (ranks - 1) / ranks


EXPECTED_COPIES = (
    WrongAnswer(
        "its own rank counted",
        _own_counted,
        "This counts all ranks that a token needs, its own among them. What stays at home is not "
        "sent: (ranks - 1) / ranks of it goes elsewhere.",
    ),
    WrongAnswer(
        "its own rank always open",
        _own_always_among,
        "You take one of the m open ranks to be the token's own. The m are drawn at random, so its "
        "own is any of them with chance m / ranks only: times (ranks - 1) / ranks.",
    ),
    WrongAnswer(
        "all other ranks open",
        _all_others_open,
        "You multiply by all other ranks, and with a limit only m ranks are open: "
        "m * (ranks - 1) / ranks of them are elsewhere on average.",
    ),
    WrongAnswer(
        "minus one",
        _minus_one,
        "You subtract 1 for the token's own rank, but often it is not among those needed. On "
        "average 1 / ranks of what is needed stays at home.",
    ),
    WrongAnswer(
        "drawn with replacement",
        _with_replacement,
        "(1 - 1/m) ** k would be right if an expert could be drawn twice. The k are different: "
        "count the ways to choose them, math.comb.",
        also=(_with_replacement_unlimited,),
    ),
    WrongAnswer(
        "limit ignored",
        _no_limit,
        "`limit` changes nothing in your answer. With a limit of m, all k experts lie on m ranks.",
    ),
    WrongAnswer(
        "cut off at the limit",
        _cut,
        "A limit is more than a maximum: the same k experts have to be found on m ranks, so they "
        "stand closer together. Do the calculation anew with m ranks.",
        also=(_cut_before,),
    ),
    WrongAnswer(
        "drawn from all experts",
        _from_all_experts,
        "With a limit, the k experts come from the m open ranks: m * E / ranks experts, not E.",
    ),
    WrongAnswer(
        "the chance of one rank",
        _chance_alone,
        "This is the chance that one given rank is needed. There are m of them, and "
        "(ranks - 1) / ranks of them are elsewhere.",
    ),
    WrongAnswer(
        "the ranks not needed",
        _the_missed,
        "You count the ranks that are NOT needed: the quotient is the chance to miss one.",
    ),
    WrongAnswer(
        "one rank for each expert",
        _one_each,
        "This is one copy for each expert. Two experts on the same rank need one copy.",
        also=(lambda E, k, ranks, limit=None: min(k, limit or ranks) * (ranks - 1) / ranks,),
    ),
)
