"""Wrong answers to the exercises on what attention reads in chapter 08: window, indexer, choice.

Those on states and on the indexer's loss stand in `_c08_mistakes.py`.
"""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

# ---- the window


def _distance(query_T: Tensor, key_S: Tensor) -> Tensor:
    return query_T[:, None] - key_S[None, :]


def _between(low: int, more: int):
    """A window from `low` tokens back to W + `more` - 1 tokens back."""

    def answer(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
        distance_TS = _distance(query_T, key_S)
        return (distance_TS >= low) & (distance_TS < window + more)

    return answer


def _right(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
    return _between(0, 0)(query_T, key_S, window)


def _by_place(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
    T, S = len(query_T), len(key_S)
    return torch.ones(T, S, dtype=torch.bool).tril(S - T).triu(S - T - window + 1)


def _by_place_from_zero(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
    T, S = len(query_T), len(key_S)
    return torch.ones(T, S, dtype=torch.bool).tril().triu(1 - window)


def _by_place_square(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
    return torch.ones(len(query_T), len(query_T)).tril().triu(1 - window).bool()


def _keys_in_rows(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
    return _right(key_S, query_T, window)


def _additive(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
    seen_TS = _right(query_T, key_S, window)
    return torch.zeros(seen_TS.shape).masked_fill(~seen_TS, float("-inf"))


WINDOW_MASK = (
    WrongAnswer(
        "one token too many",
        _between(0, 1),
        "A query sees W + 1 keys. Its own counts: with W = 1 it sees itself alone, so the largest "
        "distance is W - 1. <, not <=.",
    ),
    WrongAnswer(
        "one token too few",
        _between(0, -1),
        "A query sees W - 1 keys. Distances 0, 1, ..., W - 1 are W of them.",
    ),
    WrongAnswer(
        "itself not seen",
        _between(1, 0),
        "A token does not see itself: distance 0 belongs to the window.",
    ),
    WrongAnswer(
        "the W tokens before it",
        _between(1, 1),
        "These are the W tokens BEFORE the query, without its own. The window ends at the query.",
    ),
    WrongAnswer(
        "the future is seen",
        lambda q_T, k_S, W: _distance(q_T, k_S) < W,
        "Keys after the query have a negative distance, and that is below W as well: ask for "
        "distance >= 0 too.",
        also=(lambda q_T, k_S, W: _distance(q_T, k_S) <= W,),
    ),
    WrongAnswer(
        "window on both sides",
        lambda q_T, k_S, W: _distance(q_T, k_S).abs() < W,
        "abs() opens the window to the future too. A decoder looks back only.",
        also=(lambda q_T, k_S, W: _distance(q_T, k_S).abs() <= W // 2,),
    ),
    WrongAnswer(
        "looks ahead",
        lambda q_T, k_S, W: (_distance(q_T, k_S) <= 0) & (_distance(q_T, k_S) > -W),
        "The distance has the wrong sign: query minus key is positive for a key in the past.",
    ),
    WrongAnswer(
        "causal and no window",
        lambda q_T, k_S, W: _distance(q_T, k_S) >= 0,
        "This is the causal mask. The window also closes what is W or more tokens back.",
    ),
    WrongAnswer(
        "rows and columns exchanged",
        lambda q_T, k_S, W: _right(q_T, k_S, W).T,
        "The result is (S, T). Rows are queries: query_T[:, None] - key_S[None, :].",
        also=(_keys_in_rows,),
    ),
    WrongAnswer(
        "True where it may not look",
        lambda q_T, k_S, W: ~_right(q_T, k_S, W),
        "The mask is inverted. In this course True means: may look.",
    ),
    WrongAnswer(
        "places and not positions",
        _by_place,
        "You count rows and columns. A cache hands in its keys in another order, and queries that "
        "begin in the middle of the text: use the positions in query_T and key_S.",
        also=(_by_place_from_zero, _by_place_square),
    ),
    WrongAnswer(
        "or in place of and",
        lambda q_T, k_S, W: (_distance(q_T, k_S) >= 0) | (_distance(q_T, k_S) < W),
        "| lets everything through: every key is in the past or nearer than W. Both must hold: &.",
    ),
    WrongAnswer(
        "not booleans",
        lambda q_T, k_S, W: _right(q_T, k_S, W).float(),
        "The zeros and ones are right, but they are numbers. The mask is of booleans.",
        also=(lambda q_T, k_S, W: _right(q_T, k_S, W).int(),),
    ),
    WrongAnswer(
        "minus infinity",
        _additive,
        "This mask is made to be added to the scores. Here a mask is of booleans, True where a "
        "query may look.",
    ),
)

# ---- index scores


def _products(q_BHTd: Tensor, k_BSd: Tensor) -> Tensor:
    return q_BHTd @ k_BSd[:, None].mT


def _weighted(x_BHTS: Tensor, w_BTH: Tensor) -> Tensor:
    return (w_BTH.transpose(1, 2)[..., None] * x_BHTS).sum(dim=1)


def _wrong_axis(q_BHTd: Tensor, k_BSd: Tensor, w_BTH: Tensor) -> Tensor:
    B, H, T, _ = q_BHTd.shape
    return (w_BTH.reshape(B, H, T, 1) * _products(q_BHTd, k_BSd).relu()).sum(dim=1)


def _causal_inside(q_BHTd: Tensor, k_BSd: Tensor, w_BTH: Tensor) -> Tensor:
    scores_BTS = _weighted(_products(q_BHTd, k_BSd).relu(), w_BTH)
    T, S = scores_BTS.shape[1:]
    seen_TS = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    return scores_BTS.masked_fill(~seen_TS, float("-inf"))


INDEX_SCORES = (
    WrongAnswer(
        "ReLU after the weights",
        lambda q, k, w: (w.transpose(1, 2)[..., None] * _products(q, k)).relu().sum(dim=1),
        "The ReLU is around w x product. A head with a negative weight then never counts against a "
        "token, and where both are negative it counts for it. ReLU of q . k alone, then times w.",
    ),
    WrongAnswer(
        "sum before ReLU",
        lambda q, k, w: _weighted(_products(q, k), w).relu(),
        "The heads are summed first, so that one head's no cancels another's yes, and no score is "
        "ever negative. ReLU in each head, then the weighted sum.",
        also=(lambda q, k, w: _products(q, k).sum(1).relu() * w.sum(-1, keepdim=True),),
    ),
    WrongAnswer(
        "no ReLU",
        lambda q, k, w: _weighted(_products(q, k), w),
        "Without the ReLU the heads add up to one linear product: the sum over h of w q is one "
        "query, and more heads would be of no use.",
    ),
    WrongAnswer(
        "ReLU before the product",
        lambda q, k, w: _weighted(_products(q.relu(), k.relu()), w),
        "The ReLU is on queries and keys, so that two negative channels no longer agree. It "
        "belongs around the product: ReLU(q . k).",
        also=(
            lambda q, k, w: _weighted(_products(q.relu(), k), w),
            lambda q, k, w: _weighted(_products(q, k.relu()), w),
        ),
    ),
    WrongAnswer(
        "softmax in place of ReLU",
        lambda q, k, w: _weighted(_products(q, k).softmax(dim=-1), w),
        "A softmax looks at all tokens before it gives one a score, and costs an exponential each. "
        "The indexer only ranks: ReLU.",
        also=(lambda q, k, w: _weighted(_products(q, k).relu(), w).softmax(dim=-1),),
    ),
    WrongAnswer(
        "scaled again",
        lambda q, k, w: _weighted(_products(q, k).relu(), w) / q.shape[-1] ** 0.5,
        "You divide by sqrt(d). The scale is in w already; the formula has no other.",
        also=(
            lambda q, k, w: (
                _weighted(_products(q, k).relu(), w) / (q.shape[1] * q.shape[-1]) ** 0.5
            ),
        ),
    ),
    WrongAnswer(
        "weights of other heads",
        _wrong_axis,
        "w is (B, T, H): a view or reshape to (B, H, T) mixes tokens and heads up. transpose(1, 2) "
        "exchanges them.",
    ),
    WrongAnswer(
        "mean over the heads",
        lambda q, k, w: _weighted(_products(q, k).relu(), w) / q.shape[1],
        "The heads are averaged. The formula sums them; w says how much each counts.",
    ),
    WrongAnswer(
        "weights left out",
        lambda q, k, w: _products(q, k).relu().sum(dim=1),
        "Every head counts alike. Each query gives each head a weight of its own: w_BTH.",
    ),
    WrongAnswer(
        "weights made positive",
        lambda q, k, w: _weighted(_products(q, k).relu(), w.softmax(dim=-1)),
        "The weights go in as they are. A negative one is a head's way to say: not these tokens.",
        also=(
            lambda q, k, w: _weighted(_products(q, k).relu(), w.relu()),
            lambda q, k, w: _weighted(_products(q, k).relu(), w.sigmoid()),
        ),
    ),
    WrongAnswer(
        "the best head alone",
        lambda q, k, w: (w.transpose(1, 2)[..., None] * _products(q, k).relu()).amax(dim=1),
        "You take the head with the highest score. The formula sums over the heads.",
    ),
    WrongAnswer(
        "masked here",
        _causal_inside,
        "The scores are right, and you have hidden the future. Who may look at what is the mask's "
        "business, in choose_tokens: here every query scores every key.",
    ),
    WrongAnswer(
        "heads not summed",
        lambda q, k, w: w.transpose(1, 2)[..., None] * _products(q, k).relu(),
        "One score for each head is left. Sum over the heads: (B, T, S).",
    ),
)

# ---- the choice


def _hidden(scores_BTS: Tensor, mask: Tensor, filler: float = float("-inf")) -> Tensor:
    return scores_BTS.masked_fill(~mask, filler)


def _best(scores_BTS: Tensor, k: int, **how) -> Tensor:
    best_BTk = scores_BTS.topk(min(k, scores_BTS.shape[-1]), dim=-1, **how).indices
    return torch.zeros_like(scores_BTS, dtype=torch.bool).scatter(-1, best_BTk, True)


def _k_too_large(scores_BTS: Tensor, k: int, mask: Tensor) -> Tensor:
    best_BTk = _hidden(scores_BTS, mask).topk(k, dim=-1).indices
    return torch.zeros_like(scores_BTS, dtype=torch.bool).scatter(-1, best_BTk, True) & mask


def _over_queries(scores_BTS: Tensor, k: int, mask: Tensor) -> Tensor:
    scores_BTS = _hidden(scores_BTS, mask)
    best_BkS = scores_BTS.topk(min(k, scores_BTS.shape[1]), dim=1).indices
    return torch.zeros_like(scores_BTS, dtype=torch.bool).scatter(1, best_BkS, True) & mask


def _above(strict: bool):
    def answer(scores_BTS: Tensor, k: int, mask: Tensor) -> Tensor:
        scores_BTS = _hidden(scores_BTS, mask)
        least_BT1 = scores_BTS.topk(min(k, scores_BTS.shape[-1]), dim=-1).values[..., -1:]
        return scores_BTS > least_BT1 if strict else scores_BTS >= least_BT1

    return answer


def _nearest(scores_BTS: Tensor, k: int, mask: Tensor) -> Tensor:
    place_S = torch.arange(scores_BTS.shape[-1]).to(scores_BTS)
    return _best(_hidden(place_S.expand_as(scores_BTS), mask), k) & mask


def _for_all(scores_BTS: Tensor, k: int, mask: Tensor) -> Tensor:
    together_BTS = scores_BTS.sum(dim=1, keepdim=True).expand_as(scores_BTS)
    return _best(_hidden(together_BTS, mask), k) & mask


def _numbers(scores_BTS: Tensor, k: int, mask: Tensor) -> Tensor:
    return _hidden(scores_BTS, mask).topk(min(k, scores_BTS.shape[-1]), dim=-1).indices


CHOOSE_TOKENS = (
    WrongAnswer(
        "the future is chosen",
        lambda s, k, mask: _best(s, k),
        "The mask is not used, so the best scores of the future are chosen too. In training that "
        "looks like a miracle, in generation it is gone.",
    ),
    WrongAnswer(
        "masked after the choice",
        lambda s, k, mask: _best(s, k) & mask,
        "The k best are chosen among ALL tokens, and the hidden ones dropped afterwards: fewer "
        "than k are left. Hide them first: masked_fill(~mask, -inf), then topk.",
    ),
    WrongAnswer(
        "fewer than k are filled up",
        lambda s, k, mask: _best(_hidden(s, mask), k),
        "Where a query sees fewer than k tokens, topk fills up with hidden ones (minus infinity is "
        "as good as minus infinity). & mask at the end takes them out.",
    ),
    WrongAnswer(
        "hidden by zero",
        lambda s, k, mask: _best(_hidden(s, mask, 0.0), k) & mask,
        "Hidden tokens get the score 0, which beats every negative score. Use minus infinity.",
        also=(lambda s, k, mask: _best(s * mask, k),),
    ),
    WrongAnswer(
        "hidden by infinity",
        lambda s, k, mask: _best(_hidden(s, mask, float("inf")), k) & mask,
        "Plus infinity puts the hidden tokens first. It must be minus infinity.",
    ),
    WrongAnswer(
        "the worst ones",
        lambda s, k, mask: _best(_hidden(s, mask, float("inf")), k, largest=False) & mask,
        "You chose the k lowest scores.",
    ),
    WrongAnswer(
        "k larger than the text",
        _k_too_large,
        "A text may have fewer than k tokens: topk(min(k, S)).",
    ),
    WrongAnswer(
        "one too few",
        _above(strict=True),
        "The k-th best is not larger than itself: with > one token is missing. Take the indices of "
        "topk rather than a threshold.",
    ),
    WrongAnswer(
        "a threshold without the mask",
        _above(strict=False),
        "Where a query sees fewer than k tokens, the threshold is minus infinity and all pass, the "
        "future too. & mask.",
    ),
    WrongAnswer(
        "the best queries of a token",
        _over_queries,
        "topk runs over the queries (dim 1). Every query chooses among the tokens: the last dim.",
    ),
    WrongAnswer(
        "the nearest tokens",
        _nearest,
        "These are the last k visible tokens: a window. The scores decide.",
    ),
    WrongAnswer(
        "one choice for all queries",
        _for_all,
        "All queries get the same tokens. Each chooses by its own row of scores.",
    ),
    WrongAnswer(
        "largest in size",
        lambda s, k, mask: _best(_hidden(s.abs(), mask), k) & mask,
        "abs() makes the strongest no a yes. Choose by the scores as they are.",
    ),
    WrongAnswer(
        "not booleans",
        lambda s, k, mask: (_best(_hidden(s, mask), k) & mask).float(),
        "The right tokens, but as numbers 0 and 1. The result is of booleans: scatter True into a "
        "tensor of dtype bool, or .bool() at the end.",
        also=(lambda s, k, mask: (_best(_hidden(s, mask), k) & mask).int(),),
    ),
    WrongAnswer(
        "numbers of tokens",
        _numbers,
        "These are the numbers of the chosen tokens (B, T, k). Wanted is a mask (B, T, S): scatter "
        "True at these places.",
    ),
)
