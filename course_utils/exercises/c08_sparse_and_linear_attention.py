"""The exercises of chapter 08: a window, an indexer and its loss, and two states of fixed size.

The wrong answers stand in `_c08_choice_mistakes.py` and `_c08_mistakes.py` beside this file.
"""

import random
from typing import Any

import torch
from torch import Tensor

from course_utils.attention.delta_rule import recurrent_delta_rule
from course_utils.attention.dsa import indexer_kl
from course_utils.attention.gqa import causal_mask
from course_utils.attention.indexer import choose_tokens, index_scores
from course_utils.attention.lightning import recurrent_lightning
from course_utils.attention.window import window_mask
from course_utils.exercises import _c08_choice_mistakes as choice_mistakes
from course_utils.exercises import _c08_mistakes as mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- the window


def _window_cases(rng: random.Random) -> list[Case]:
    all_T = torch.arange(8)
    start = rng.randint(2, 5)
    ring_S = torch.tensor([4, 5, 2, 3])
    return [
        Case((all_T[:3], all_T[:3], 1), "three tokens, W = 1: each sees itself"),
        Case((all_T[:4], all_T[:4], 2), "four tokens, W = 2"),
        Case((all_T[:4], all_T[:4], 9), "four tokens, W = 9: the window is longer than the text"),
        Case((all_T[5:6], all_T[:6], 3), "token 5 alone, over tokens 0 to 5, W = 3"),
        Case((all_T[5:6], ring_S, 3), "token 5, and keys 4, 5, 2, 3 as a cache holds them, W = 3"),
        Case((all_T[start : start + 3], all_T, 4), f"tokens from {start} on over 8 keys, W = 4"),
    ]


WINDOW_MASK = ExerciseSpec(
    name="c08.window_mask",
    title="A sliding window",
    why="Off by one, the mask and the cache disagree: the model trains on W + 1 tokens and is "
    "served with W.",
    reference=window_mask,
    cases=_window_cases,
    wrong_answers=choice_mistakes.WINDOW_MASK,
    hints=(
        "How far back is key s from query t? Which distances are inside a window of W = 1?",
        "distance_TS = query_T[:, None] - key_S[None, :] has a row for each query.",
        "(distance_TS >= 0) & (distance_TS < window)",
    ),
)

# ---- index scores


def _score_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    q, k = torch.tensor([[[[1.0]], [[-1.0]]]]), torch.tensor([[[2.0], [-3.0]]])
    cases = [
        Case((q[:, :1], k, torch.tensor([[[0.5]]])), "one head, one query, keys 2 and -3"),
        Case((q, k, torch.tensor([[[1.0, -1.0]]])), "two heads, weights 1 and -1"),
    ]
    for B, H, T, S, d in ((1, 2, 3, 3, 2), (2, 3, 2, 5, 4), (2, 4, 6, 7, 8)):
        q, k = torch.randn(B, H, T, d, generator=g), torch.randn(B, S, d, generator=g)
        w = torch.randn(B, T, H, generator=g)
        cases.append(Case((q, k, w), f"batch {B}, {H} heads of {d}, {T} queries, {S} keys"))
    return cases


INDEX_SCORES = ExerciseSpec(
    name="c08.index_scores",
    title="The lightning indexer's scores",
    why="This is the only part of sparse attention whose cost still grows with the text.",
    reference=index_scores,
    cases=_score_cases,
    wrong_answers=choice_mistakes.INDEX_SCORES,
    hints=(
        "Products first, (B, H, T, S): one key serves all heads. Then ReLU, then the weights, then "
        "the sum over heads.",
        "q_BHTd @ k_BSd[:, None].mT gives the products; w_BTH.transpose(1, 2)[..., None] is "
        "(B, H, T, 1).",
        "(w_BTH.transpose(1, 2)[..., None] * products_BHTS.relu()).sum(dim=1)",
    ),
)

# ---- the choice


def _choice_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    by_hand = torch.tensor([[[3.0, 9.0, 8.0], [1.0, 2.0, 7.0], [5.0, -4.0, 6.0]]])
    negative = -1 - torch.rand(1, 5, 5, generator=g)
    cases = [
        Case((by_hand, 1, causal_mask(3, 3)), "three tokens, k = 1, causal"),
        Case((by_hand, 2, causal_mask(3, 3)), "three tokens, k = 2, causal"),
        Case((by_hand, 4, causal_mask(3, 3)), "three tokens, k = 4: all that are visible"),
        Case((negative, 2, causal_mask(5, 5)), "five tokens, k = 2, all scores negative"),
    ]
    for B, T, S, k in ((2, 4, 6, 3), (2, 8, 8, 3)):
        scores = torch.randn(B, T, S, generator=g)
        says = f"batch {B}, {T} queries, {S} keys, k = {k}"
        cases.append(Case((scores, k, causal_mask(T, S)), says))
    padded = causal_mask(6, 6).expand(2, 6, 6).clone()
    padded[1, :, 0] = False
    padded[1, 0, 0] = True
    scores = torch.randn(2, 6, 6, generator=g)
    return [*cases, Case((scores, 2, padded), "batch 2 with a mask of its own each, k = 2")]


CHOOSE_TOKENS = ExerciseSpec(
    name="c08.choose_tokens",
    title="The k best tokens, causally",
    why="A choice that sees the future makes a wonderful training curve and a useless model.",
    reference=choose_tokens,
    cases=_choice_cases,
    wrong_answers=choice_mistakes.CHOOSE_TOKENS,
    hints=(
        "What must be hidden before the k best are taken? And what does topk return when a query "
        "sees fewer than k tokens?",
        "best_BTk = scores_BTS.masked_fill(~mask, -torch.inf).topk(min(k, S), dim=-1).indices",
        "torch.zeros_like(scores_BTS, dtype=torch.bool).scatter(-1, best_BTk, True) & mask",
    ),
)

# ---- the indexer's loss


def _target(B: int, T: int, S: int, g: torch.Generator, mask: Tensor) -> Tensor:
    """Attention weights that sum to 1; some are exactly 0 inside the mask too."""
    scores = 2 * torch.randn(B, T, S, generator=g)
    hidden = (torch.rand(B, T, S, generator=g) < 0.2) | ~mask
    own = torch.eye(S, dtype=torch.bool)[S - T :]
    return scores.masked_fill(hidden & ~own, -torch.inf).softmax(dim=-1)


def _kl_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    open_11 = torch.ones(1, 2, dtype=torch.bool)
    cases = [
        Case((torch.tensor([[[0.5, 0.5]]]), torch.zeros(1, 1, 2), open_11), "one query, KL = 0"),
        Case((torch.tensor([[[0.75, 0.25]]]), torch.zeros(1, 1, 2), open_11), "one query"),
        Case((torch.tensor([[[1.0, 0.0]]]), torch.zeros(1, 1, 2), open_11), "a weight of 0"),
    ]
    for B, T, S in ((1, 2, 2), (2, 3, 5), (3, 6, 6)):
        mask = causal_mask(T, S)
        scores = torch.randn(B, T, S, generator=g)
        says = f"batch {B}, {T} queries, {S} keys, causal"
        cases.append(Case((_target(B, T, S, g, mask), scores, mask), says))
    mask = (torch.rand(2, 5, 5, generator=g) < 0.5) | torch.eye(5, dtype=torch.bool)
    mask = mask & causal_mask(5, 5)
    target = _target(2, 5, 5, g, mask)
    cases.append(Case((target, torch.randn(2, 5, 5, generator=g), mask), "over chosen tokens only"))
    for case in cases:
        case.args[1].requires_grad_()
    return cases


def _loss_and_slope(loss: Any, args: tuple) -> Any:
    """The loss, and its gradient for the scores."""
    if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
        return loss
    slope = torch.autograd.grad(loss, args[1], allow_unused=True)[0] if loss.requires_grad else None
    return {"loss": loss.detach(), "gradient for the scores": slope}


INDEXER_KL = ExerciseSpec(
    name="c08.indexer_kl",
    title="The indexer's loss",
    why="Choosing has no gradient. This loss is the only teacher that an indexer has.",
    reference=indexer_kl,
    cases=_kl_cases,
    wrong_answers=mistakes.INDEXER_KL,
    hints=(
        "KL(p || q) = sum p log p - sum p log q, for each query. Which q do hidden tokens get, and "
        "what is 0 times its logarithm?",
        "log_q = scores_BTS.masked_fill(~mask_BTS, -torch.inf).log_softmax(-1), then "
        ".masked_fill(~mask_BTS, 0.0); torch.special.xlogy(p, p) is 0 at p = 0.",
        "(torch.special.xlogy(p, p) - p * log_q).sum(dim=-1).mean()",
    ),
    observe=_loss_and_slope,
)

# ---- states


def _normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g)


def _lightning_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    one = torch.ones(1, 1, 2, 1)
    cases = [
        Case((one[:, :, :1], one[:, :, :1], 3 * one[:, :, :1], torch.ones(1)), "one token"),
        Case((one, one, torch.tensor([[[[3.0], [5.0]]]]), torch.ones(1)), "two tokens, one key"),
    ]
    for B, H, T, K, V in ((1, 2, 3, 2, 2), (2, 3, 5, 3, 4), (1, 4, 6, 4, 4)):
        q, k, v = _normal(g, B, H, T, K), _normal(g, B, H, T, K), _normal(g, B, H, T, V)
        slope = torch.linspace(0.1, 0.6, H)
        says = f"batch {B}, {H} heads, {count(T, 'token')}, K = {K}, V = {V}"
        cases.append(Case((q, k, v, slope), says))
        given = (q, k, v, slope, _normal(g, B, H, K, V))
        cases.append(Case(given, says + ", from a state on"))
    return cases


RECURRENT_LIGHTNING = ExerciseSpec(
    name="c08.recurrent_lightning",
    title="A state that fades",
    why="Three lines replace a cache that grows with the text.",
    reference=recurrent_lightning,
    cases=_lightning_cases,
    wrong_answers=mistakes.RECURRENT_LIGHTNING,
    hints=(
        "A loop over the tokens with one matrix for each head. In which order: fade, write, read?",
        "decay_H11 = (-slope_H).exp()[:, None, None]; k_BHTK[:, :, t, :, None] is a column and "
        "v_BHTV[:, :, t, None] a row, so their product is K x V.",
        "S = decay_H11 * S + column * row; out.append(q_BHTK[:, :, t, None] @ S); at the end "
        "torch.cat(out, dim=2), S",
    ),
    atol=1e-5,
)


def _delta_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    one, two = torch.ones(1, 1, 2, 1), torch.tensor([[[[3.0], [5.0]]]])
    full = torch.ones(1, 1, 2)
    cases = [
        Case(
            (one[:, :, :1], one[:, :, :1], two[:, :, :1], one[:, :, :1] * 0, full[..., :1]),
            "one token, beta = 1, no decay: what is written is read",
        ),
        Case((one, one, two, one * 0, full), "two values under one key, beta = 1, no decay"),
        Case((one, one, two, one * 0, full / 2), "the same with beta = 0.5"),
        Case((one, one, two, -one, full), "the same with a decay of exp(-1)"),
    ]
    for B, H, T, K, V, G in ((1, 1, 3, 2, 2, 1), (1, 2, 4, 3, 3, 3), (2, 3, 5, 4, 2, 4)):
        q, k, v = _normal(g, B, H, T, K), _normal(g, B, H, T, K), _normal(g, B, H, T, V)
        q, k = torch.nn.functional.normalize(q, dim=-1), torch.nn.functional.normalize(k, dim=-1)
        decay = -0.05 - torch.rand(B, H, T, G, generator=g)
        beta = 0.1 + 0.8 * torch.rand(B, H, T, generator=g)
        says = f"batch {B}, {count(H, 'head')}, {T} tokens, K = {K}, V = {V}, "
        says += "one decay a head" if G == 1 else "a decay for each channel"
        cases.append(Case((q, k, v, decay, beta), says))
        given = (q, k, v, decay, beta, _normal(g, B, H, K, V))
        cases.append(Case(given, says + ", from a state on"))
    return cases


RECURRENT_DELTA_RULE = ExerciseSpec(
    name="c08.recurrent_delta_rule",
    title="The gated delta rule",
    why="Qwen3-Next and Kimi Linear replace three of four attention layers by these lines.",
    reference=recurrent_delta_rule,
    cases=_delta_cases,
    wrong_answers=mistakes.RECURRENT_DELTA_RULE,
    hints=(
        "Four lines a token: forget, recall, write, read. Which state does the key ask?",
        "With columns q, k of shape (B, H, K, 1): k.mT @ S is the row that the key recalls, and "
        "k @ u writes the row u under it. g_BHTG[:, :, t, :, None].exp() meets the rows of S.",
        "S = decay * S; u = beta_BHT[:, :, t, None, None] * (v_BHTV[:, :, t, None] - k.mT @ S); "
        "S = S + k @ u; out.append(q.mT @ S)",
    ),
    atol=1e-5,
)


EXERCISES = [
    WINDOW_MASK,
    INDEX_SCORES,
    CHOOSE_TOKENS,
    INDEXER_KL,
    RECURRENT_LIGHTNING,
    RECURRENT_DELTA_RULE,
]
