"""The exercises of chapter 04: how uneven experts are used, and two ways to make it even.

The wrong answers stand in the files `_c04_*mistakes.py` beside this one.
"""

import random

import torch
from torch import Tensor

from course_utils.exercises import _c04_loss_mistakes as loss_mistakes
from course_utils.exercises import _c04_mistakes as mistakes
from course_utils.exercises import _c04_routing_mistakes as routing_mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count
from course_utils.moe.balance import load_balancing_loss, sequence_balance_loss, update_bias
from course_utils.moe.load import max_violation
from course_utils.moe.routing import route_with_bias
from course_utils.moe.rules import limit_to_groups


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- MaxVio


def _counts_cases(rng: random.Random) -> list[Case]:
    cases = [
        Case((torch.tensor([3, 3]),), "two experts with 3 tokens each"),
        Case((torch.tensor([4, 0, 0, 0]),), "one expert gets everything"),
        Case((torch.tensor([3, 3, 3, 0]),), "three alike, one idle"),
        Case((torch.tensor([9, 5, 5, 5, 4]),), "five experts, mean 5.6"),
    ]
    for experts in (6, 16):
        counts = [rng.randint(0, 40) for _ in range(experts - 1)]
        cases.append(Case((torch.tensor([*counts, 45]),)))
    return cases


MAX_VIOLATION = ExerciseSpec(
    name="c04.max_violation",
    title="MaxVio",
    why="All devices wait for the busiest expert, so this number is the time that imbalance costs.",
    reference=max_violation,
    cases=_counts_cases,
    wrong_answers=mistakes.MAX_VIOLATION,
    hints=(
        "Which expert keeps the others waiting? By how much is it above the mean load?",
        "counts_E.double() makes floating-point numbers of the counts; then .max() and .mean().",
        "float(loads_E.max() / loads_E.mean() - 1)",
    ),
)


# ---- the auxiliary loss


def _routed(g: torch.Generator, tokens: int, experts: int, k: int) -> tuple[Tensor, Tensor]:
    """Chosen experts and probabilities of a skewed router; not the k likeliest, as with a bias."""
    skew_E = torch.linspace(2, -2, experts)
    p_TE = (torch.randn(tokens, experts, generator=g) + skew_E).softmax(-1)
    chosen_TK = (p_TE + 0.3 * torch.rand(tokens, experts, generator=g)).topk(k).indices
    return chosen_TK, p_TE


def _balance_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    collapsed = torch.tensor([[0, 1], [1, 0], [0, 1]]), torch.tensor([[0.5, 0.5, 0, 0]] * 3)
    cases = [
        Case((torch.tensor([[0]]), torch.tensor([[0.75, 0.25]])), "one token, two experts, k = 1"),
        Case(collapsed, "three tokens, all on experts 0 and 1 of 4: collapsed, E / k = 2"),
    ]
    for tokens, experts, k in ((3, 4, 2), (8, 6, 2), (16, 5, 5), (20, 16, 3)):
        says = f"{count(tokens, 'token')}, {experts} experts, k = {k}"
        cases.append(Case(_routed(g, tokens, experts, k), says))
    return cases


LOAD_BALANCING_LOSS = ExerciseSpec(
    name="c04.load_balancing_loss",
    title="The auxiliary loss",
    why="Which of its two factors has a gradient decides whether it balances anything.",
    reference=load_balancing_loss,
    cases=_balance_cases,
    wrong_answers=loss_mistakes.LOAD_BALANCING_LOSS,
    hints=(
        "Two vectors of length E: the share of the assignments that each expert got, and its mean "
        "probability. Which of the two can learn?",
        "f_E = expert_counts(experts_TK, E) / experts_TK.numel(), and P_E = "
        "probabilities_TE.mean(0).",
        "E * (f_E * P_E).sum()",
    ),
    gradients=True,
)


# ---- the sequence-level loss


def _sequence_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    chosen = torch.tensor([[[0], [0]], [[1], [1]]])
    scores = torch.tensor([[[0.75, 0.25]] * 2, [[0.25, 0.75]] * 2])
    cases = [Case((chosen, scores), "two sequences of two tokens, each on an expert of its own")]
    for batch, tokens, experts, k in ((1, 1, 3, 2), (2, 4, 4, 2), (3, 5, 6, 3)):
        scores = (torch.randn(batch, tokens, experts, generator=g) * 2).sigmoid()
        chosen = (scores + 0.3 * torch.rand(batch, tokens, experts, generator=g)).topk(k).indices
        says = f"{count(batch, 'sequence')} of {count(tokens, 'token')}, {experts} experts, k = {k}"
        cases.append(Case((chosen, scores), says))
    return cases


SEQUENCE_BALANCE_LOSS = ExerciseSpec(
    name="c04.sequence_balance_loss",
    title="Balance within a sequence",
    why="DeepSeek-V3 keeps this loss, very small, beside its bias: a single long prompt is served "
    "by few devices too.",
    reference=sequence_balance_loss,
    cases=_sequence_cases,
    wrong_answers=loss_mistakes.SEQUENCE_BALANCE_LOSS,
    hints=(
        "It is the auxiliary loss once for each sequence. What must be done to the scores first?",
        "shares_BTE = scores_BTE / scores_BTE.sum(-1, keepdim=True)",
        "A loop over zip(experts_BTK, shares_BTE) with load_balancing_loss, then "
        "torch.stack(losses).mean().",
    ),
    gradients=True,
)


# ---- the router with a bias


def _bias_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    bias = torch.tensor([-0.5, 0.0, 0.0, 0.4])
    cases = [
        Case((logits, torch.zeros(4), 2), "one token, a bias of zeros"),
        Case((logits, bias, 2), "one token, a bias that changes the choice"),
        Case((logits, bias, 2, 2.5), "the same with scale = 2.5"),
        Case((logits, bias - 2, 2), "a bias of about -2 for all: score + bias is negative"),
    ]
    for tokens, experts, k, scale in ((3, 5, 1, 1.0), (3, 4, 4, 1.0), (6, 8, 2, 2.5)):
        logits = torch.randn(tokens, experts, generator=g) * 2
        bias = torch.randn(experts, generator=g) * 0.5
        says = f"{tokens} tokens, {experts} experts, k = {k}, scale = {scale}"
        cases.append(Case((logits, bias, k, scale), says))
    wide = logits.double(), bias.double(), 3
    large = torch.tensor([[60.0, -60.0, 0.0], [-60.0, 60.0, 0.0]])
    return [
        *cases,
        Case((large, torch.tensor([0.1, 0.0, -0.1]), 2), "logits of 60 and -60"),
        Case(wide, "in float64"),
    ]


ROUTE_WITH_BIAS = ExerciseSpec(
    name="c04.route_with_bias",
    title="A router with a bias",
    why="If the bias leaks into the weights, balancing changes what the model computes: two widely "
    "used libraries have had that bug.",
    reference=route_with_bias,
    cases=_bias_cases,
    wrong_answers=routing_mistakes.ROUTE_WITH_BIAS,
    hints=(
        "Four lines: score, choose, gather, renormalise. In which of them does the bias stand?",
        "experts_TK = (scores_TE + bias_E).topk(k, dim=-1).indices, and the weights are "
        "scores_TE.gather(-1, experts_TK).",
        "scale * weights_TK / weights_TK.sum(-1, keepdim=True), with weights without the bias",
    ),
    gradients=True,
)


# ---- the bias's update


def _update_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = [
        Case((torch.zeros(2), torch.tensor([3, 1]), 0.1), "two experts with 3 and 1 tokens"),
        Case((torch.zeros(4), torch.tensor([9, 1, 1, 1]), 0.1), "one busy expert, three idle"),
        Case((torch.tensor([0.5, 0.25]), torch.tensor([4, 4]), 0.1), "even loads, a bias so far"),
        Case((torch.zeros(4), torch.tensor([5, 3, 3, 1]), 0.1), "two experts at the mean"),
    ]
    for experts in (5, 16):
        counts = torch.tensor([rng.randint(0, 30) for _ in range(experts - 1)] + [45])
        cases.append(Case((torch.randn(experts, generator=g), counts, 0.01)))
    return cases


UPDATE_BIAS = ExerciseSpec(
    name="c04.update_bias",
    title="The update of the bias",
    why="DeepSeek-V3 is balanced by these lines, and by a very small loss beside them.",
    reference=update_bias,
    cases=_update_cases,
    wrong_answers=mistakes.UPDATE_BIAS,
    hints=(
        "An expert with more than the mean load must be chosen less often. Up or down with it?",
        "change_E = speed * torch.sign(loads_E.mean() - loads_E), with loads_E = counts_E.float().",
        "bias_E + change_E - change_E.mean()",
    ),
)


# ---- groups


def _group_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = [
        Case((torch.tensor([[0.9, 0.1, 0.6, 0.6]]), 2, 1), "four experts in two groups, one open"),
        Case((torch.tensor([[-0.9, -0.1, -0.6, -0.6]]), 2, 1), "the same with negative scores"),
        Case((torch.tensor([[0.5, 0.25, 0.75]]), 1, 1), "a single group"),
    ]
    for tokens, experts, groups, kept in (
        (3, 8, 2, 1),
        (4, 12, 4, 2),
        (2, 12, 3, 3),
        (5, 16, 4, 3),
    ):
        scores = torch.randn(tokens, experts, generator=g)
        says = f"{tokens} tokens, {experts} experts in {groups} groups, {kept} open"
        cases.append(Case((scores, groups, kept), says))
    return cases


LIMIT_TO_GROUPS = ExerciseSpec(
    name="c04.limit_to_groups",
    title="Group-limited routing",
    why="It bounds how many nodes a token is sent to; with the wrong filler it silently opens "
    "closed groups.",
    reference=limit_to_groups,
    cases=_group_cases,
    wrong_answers=routing_mistakes.LIMIT_TO_GROUPS,
    hints=(
        "Bring the scores to (T, groups, experts of a group). What is each group worth?",
        "groups_TGS = scores_TE.unflatten(-1, (n_group, -1)); groups_TGS.topk(2, dim=-1)"
        ".values.sum(-1) is the worth (T, G); its topk says which groups are open.",
        "Start from a closed_TG of True, scatter False at the open groups, then "
        "groups_TGS.masked_fill(closed_TG[..., None], float('-inf')).flatten(-2).",
    ),
)


EXERCISES = [
    MAX_VIOLATION,
    LOAD_BALANCING_LOSS,
    SEQUENCE_BALANCE_LOSS,
    ROUTE_WITH_BIAS,
    UPDATE_BIAS,
    LIMIT_TO_GROUPS,
]
