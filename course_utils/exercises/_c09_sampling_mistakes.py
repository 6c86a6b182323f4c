"""Wrong answers to the exercises of chapter 09 on keeping and replacing draft tokens."""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.generation.acceptance import draw, residual_distribution

# ---- the longest accepted prefix


def _until_first(draft_K: Tensor, best_L: Tensor, *, last: int = 0) -> int:
    """Kept ids, `last` added at the end; without any limit by K."""
    for place, (one, other) in enumerate(zip(draft_K.tolist(), best_L.tolist(), strict=False)):
        if one != other:
            return place + last
    return len(draft_K) + last


def _shifted(draft_K: Tensor, best_L: Tensor) -> int:
    return _until_first(draft_K, best_L[1:])


def _index_of_first_wrong(draft_K: Tensor, best_L: Tensor) -> int:
    wrong = (draft_K != best_L[:-1]).nonzero().flatten().tolist()
    return wrong[0] if wrong else 0


def _argmin(draft_K: Tensor, best_L: Tensor) -> int:
    return int((draft_K == best_L[:-1]).long().argmin())


def _as_tensor(draft_K: Tensor, best_L: Tensor) -> Tensor:
    return torch.tensor(_until_first(draft_K, best_L))


ACCEPTED_PREFIX = (
    WrongAnswer(
        "all matches counted",
        lambda draft_K, best_L: int((draft_K == best_L[: len(draft_K)]).sum()),
        "You count every place that agrees. After the first that differs, the target's choices "
        "were made after a wrong token, and mean nothing: stop there.",
    ),
    WrongAnswer(
        "the target's own token counted",
        lambda draft_K, best_L: _until_first(draft_K, best_L, last=1),
        "One too many: you count the token that the target adds. The result is the number of "
        "DRAFT ids that are kept, from 0 to K.",
    ),
    WrongAnswer(
        "compared with the place after",
        _shifted,
        "You compare draft[i] with best[i + 1]. best[0] is the target's choice after the newest "
        "token, where draft[0] stands too.",
    ),
    WrongAnswer(
        "all or nothing",
        lambda draft_K, best_L: len(draft_K) if torch.equal(draft_K, best_L[: len(draft_K)]) else 0,
        "You keep the whole draft or none of it. Its beginning may be right and its end wrong.",
    ),
    WrongAnswer(
        "nothing kept when all agree",
        _index_of_first_wrong,
        "When no place differs, you give 0; then the whole draft is kept: K.",
        also=(_argmin,),
    ),
    WrongAnswer(
        "the ids came back",
        lambda draft_K, best_L: draft_K[: _until_first(draft_K, best_L)],
        "The kept ids came back. Return how many they are, as an int.",
    ),
    WrongAnswer(
        "a tensor came back",
        _as_tensor,
        "The number is right, but it is a tensor: int(...) or .item() makes a number of it.",
    ),
)

# ---- the residual


def _clamped(p_V: Tensor, q_V: Tensor) -> Tensor:
    return (p_V - q_V).clamp(min=0)


def _or_target(x_V: Tensor, p_V: Tensor, q_V: Tensor) -> Tensor:
    return p_V if torch.equal(p_V, q_V) else x_V


RESIDUAL_DISTRIBUTION = (
    WrongAnswer(
        "not renormalised",
        lambda p_V, q_V: _or_target(_clamped(p_V, q_V), p_V, q_V),
        "It does not sum to 1: divide by the sum of what is left.",
        also=(_clamped,),
    ),
    WrongAnswer(
        "not clamped",
        lambda p_V, q_V: _or_target((p_V - q_V) / (p_V - q_V).sum(), p_V, q_V),
        "p - q is negative where the draft gives more than the target, and it sums to 0. Those "
        "ids have had their share: set them to 0 first.",
        also=(lambda p_V, q_V: p_V - q_V, lambda p_V, q_V: (p_V - q_V) / (p_V - q_V).sum()),
    ),
    WrongAnswer(
        "absolute difference",
        lambda p_V, q_V: _or_target(
            (p_V - q_V).abs() / (p_V - q_V).abs().sum().clamp(min=1e-30), p_V, q_V
        ),
        "|p - q| also gives to ids of which the draft had too much already. Keep what p has more "
        "than q, and nothing else.",
        also=(lambda p_V, q_V: (p_V - q_V).abs() / (p_V - q_V).abs().sum(),),
    ),
    WrongAnswer(
        "q minus p",
        lambda p_V, q_V: residual_distribution(q_V, p_V),
        "The wrong way round: this is what the draft has too much of. What is missing is p - q.",
        also=(lambda p_V, q_V: _clamped(q_V, p_V) / _clamped(q_V, p_V).sum(),),
    ),
    WrongAnswer(
        "the target itself",
        lambda p_V, q_V: p_V.clone(),
        "That is p. Draft tokens were already kept with probability min(p, q); drawing the rest "
        "from p as well gives those ids too much.",
    ),
    WrongAnswer(
        "p where it is larger",
        lambda p_V, q_V: _or_target(
            torch.where(p_V > q_V, p_V, 0.0) / p_V[p_V > q_V].sum().clamp(min=1e-30), p_V, q_V
        ),
        "You keep all of p where it is larger than q. The draft has brought q of it already: only "
        "the difference p - q is missing.",
        also=(
            lambda p_V, q_V: torch.where(p_V > q_V, p_V, 0.0) / p_V[p_V > q_V].sum(),
            lambda p_V, q_V: torch.where(p_V > q_V, p_V, 0.0),
        ),
    ),
    WrongAnswer(
        "softmax of the difference",
        lambda p_V, q_V: (p_V - q_V).softmax(-1),
        "A softmax makes every id possible. These are probabilities already: clamp, then divide.",
        also=(lambda p_V, q_V: _clamped(p_V, q_V).softmax(-1),),
    ),
    WrongAnswer(
        "nan where nothing is left",
        lambda p_V, q_V: _clamped(p_V, q_V) / _clamped(p_V, q_V).sum(),
        "Right, but for p = q: there the sum is 0, and 0 / 0 is nan. Return p in that case.",
    ),
    WrongAnswer(
        "0 where nothing is left",
        lambda p_V, q_V: _clamped(p_V, q_V) / _clamped(p_V, q_V).sum().clamp(min=1e-9),
        "Right, but for p = q: there you return zeros, which is no distribution. Return p.",
    ),
)

# ---- accept or replace

Pair = tuple[int, bool]


def _rule(
    token: int, p_V: Tensor, kept: bool, left_V: Tensor, u_draw: float, *, flag: bool = False
) -> Pair:
    """The right steps after a decision that may be wrong."""
    return (token, True) if kept else (draw(left_V, u_draw), flag)


def _by_argmax(token, p_V, q_V, u_accept, u_draw):
    best = int(p_V.argmax())
    return (token, True) if token == best else (best, False)


def _argmax_then_residual(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, token == int(p_V.argmax()), left_V, u_draw)


def _inverted(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, u_accept * float(p_V[token]) < float(q_V[token]), left_V, u_draw)


def _reused(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, u_accept * float(q_V[token]) < float(p_V[token]), left_V, u_accept)


def _from_target(token, p_V, q_V, u_accept, u_draw):
    return _rule(token, p_V, u_accept * float(q_V[token]) < float(p_V[token]), p_V, u_draw)


def _from_draft(token, p_V, q_V, u_accept, u_draw):
    return _rule(token, p_V, u_accept * float(q_V[token]) < float(p_V[token]), q_V, u_draw)


def _without_q(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, u_accept < float(p_V[token]), left_V, u_draw)


def _no_chance(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, bool(p_V[token] >= q_V[token]), left_V, u_draw)


def _likeliest_left(token, p_V, q_V, u_accept, u_draw):
    if u_accept * float(q_V[token]) < float(p_V[token]):
        return token, True
    return int(residual_distribution(p_V, q_V).argmax()), False


def _swapped_numbers(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, u_draw * float(q_V[token]) < float(p_V[token]), left_V, u_accept)


def _rejected_when_small(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, u_accept * float(q_V[token]) > float(p_V[token]), left_V, u_draw)


def _wrong_way_residual(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(q_V, p_V)
    return _rule(token, p_V, u_accept * float(q_V[token]) < float(p_V[token]), left_V, u_draw)


def _not_strict(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, u_accept * float(q_V[token]) <= float(p_V[token]), left_V, u_draw)


def _flag_inverted(token, p_V, q_V, u_accept, u_draw):
    result, kept = _right(token, p_V, q_V, u_accept, u_draw)
    return result, not kept


def _right(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    return _rule(token, p_V, u_accept * float(q_V[token]) < float(p_V[token]), left_V, u_draw)


def _flag_always(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    kept = u_accept * float(q_V[token]) < float(p_V[token])
    return _rule(token, p_V, kept, left_V, u_draw, flag=True)


def _token_alone(token, p_V, q_V, u_accept, u_draw):
    left_V = residual_distribution(p_V, q_V)
    kept = u_accept * float(q_V[token]) < float(p_V[token])
    return _rule(token, p_V, kept, left_V, u_draw)[0]


ACCEPT_OR_REPLACE = (
    WrongAnswer(
        "accepted by arg-max",
        _by_argmax,
        "You keep the token if it is the target's likeliest. That is the greedy rule: the text "
        "is then greedy text, though sampling was asked for. Keep it with chance p / q.",
        also=(_argmax_then_residual,),
    ),
    WrongAnswer(
        "p and q inverted",
        _inverted,
        "You accept with chance q / p. A token that the draft likes too much (q > p) must be kept "
        "less often: p / q.",
    ),
    WrongAnswer(
        "one number used twice",
        _reused,
        "u_accept decides both, so the replacement depends on why the token was rejected (only "
        "large numbers get there). Draw with u_draw.",
    ),
    WrongAnswer(
        "replaced from the target",
        _from_target,
        "The replacement is drawn from p, which gives the ids that the draft proposes too much: "
        "they have had min(p, q) already. Draw from the residual.",
    ),
    WrongAnswer(
        "replaced from the draft",
        _from_draft,
        "The replacement is drawn from the draft again. It must bring what the draft gives too "
        "little: draw from the residual.",
    ),
    WrongAnswer(
        "accepted with chance p",
        _without_q,
        "You accept with chance p. The token comes with probability q, so it would come out with "
        "p * q. Divide by q: chance p / q.",
    ),
    WrongAnswer(
        "no chance",
        _no_chance,
        "You keep the token if p >= q, and never otherwise. Where p < q it must still be kept "
        "sometimes: with chance p / q.",
    ),
    WrongAnswer(
        "likeliest of the residual",
        _likeliest_left,
        "The replacement is the likeliest id of the residual, always the same one. Draw it: "
        "draw(residual, u_draw).",
    ),
    WrongAnswer(
        "the two numbers swapped",
        _swapped_numbers,
        "u_draw decides over keeping and u_accept draws. The distribution is right; the names say "
        "which is which, so that results can be compared.",
    ),
    WrongAnswer(
        "rejected when it should be kept",
        _rejected_when_small,
        "Your comparison is the wrong way round: a chance of p / q means u < p / q.",
    ),
    WrongAnswer(
        "residual the wrong way round",
        _wrong_way_residual,
        "The decision is right. The replacement is drawn from max(0, q - p), what the draft has "
        "too much of; what is missing is max(0, p - q).",
    ),
    WrongAnswer(
        "kept at equality",
        _not_strict,
        "Right, but for u_accept = 0 and p = 0: then <= keeps a token that the target never "
        "gives. u is in [0, 1), so a chance of x is u < x.",
    ),
    WrongAnswer(
        "flag the wrong way round",
        _flag_inverted,
        "The tokens are right. The second value is True when the draft's token was KEPT.",
    ),
    WrongAnswer(
        "always called the draft's",
        _flag_always,
        "The tokens are right. The second value says whether the draft's token was kept: False "
        "for a replacement, or the round does not stop there.",
    ),
    WrongAnswer(
        "token without the flag",
        _token_alone,
        "Return two values: the token, and whether it is the draft's.",
    ),
)

# ---- expected tokens


def _mean(a: float, k: int) -> float:
    return sum(a**i for i in range(k + 1))


def _divided_by_zero(a: float, k: int) -> float:
    return (1 - a ** (k + 1)) / (1 - a)


EXPECTED_TOKENS = (
    WrongAnswer(
        "the target's token forgotten",
        lambda acceptance, k: _mean(acceptance, k) - 1,
        "You count the kept draft tokens alone. Every round also yields one token of the target, "
        "even when nothing is kept: at a = 0 the answer is 1.",
        also=(lambda acceptance, k: acceptance * (1 - acceptance**k) / (1 - acceptance),),
    ),
    WrongAnswer(
        "k in place of k + 1",
        lambda acceptance, k: _mean(acceptance, k) - acceptance**k,
        "The last term is missing: k draft tokens and the target's make k + 1 terms, from a^0 to "
        "a^k.",
        also=(lambda acceptance, k: (1 - acceptance**k) / (1 - acceptance),),
    ),
    WrongAnswer(
        "every place judged by itself",
        lambda acceptance, k: 1 + k * acceptance,
        "1 + k a lets a token count although one before it was rejected. The i-th counts only if "
        "all i were kept: a^i.",
    ),
    WrongAnswer(
        "all or nothing",
        lambda acceptance, k: 1 + k * acceptance**k,
        "1 + k a^k counts the draft only if it is kept whole. Its beginning counts too: a + a^2 + "
        "... + a^k.",
    ),
    WrongAnswer(
        "share of the round",
        lambda acceptance, k: _mean(acceptance, k) / (k + 1),
        "This is the share of k + 1. Asked is the number of tokens.",
    ),
    WrongAnswer(
        "division by zero",
        _divided_by_zero,
        "Right, but for a = 1, where the formula is 0 / 0: then every round yields k + 1.",
    ),
)
