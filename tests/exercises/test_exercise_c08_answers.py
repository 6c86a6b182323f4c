"""Chapter 08: right answers in other styles pass, and mistakes as learners type them are named."""

import pytest
import torch
import torch.nn.functional as F

from course_utils.exercises import catalog
from course_utils.exercises.judge import judge, prepare

SEEDS = (0, 1, 2)
_tasks: dict = {}


def judged(name: str, answer, seed: int = 0):
    """The verdict on an answer to c08.name."""
    if (name, seed) not in _tasks:
        _tasks[name, seed] = prepare(catalog.find(f"c08.{name}"), seed)
    return judge(_tasks[name, seed], answer)


# ---- right answers in other styles


def window_by_loops(query_T, key_S, window):
    rows = [[t - window < s <= t for s in key_S.tolist()] for t in query_T.tolist()]
    return torch.tensor(rows)


def window_by_less_than(query_T, key_S, window):
    oldest_T1 = query_T.unsqueeze(1) - window + 1
    return key_S.ge(oldest_T1).logical_and(key_S.le(query_T.unsqueeze(1)))


def scores_by_einsum(q, k, w):
    return torch.einsum("bth,bhts->bts", w, F.relu(torch.einsum("bhtd,bsd->bhts", q, k)))


def scores_head_by_head(q, k, w):
    total = 0
    for h in range(q.shape[1]):
        total = total + w[:, :, h, None] * (q[:, h] @ k.transpose(1, 2)).clamp(min=0)
    return total


def choice_by_scatter(scores, k, mask):
    hidden = torch.where(mask, scores, torch.tensor(float("-inf")))
    best = torch.topk(hidden, min(k, scores.size(-1)), -1).indices
    read = torch.zeros(scores.shape, dtype=torch.bool)
    read.scatter_(-1, best, True)
    return read & mask


def choice_by_sorting(scores, k, mask):
    order = scores.masked_fill(~mask, -torch.inf).argsort(-1, descending=True)
    return (order.argsort(-1) < k) & mask


def choice_by_loops(scores, k, mask):
    mask = mask.expand(scores.shape)
    read = torch.zeros_like(mask)
    for b in range(scores.shape[0]):
        for t in range(scores.shape[1]):
            seen = [s for s in range(scores.shape[2]) if mask[b, t, s]]
            for s in sorted(seen, key=lambda s: -scores[b, t, s].item())[:k]:
                read[b, t, s] = True
    return read


def kl_of_pytorch(target, scores, mask):
    log_q = scores.masked_fill(~mask, float("-inf")).log_softmax(-1).masked_fill(~mask, 0)
    return F.kl_div(log_q, target, reduction="sum") / (target.shape[0] * target.shape[1])


def kl_with_a_large_negative(target, scores, mask):
    log_q = scores.masked_fill(~mask, -1e9).log_softmax(-1)
    return (torch.xlogy(target, target) - target * log_q).sum(-1).mean()


def kl_with_a_small_number(target, scores, mask):
    q = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return (target * ((target + 1e-9).log() - (q + 1e-9).log())).sum(-1).mean()


def kl_where_positive(target, scores, mask):
    log_q = scores.masked_fill(~mask, -1e30).log_softmax(-1)
    terms = torch.where(target > 0, target * (target.clamp(min=1e-30).log() - log_q), 0.0)
    return terms.sum(-1).mean()


def lightning_by_pairs(q, k, v, slope, state=None):
    B, H, T, K = k.shape
    state = v.new_zeros(B, H, K, v.shape[-1]) if state is None else state
    distance = torch.arange(T)[:, None] - torch.arange(T)
    fade = (-slope[:, None, None] * distance).exp() * (distance >= 0)
    since = torch.arange(1, T + 1)
    out = (q @ k.mT * fade) @ v + (q * (-slope[:, None] * since).exp()[..., None]) @ state
    left = (-slope[:, None] * (T - since)).exp()[..., None]
    return out, (-slope * T).exp()[:, None, None] * state + (k * left).mT @ v


def lightning_by_einsum(q, k, v, slope, state=None):
    S = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if state is None else state.clone()
    outs = []
    for t in range(k.shape[2]):
        S = S * torch.exp(-slope).view(1, -1, 1, 1)
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, :, t], v[:, :, t])
        outs.append(torch.einsum("bhk,bhkv->bhv", q[:, :, t], S))
    return torch.stack(outs, dim=2), S


def delta_by_einsum(q, k, v, g, beta, state=None):
    S = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if state is None else state.clone()
    outs = []
    for t in range(k.shape[2]):
        S = S * g[:, :, t].exp().unsqueeze(-1)
        recalled = torch.einsum("bhk,bhkv->bhv", k[:, :, t], S)
        new = (v[:, :, t] - recalled) * beta[:, :, t, None]
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, :, t], new)
        outs.append(torch.einsum("bhk,bhkv->bhv", q[:, :, t], S))
    return torch.stack(outs, 2), S


def delta_as_a_matrix(q, k, v, g, beta, state=None):
    """(I - beta k k^T) Diag(decay) S + beta k v^T, as the papers write it."""
    K = k.shape[-1]
    S = v.new_zeros(*k.shape[:2], K, v.shape[-1]) if state is None else state
    out = torch.empty(*v.shape)
    for t in range(k.shape[2]):
        kt, b = k[:, :, t, :, None], beta[:, :, t, None, None]
        erase = torch.eye(K) - b * kt @ kt.transpose(-1, -2)
        S = erase @ (g[:, :, t, :, None].exp() * S) + b * kt * v[:, :, t, None, :]
        out[:, :, t] = (q[:, :, t, None, :] @ S)[:, :, 0]
    return out, S


RIGHT = [
    ("window_mask", window_by_loops),
    ("window_mask", window_by_less_than),
    ("index_scores", scores_by_einsum),
    ("index_scores", scores_head_by_head),
    ("choose_tokens", choice_by_scatter),
    ("choose_tokens", choice_by_sorting),
    ("choose_tokens", choice_by_loops),
    ("indexer_kl", kl_of_pytorch),
    ("indexer_kl", kl_with_a_large_negative),
    ("indexer_kl", kl_with_a_small_number),
    ("indexer_kl", kl_where_positive),
    ("recurrent_lightning", lightning_by_pairs),
    ("recurrent_lightning", lightning_by_einsum),
    ("recurrent_delta_rule", delta_by_einsum),
    ("recurrent_delta_rule", delta_as_a_matrix),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name, answer", RIGHT, ids=[answer.__name__ for _, answer in RIGHT])
def test_other_styles_pass(name, answer, seed):
    verdict = judged(name, answer, seed)
    assert verdict.passed, (verdict.smallest.case.says, verdict.smallest.differences)


# ---- mistakes as learners type them


def window_tril_triu(query_T, key_S, window):
    T = len(query_T)
    return torch.ones(T, T).tril().triu(-window + 1).bool()


def window_or(query_T, key_S, window):
    d = query_T[:, None] - key_S
    return (d >= 0) | (d < window)


def window_squeezed(query_T, key_S, window):
    d = key_S.unsqueeze(1) - query_T.unsqueeze(0)
    return (d >= 0) & (d < window)


def scores_softmaxed_weights_per_token(q, k, w):
    s = F.relu(q @ k.unsqueeze(1).transpose(-1, -2))
    return (s * w.permute(0, 2, 1).unsqueeze(-1)).mean(1)


def scores_relu_on_the_sum(q, k, w):
    s = torch.einsum("bhtd,bsd->bhts", q, k)
    return F.relu(torch.einsum("bth,bhts->bts", w, s))


def scores_relu_queries(q, k, w):
    return torch.einsum("bth,bhts->bts", w, torch.einsum("bhtd,bsd->bhts", q.relu(), k.relu()))


def choice_masked_to_zero(scores, k, mask):
    hidden = scores * mask.float()
    idx = hidden.topk(min(k, scores.shape[-1])).indices
    return torch.zeros_like(scores).scatter(-1, idx, 1).bool() & mask


def choice_no_min(scores, k, mask):
    idx = scores.masked_fill(~mask, -1e9).topk(k).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, idx, True) & mask


def choice_floats(scores, k, mask):
    idx = scores.masked_fill(~mask, float("-inf")).topk(min(k, scores.shape[-1])).indices
    return torch.zeros_like(scores).scatter(-1, idx, 1.0) * mask


def kl_batchmean(target, scores, mask):
    log_q = scores.masked_fill(~mask, -1e9).log_softmax(-1)
    return F.kl_div(log_q, target, reduction="batchmean")


def kl_default_mean(target, scores, mask):
    log_q = scores.masked_fill(~mask, -1e9).log_softmax(-1)
    return F.kl_div(log_q, target)


def kl_swapped(target, scores, mask):
    q = scores.masked_fill(~mask, -1e9).softmax(-1)
    return (q * ((q + 1e-9).log() - (target + 1e-9).log())).sum(-1).mean()


def kl_infinite(target, scores, mask):
    log_q = scores.masked_fill(~mask, float("-inf")).log_softmax(-1)
    return F.kl_div(log_q, target, reduction="sum") / target[..., 0].numel()


def lightning_decay_at_end(q, k, v, slope, state=None):
    S = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if state is None else state
    out = []
    for t in range(k.shape[2]):
        S = S + k[:, :, t].unsqueeze(-1) * v[:, :, t].unsqueeze(-2)
        out.append((q[:, :, t].unsqueeze(-2) @ S).squeeze(-2))
        S = S * torch.exp(-slope)[None, :, None, None]
    return torch.stack(out, 2), S


def delta_error_against_value(q, k, v, g, beta, state=None):
    S = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if state is None else state.clone()
    out = []
    for t in range(k.shape[2]):
        kt, vt = k[:, :, t, :, None], v[:, :, t, None, :]
        S = S * g[:, :, t, :, None].exp()
        S = S + beta[:, :, t, None, None] * kt @ vt
        out.append(q[:, :, t, None, :] @ S)
    return torch.cat(out, 2), S


def delta_old_state(q, k, v, g, beta, state=None):
    S = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if state is None else state.clone()
    out = []
    for t in range(k.shape[2]):
        kt, vt = k[:, :, t, :, None], v[:, :, t, None, :]
        u = beta[:, :, t, None, None] * (vt - kt.mT @ S)
        S = S * g[:, :, t, :, None].exp() + kt @ u
        out.append(q[:, :, t, None, :] @ S)
    return torch.cat(out, 2), S


def delta_in_place(q, k, v, g, beta, state=None):
    S = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if state is None else state
    out = []
    for t in range(k.shape[2]):
        kt, vt = k[:, :, t, :, None], v[:, :, t, None, :]
        S *= g[:, :, t, :, None].exp()
        S += kt @ (beta[:, :, t, None, None] * (vt - kt.mT @ S))
        out.append(q[:, :, t, None, :] @ S)
    return torch.cat(out, 2), S


NAMED = [
    ("window_mask", window_tril_triu, "places and not positions"),
    ("window_mask", window_or, "or in place of and"),
    ("window_mask", window_squeezed, "rows and columns exchanged"),
    ("index_scores", scores_softmaxed_weights_per_token, "mean over the heads"),
    ("index_scores", scores_relu_on_the_sum, "sum before ReLU"),
    ("index_scores", scores_relu_queries, "ReLU before the product"),
    ("choose_tokens", choice_masked_to_zero, "hidden by zero"),
    ("choose_tokens", choice_no_min, "k larger than the text"),
    ("choose_tokens", choice_floats, "not booleans"),
    ("indexer_kl", kl_batchmean, "divided by the batch alone"),
    ("indexer_kl", kl_default_mean, "mean over all entries"),
    ("indexer_kl", kl_swapped, "the other direction"),
    ("indexer_kl", kl_infinite, "0 times infinity"),
    ("recurrent_lightning", lightning_decay_at_end, "the state fades once too often"),
    ("recurrent_delta_rule", delta_error_against_value, "nothing is erased"),
    ("recurrent_delta_rule", delta_old_state, "recalled before forgetting"),
    ("recurrent_delta_rule", delta_in_place, "in place"),
]


@pytest.mark.parametrize(
    "name, answer, mistake", NAMED, ids=[answer.__name__ for _, answer, _ in NAMED]
)
def test_mistakes_are_named(name, answer, mistake):
    verdict = judged(name, answer)
    assert not verdict.passed
    assert verdict.mistake is not None, verdict.smallest.differences
    assert verdict.mistake.name == mistake
