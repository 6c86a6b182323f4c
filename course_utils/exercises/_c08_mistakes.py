"""Wrong answers to the exercises on the indexer's loss, lightning attention and the delta rule.

Those on masks, index scores and the choice stand in `_c08_choice_mistakes.py`.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

# ---- the indexer's loss


def _logs(scores_BTS: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    return scores_BTS.masked_fill(~mask, -torch.inf).log_softmax(dim).masked_fill(~mask, 0.0)


def _terms(p: Tensor, scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    return torch.special.xlogy(p, p) - p * _logs(scores, mask, dim)


def _reverse(p: Tensor, scores: Tensor, mask: Tensor, least: float = 0.0) -> Tensor:
    log_q = _logs(scores, mask)
    q = log_q.exp().masked_fill(~mask, 0.0)
    return (q * (log_q - p.clamp(min=least).log())).sum(-1).mean()


def _no_care(p: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    q = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean()


def _half_care(p: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    log_q = scores.masked_fill(~mask, -torch.inf).log_softmax(-1)
    return (torch.special.xlogy(p, p) - p * log_q).sum(-1).mean()


def _all_tokens(p: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    return (torch.special.xlogy(p, p) - p * scores.log_softmax(-1)).sum(-1).mean()


def _zero_filled(p: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    return _all_tokens(p, scores.masked_fill(~mask, 0.0), mask)


def _squares(p: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    q = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return (q - p).square().sum(-1).mean()


INDEXER_KL = (
    WrongAnswer(
        "the other direction",
        lambda p, s, mask: _reverse(p, s, mask, 1e-10),
        "This is KL(indexer || target). It punishes what the indexer adds and hardly what it "
        "misses; but what it misses, attention can never read. The target stands first: p log p/q.",
        also=(
            lambda p, s, mask: _reverse(p, s, mask),
            *(partial(_reverse, least=least) for least in (1e-6, 1e-8, 1e-9, 1e-12)),
        ),
    ),
    WrongAnswer(
        "cross-entropy",
        lambda p, s, mask: -(p * _logs(s, mask)).sum(-1).mean(),
        "This is the cross-entropy. Its gradient is the same, but it is not 0 where the indexer is "
        "right: sum p log p is missing.",
    ),
    WrongAnswer(
        "the entropy with the wrong sign",
        lambda p, s, mask: (-torch.special.xlogy(p, p) - p * _logs(s, mask)).sum(-1).mean(),
        "The entropy is subtracted where it must be added: log p - log q, not -log p - log q.",
    ),
    WrongAnswer(
        "the negative",
        lambda p, s, mask: -_terms(p, s, mask).sum(-1).mean(),
        "The sign is wrong: a KL divergence is never negative. log p - log q.",
    ),
    WrongAnswer(
        "softmax over hidden tokens too",
        _all_tokens,
        "The softmax gives weight to tokens that the query may not see. Fill the scores with minus "
        "infinity outside the mask first.",
    ),
    WrongAnswer(
        "hidden by zero",
        _zero_filled,
        "A score of 0 is not nothing: exp(0) = 1. Fill with minus infinity.",
    ),
    WrongAnswer(
        "0 times infinity",
        _no_care,
        "log 0 is minus infinity, and 0 times infinity is NaN. xlogy(p, p) is 0 at p = 0, and the "
        "logarithms outside the mask must be filled with a finite number before they meet p = 0.",
        also=(_half_care,),
    ),
    WrongAnswer(
        "mean over all entries",
        lambda p, s, mask: _terms(p, s, mask).mean(),
        "You average over the tokens as well, so the loss shrinks with the length of the text. Sum "
        "over the tokens of a query, then average over the queries.",
    ),
    WrongAnswer(
        "summed over the queries",
        lambda p, s, mask: _terms(p, s, mask).sum(),
        "Queries are summed. Sum over the last dimension, then .mean().",
    ),
    WrongAnswer(
        "divided by the batch alone",
        lambda p, s, mask: _terms(p, s, mask).sum() / len(p),
        "You divide by the batch and not by all B T queries (`batchmean` of F.kl_div does that).",
    ),
    WrongAnswer(
        "softmax over the queries",
        lambda p, s, mask: _terms(p, s, mask, dim=1).sum(-1).mean(),
        "The softmax runs over dim 1, the queries. Each query spreads its attention over tokens: "
        "the last dimension.",
    ),
    WrongAnswer(
        "squared distance",
        _squares,
        "Squares hardly see the difference between a weight of 0.001 and one of 0.03, of which "
        "there are many. The loss is a KL divergence.",
    ),
    WrongAnswer(
        "no gradient",
        lambda p, s, mask: _terms(p, s.detach(), mask).sum(-1).mean(),
        "The value is right, but no gradient reaches the scores: they are what learns. detach() "
        "and no_grad() belong to the target.",
    ),
    WrongAnswer(
        "one loss for each query",
        lambda p, s, mask: _terms(p, s, mask).sum(-1),
        "One number for each query is left. Average them.",
    ),
)

# ---- lightning attention


def _empty(k: Tensor, v: Tensor) -> Tensor:
    return v.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])


def _lightning(step: Callable) -> Callable:
    """A recurrence from one step: (S, q, k, v, decay) to (S, o)."""

    def answer(q, k, v, slope, state=None):
        S = _empty(k, v) if state is None else state
        decay, out = (-slope).exp()[:, None, None], []
        for t in range(q.shape[2]):
            S, o = step(S, q[:, :, t, None], k[:, :, t, :, None], v[:, :, t, None], decay)
            out.append(o)
        return torch.cat(out, 2), S

    return answer


def _step(S, q, k, v, decay):
    S = decay * S + k * v
    return S, q @ S


def _decay_last(S, q, k, v, decay):
    S = decay * (S + k * v)
    return S, q @ S


def _read_first(S, q, k, v, decay):
    return decay * S + k * v, q @ S


def _read_faded(S, q, k, v, decay):
    return decay * S + k * v, q @ (decay * S)


def _decay_both(S, q, k, v, decay):
    S = decay * S + (1 - decay) * k * v
    return S, q @ S


def _transposed(S, q, k, v, decay):
    S = decay * S + v.mT * k.mT
    return S, q @ S


def _in_place(S, q, k, v, decay):
    S *= decay
    S += k * v
    return S, q @ S


def _fades_at_the_end(q, k, v, slope, state=None):
    S = _empty(k, v) if state is None else state
    out = []
    for t in range(q.shape[2]):
        S = S + k[:, :, t, :, None] * v[:, :, t, None]
        out.append(q[:, :, t, None] @ S)
        S = (-slope).exp()[:, None, None] * S
    return torch.cat(out, 2), S


def _with_slope(change: Callable) -> Callable:
    def answer(q, k, v, slope, state=None):
        return _lightning(_step)(q, k, v, change(slope), state)

    return answer


def _fresh(q, k, v, slope, state=None):
    return _lightning(_step)(q, k, v, slope)


def _scaled(q, k, v, slope, state=None):
    return _lightning(_step)(q / q.shape[-1] ** 0.5, k, v, slope, state)


def _divided(q, k, v, slope, state=None):
    ones = torch.ones_like(v[..., :1])
    out, S = _lightning(_step)(q, k, v, slope, state)
    return out / _lightning(_step)(q, k, ones, slope)[0], S


RECURRENT_LIGHTNING = (
    WrongAnswer(
        "decay after the write",
        _lightning(_decay_last),
        "What is written fades in the very step in which it is written. Fade the old state first, "
        "then add k v^T in full.",
    ),
    WrongAnswer(
        "the state fades once too often",
        _fades_at_the_end,
        "You let the state fade at the end of each step, so what you return has faded once more "
        "than it should, and a state that is handed in once less. Fade at the beginning.",
    ),
    WrongAnswer(
        "read before the write",
        _lightning(_read_first),
        "The token does not see itself: read o = S^T q after the write.",
        also=(_lightning(_read_faded),),
    ),
    WrongAnswer(
        "no decay",
        _with_slope(lambda s: s * 0),
        "Nothing fades. Multiply the old state by exp(-s) at every step.",
    ),
    WrongAnswer(
        "growing",
        _with_slope(lambda s: -s),
        "exp(s) is above 1, so the past grows. The decay is exp(-s).",
    ),
    WrongAnswer(
        "the slope as decay",
        _with_slope(lambda s: -s.log()),
        "The state is multiplied by s itself. s is a slope: the decay is exp(-s).",
        also=(_with_slope(lambda s: -(1 - s).abs().log()),),
    ),
    WrongAnswer(
        "one decay for all heads",
        _with_slope(lambda s: s.mean().expand_as(s)),
        "All heads fade alike. Each has its own slope: (-slope_H).exp()[:, None, None] meets the "
        "state (B, H, K, V).",
        also=(_with_slope(lambda s: s[:1].expand_as(s)),),
    ),
    WrongAnswer(
        "a moving average",
        _lightning(_decay_both),
        "(1 - decay) before k v^T makes a moving average. Lightning attention adds k v^T in full.",
    ),
    WrongAnswer(
        "outer product transposed",
        _lightning(_transposed),
        "This writes v k^T. The state is K x V: a column of k times a row of v.",
    ),
    WrongAnswer(
        "the state that was given is not used",
        _fresh,
        "A state that is handed in belongs to the tokens before: start from it, and from zeros "
        "only when it is None.",
    ),
    WrongAnswer(
        "in place",
        _lightning(_in_place),
        "The values are right, but the state that was handed in is overwritten. Its owner may "
        "still need it: S = ... makes a new one.",
    ),
    WrongAnswer(
        "scaled",
        _scaled,
        "You divide the queries by sqrt(K). That belongs to softmax attention; here q goes in as "
        "it is.",
    ),
    WrongAnswer(
        "divided by the sum of the weights",
        _divided,
        "Early linear attention divided by the sum of q . k, which may be near 0. Lightning "
        "attention has no division; a norm stands behind it.",
    ),
)

# ---- the delta rule


def _delta(step: Callable) -> Callable:
    """A recurrence from one step: (S, q, k, v, decay, beta) with columns q, k; to (S, o)."""

    def answer(q, k, v, g, beta, state=None):
        S, out = _empty(k, v) if state is None else state, []
        for t in range(q.shape[2]):
            column = (q[:, :, t, :, None], k[:, :, t, :, None], v[:, :, t, None])
            S, o = step(S, *column, g[:, :, t, :, None].exp(), beta[:, :, t, None, None])
            out.append(o)
        return torch.cat(out, 2), S

    return answer


def _rule(S, q, k, v, a, b):
    S = a * S
    S = S + k @ (b * (v - k.mT @ S))
    return S, q.mT @ S


def _no_erase(S, q, k, v, a, b):
    S = a * S + k @ (b * v)
    return S, q.mT @ S


def _beta_twice(S, q, k, v, a, b):
    S = a * S
    S = S + b * (k @ (b * (v - k.mT @ S)))
    return S, q.mT @ S


def _beta_on_value(S, q, k, v, a, b):
    S = a * S
    S = S + k @ (b * v - k.mT @ S)
    return S, q.mT @ S


def _beta_on_recalled(S, q, k, v, a, b):
    S = a * S
    S = S + k @ (v - b * (k.mT @ S))
    return S, q.mT @ S


def _no_beta(S, q, k, v, a, b):
    return _rule(S, q, k, v, a, torch.ones_like(b))


def _decay_after(S, q, k, v, a, b):
    S = a * (S + k @ (b * (v - k.mT @ S)))
    return S, q.mT @ S


def _recalled_early(S, q, k, v, a, b):
    S = a * S + k @ (b * (v - k.mT @ S))
    return S, q.mT @ S


def _read_early(S, q, k, v, a, b):
    return _rule(S, q, k, v, a, b)[0], q.mT @ S


def _read_after_fading(S, q, k, v, a, b):
    return _rule(S, q, k, v, a, b)[0], q.mT @ (a * S)


def _transposed_write(S, q, k, v, a, b):
    S = a * S
    S = S + (k @ (b * (v - k.mT @ S))).mT
    return S, q.mT @ S


def _query_erases(S, q, k, v, a, b):
    S = a * S
    S = S + k @ (b * (v - q.mT @ S))
    return S, q.mT @ S


def _written_under_q(S, q, k, v, a, b):
    S = a * S
    S = S + q @ (b * (v - k.mT @ S))
    return S, q.mT @ S


def _wrong_sign(S, q, k, v, a, b):
    S = a * S
    S = S + k @ (b * (v + k.mT @ S))
    return S, q.mT @ S


def _read_by_key(S, q, k, v, a, b):
    S = _rule(S, q, k, v, a, b)[0]
    return S, k.mT @ S


def _state_in_place(S, q, k, v, a, b):
    S *= a
    S += k @ (b * (v - k.mT @ S))
    return S, q.mT @ S


def _changed(**changes: Callable) -> Callable:
    def answer(q, k, v, g, beta, state=None):
        given = {"q": q, "k": k, "g": g, "beta": beta}
        given |= {name: change(given[name]) for name, change in changes.items()}
        return _delta(_rule)(given["q"], given["k"], v, given["g"], given["beta"], state)

    return answer


RECURRENT_DELTA_RULE = (
    WrongAnswer(
        "nothing is erased",
        _delta(_no_erase),
        "This adds beta k v^T to what is there: linear attention. The delta rule stores what is "
        "NEW, the value less what the key recalls already: v - S^T k.",
    ),
    WrongAnswer(
        "beta twice",
        _delta(_beta_twice),
        "beta is in u already, and once more in the write: beta squared. S + k u^T.",
    ),
    WrongAnswer(
        "beta on the value alone",
        _delta(_beta_on_value),
        "With beta = 0 nothing should happen, but here the old value is erased. beta stands before "
        "the bracket: beta (v - S^T k).",
    ),
    WrongAnswer(
        "beta on what is recalled alone",
        _delta(_beta_on_recalled),
        "With beta = 0 nothing should happen, but here the value is written in full. beta stands "
        "before the bracket: beta (v - S^T k).",
    ),
    WrongAnswer(
        "beta left out",
        _delta(_no_beta),
        "Every token replaces in full. beta_t says how much of the old value goes.",
    ),
    WrongAnswer(
        "decay after the write",
        _delta(_decay_after),
        "What is written fades in its own step. Forget first, then recall, then write.",
    ),
    WrongAnswer(
        "recalled before forgetting",
        _delta(_recalled_early),
        "You recall from the state BEFORE it fades, and subtract more than is still there. Let it "
        "fade first, and ask the faded state.",
    ),
    WrongAnswer(
        "read before the write",
        _delta(_read_early),
        "The token does not see itself: read with q after the write.",
        also=(_delta(_read_after_fading),),
    ),
    WrongAnswer(
        "outer product transposed",
        _delta(_transposed_write),
        "This writes u k^T. The state is K x V: a column of k times a row of u.",
    ),
    WrongAnswer(
        "recalled with the query",
        _delta(_query_erases),
        "You erase what the QUERY recalls. What is about to be overwritten lies under the key.",
    ),
    WrongAnswer(
        "written under the query",
        _delta(_written_under_q),
        "You write under the query. The key says where a value goes, the query what is read.",
    ),
    WrongAnswer(
        "what is recalled is added",
        _delta(_wrong_sign),
        "v + S^T k doubles what is there. The difference is what is new: v - S^T k.",
    ),
    WrongAnswer(
        "read with the key",
        _delta(_read_by_key),
        "You read with the key, which gives back what was just written. Read with the query.",
    ),
    WrongAnswer(
        "g as the decay",
        _changed(g=lambda g: (-g).log()),
        "g is the logarithm of the decay: multiply the state by exp(g).",
        also=(_delta(lambda S, q, k, v, a, b: _rule(S, q, k, v, a.log(), b)),),
    ),
    WrongAnswer(
        "growing",
        _changed(g=lambda g: -g),
        "exp(-g) is above 1, so the state grows. g is at most 0 already: exp(g).",
    ),
    WrongAnswer(
        "no decay",
        _changed(g=lambda g: g * 0),
        "Nothing is forgotten. Multiply the state by exp(g) first.",
    ),
    WrongAnswer(
        "one decay for all channels",
        _changed(g=lambda g: g.mean(-1, keepdim=True)),
        "With G = K every channel of the key has a decay of its own: g[:, :, t, :, None] meets the "
        "rows of the state.",
        also=(_changed(g=lambda g: g[..., :1]),),
    ),
    WrongAnswer(
        "decay along the values",
        _delta(lambda S, q, k, v, a, b: _rule(S, q, k, v, a.mT, b)),
        "The decay meets the V columns of the state. It belongs to the K rows: "
        "g[:, :, t, :, None].exp().",
    ),
    WrongAnswer(
        "the state that was given is not used",
        lambda q, k, v, g, beta, state=None: _delta(_rule)(q, k, v, g, beta),
        "A state that is handed in belongs to the tokens before: start from it, and from zeros "
        "only when it is None.",
    ),
    WrongAnswer(
        "in place",
        _delta(_state_in_place),
        "The values are right, but the state that was handed in is overwritten. Its owner may "
        "still need it: S = ... makes a new one.",
    ),
    WrongAnswer(
        "scaled",
        _changed(q=lambda q: q / q.shape[-1] ** 0.5),
        "You divide the queries by sqrt(K). The layer has done that before it calls this function.",
    ),
)
