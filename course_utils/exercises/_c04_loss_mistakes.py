"""Wrong answers to the exercises on the two balancing losses of chapter 04."""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

# ---- the auxiliary loss


def _shares(experts_TK: Tensor, E: int, dtype: torch.dtype) -> Tensor:
    return torch.bincount(experts_TK.flatten(), minlength=E).to(dtype) / experts_TK.numel()


def _loss(experts_TK: Tensor, p_TE: Tensor, f_E: Tensor | None = None) -> Tensor:
    """The right loss, with another f or other probabilities."""
    E = p_TE.shape[-1]
    f_E = _shares(experts_TK, E, p_TE.dtype) if f_E is None else f_E
    return E * (f_E * p_TE.mean(0)).sum()


def _of_chosen(experts_TK: Tensor, p_TE: Tensor) -> Tensor:
    return p_TE * torch.zeros_like(p_TE).scatter(-1, experts_TK, 1)


def _renormalised(experts_TK: Tensor, p_TE: Tensor) -> Tensor:
    kept_TE = _of_chosen(experts_TK, p_TE)
    return kept_TE / kept_TE.sum(-1, keepdim=True)


def _no_minlength(experts_TK: Tensor, p_TE: Tensor) -> Tensor:
    f_E = torch.bincount(experts_TK.flatten()).to(p_TE.dtype) / experts_TK.numel()
    return _loss(experts_TK, p_TE, f_E)


def _rows_mixed(experts_TK: Tensor, p_TE: Tensor) -> Tensor:
    f_E = _shares(experts_TK, p_TE.shape[-1], p_TE.dtype)
    return p_TE.shape[-1] * (f_E * p_TE.mean(-1)).sum()


def _raw_counts(experts_TK: Tensor, p_TE: Tensor) -> Tensor:
    return _loss(experts_TK, p_TE) * experts_TK.numel()


def _k_for_e(experts_TK: Tensor, p_TE: Tensor) -> Tensor:
    return _loss(experts_TK, p_TE) * experts_TK.shape[-1] / p_TE.shape[-1]


LOAD_BALANCING_LOSS = (
    WrongAnswer(
        "not divided by k",
        lambda experts_TK, p_TE: experts_TK.shape[-1] * _loss(experts_TK, p_TE),
        "k times too large: f is a share of all T * k assignments, so that it sums to 1. You "
        "divide the counts by T, as `transformers` does; then even use gives k in place of 1.",
    ),
    WrongAnswer(
        "counts in place of shares",
        _raw_counts,
        "f is a count here, so the loss grows with the batch. Divide the counts by T * k: shares "
        "sum to 1.",
    ),
    WrongAnswer(
        "k in place of E",
        _k_for_e,
        "The factor is k, the number of columns of experts_TK. E is the number of columns of "
        "probabilities_TE.",
    ),
    WrongAnswer(
        "no factor E",
        lambda experts_TK, p_TE: _loss(experts_TK, p_TE) / p_TE.shape[-1],
        "E times too small. The factor E makes even use 1, however many experts there are. A mean "
        "over the experts in place of the sum is the same slip.",
    ),
    WrongAnswer(
        "P summed over the tokens",
        lambda experts_TK, p_TE: _loss(experts_TK, p_TE) * len(p_TE),
        "P is the mean over the tokens. With a sum, the loss grows with the batch.",
    ),
    WrongAnswer(
        "P detached",
        lambda experts_TK, p_TE: _loss(experts_TK, p_TE.detach()),
        "P is detached, and f is a count: nothing is left that could learn. f is the constant, P "
        "carries the gradient.",
    ),
    WrongAnswer(
        "counts on both sides",
        lambda experts_TK, p_TE: (
            p_TE.shape[-1] * _shares(experts_TK, p_TE.shape[-1], p_TE.dtype).square().sum()
        ),
        "f times f: counts have no gradient, so the router learns nothing. One factor must be P, "
        "the mean probability.",
    ),
    WrongAnswer(
        "probabilities on both sides",
        lambda experts_TK, p_TE: _loss(experts_TK, p_TE, p_TE.mean(0)),
        "P times P: it has a gradient, and it never looks at where the tokens went. One factor "
        "must be f, the counted shares.",
    ),
    WrongAnswer(
        "P over the chosen experts alone",
        lambda experts_TK, p_TE: _loss(experts_TK, _of_chosen(experts_TK, p_TE)),
        "P takes in the probabilities of the chosen experts alone. It is the mean over ALL "
        "experts' probabilities; otherwise those that are never chosen are never pulled up.",
        also=(lambda experts_TK, p_TE: _loss(experts_TK, _renormalised(experts_TK, p_TE)),),
    ),
    WrongAnswer(
        "first choice alone",
        lambda experts_TK, p_TE: _loss(experts_TK[:, :1], p_TE),
        "Only each token's first expert is counted, as in Switch, where k is 1. All T * k "
        "assignments count.",
    ),
    WrongAnswer(
        "bincount too short",
        _no_minlength,
        "bincount ends at the largest expert number that occurs, and the last experts may get "
        "nothing: torch.bincount(..., minlength=E).",
    ),
    WrongAnswer(
        "mean over the wrong dimension",
        _rows_mixed,
        "p.mean(-1) averages over the experts: 1 / E for each token. The mean is over the "
        "tokens: dim 0.",
    ),
    WrongAnswer(
        "softmax once more",
        lambda experts_TK, p_TE: _loss(experts_TK, p_TE.softmax(-1)),
        "The probabilities come in already: another softmax makes them nearly even, and the loss "
        "nearly blind.",
    ),
    WrongAnswer(
        "a number came back",
        lambda experts_TK, p_TE: float(_loss(experts_TK, p_TE)),
        "The value is right, but float(...) or .item() cuts the gradient off: return the tensor.",
    ),
    WrongAnswer(
        "one value for each expert",
        lambda experts_TK, p_TE: (
            p_TE.shape[-1] * _shares(experts_TK, p_TE.shape[-1], p_TE.dtype) * p_TE.mean(0)
        ),
        "One value for each expert came back. The loss is their sum.",
    ),
)

# ---- the sequence-level loss


def _sequences(experts_BTK: Tensor, shares_BTE: Tensor) -> Tensor:
    """The loss of each sequence (B,), from shares that sum to 1."""
    E = shares_BTE.shape[-1]
    f_BE = F.one_hot(experts_BTK, E).to(shares_BTE.dtype).mean((1, 2))
    return E * (f_BE * shares_BTE.mean(1)).sum(-1)


def _normalised(scores_BTE: Tensor, dim: int = -1) -> Tensor:
    return scores_BTE / scores_BTE.sum(dim, keepdim=True)


def _chosen_shares(experts_BTK: Tensor, scores_BTE: Tensor) -> Tensor:
    kept_BTE = scores_BTE * torch.zeros_like(scores_BTE).scatter(-1, experts_BTK, 1)
    return _normalised(kept_BTE)


def _numbers(e_BTK: Tensor, s_BTE: Tensor) -> float:
    return float(_sequences(e_BTK, _normalised(s_BTE)).mean())


def _in_place(e_BTK: Tensor, s_BTE: Tensor) -> Tensor:
    s_BTE /= s_BTE.sum(-1, keepdim=True)
    return _sequences(e_BTK, s_BTE).mean()


def _no_keepdim(e_BTK: Tensor, s_BTE: Tensor) -> Tensor:
    return _sequences(e_BTK, s_BTE / s_BTE.sum(-1)).mean()


def _one_sum(e_BTK: Tensor, s_BTE: Tensor) -> Tensor:
    return _sequences(e_BTK, s_BTE / s_BTE.sum()).mean()


SEQUENCE_BALANCE_LOSS = (
    WrongAnswer(
        "sequences pooled",
        lambda e_BTK, s_BTE: _loss(e_BTK.flatten(0, 1), _normalised(s_BTE).flatten(0, 1)),
        "The sequences are joined before f and P are multiplied, so that two sequences on "
        "different experts look balanced together. One loss for each sequence, then the mean.",
    ),
    WrongAnswer(
        "scores not normalised",
        lambda e_BTK, s_BTE: _sequences(e_BTK, s_BTE).mean(),
        "Scores may be sigmoids, which do not sum to 1. Divide each token's scores by their sum "
        "over the experts first.",
    ),
    WrongAnswer(
        "normalised over the tokens",
        lambda e_BTK, s_BTE: _sequences(e_BTK, _normalised(s_BTE, 1)).mean(),
        "You divide by the sum over the tokens, dim 1. A token's shares sum to 1 over the experts, "
        "the last dimension.",
    ),
    WrongAnswer(
        "softmax of the scores",
        lambda e_BTK, s_BTE: _sequences(e_BTK, s_BTE.softmax(-1)).mean(),
        "A softmax of the scores gives other shares. Divide them by their sum (equation 19).",
    ),
    WrongAnswer(
        "divided by one sum of everything",
        _one_sum,
        "You divide by the sum of ALL scores. Each token's scores are divided by that token's own "
        "sum: .sum(-1, keepdim=True).",
    ),
    WrongAnswer(
        "sum without keepdim",
        _no_keepdim,
        "scores.sum(-1) has lost the last dimension, so the shapes no longer line up: "
        ".sum(-1, keepdim=True).",
    ),
    WrongAnswer(
        "in place",
        _in_place,
        "The scores that were handed in are changed (/=). The router's weights are made of them: "
        "make new ones.",
    ),
    WrongAnswer(
        "a number came back",
        _numbers,
        "The value is right, but float(...) or .item() cuts the gradient off: stay with tensors.",
    ),
    WrongAnswer(
        "sum over the sequences",
        lambda e_BTK, s_BTE: _sequences(e_BTK, _normalised(s_BTE)).sum(),
        "The sum over sequences grows with the batch. Take their mean.",
    ),
    WrongAnswer(
        "no mean",
        lambda e_BTK, s_BTE: _sequences(e_BTK, _normalised(s_BTE)),
        "One loss for each sequence came back. Training needs one number: their mean.",
    ),
    WrongAnswer(
        "not divided by k",
        lambda e_BTK, s_BTE: e_BTK.shape[-1] * _sequences(e_BTK, _normalised(s_BTE)).mean(),
        "k times too large: the factor of f is E / (k T) (equation 18), so that even use gives 1.",
    ),
    WrongAnswer(
        "shares of the chosen alone",
        lambda e_BTK, s_BTE: _sequences(e_BTK, _chosen_shares(e_BTK, s_BTE)).mean(),
        "The scores are divided by the sum over the CHOSEN experts. Equation 19 divides by the sum "
        "over all of them, so that the others have a gradient too.",
    ),
    WrongAnswer(
        "detached",
        lambda e_BTK, s_BTE: _sequences(e_BTK, _normalised(s_BTE).detach()).mean(),
        "The value is right, but the scores are detached: f is a count, so nothing could learn.",
        also=(lambda e_BTK, s_BTE: torch.tensor(_numbers(e_BTK, s_BTE)),),
    ),
)
