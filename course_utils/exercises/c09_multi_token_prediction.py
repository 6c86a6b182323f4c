"""The exercises of chapter 09: keep or replace draft tokens, and the MTP module.

The wrong answers stand in the files `_c09_*_mistakes.py` beside this one.
"""

import random
from typing import Any

import torch
from torch import Tensor

from course_utils.exercises import _c09_mtp_mistakes as mtp_mistakes
from course_utils.exercises import _c09_sampling_mistakes as sampling_mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count
from course_utils.generation.acceptance import (
    accept_or_replace,
    accepted_prefix,
    expected_tokens,
    residual_distribution,
)
from course_utils.generation.mtp import mtp_input, mtp_loss
from course_utils.layers import Linear, RMSNorm


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- the longest accepted prefix


def _prefix_cases(rng: random.Random) -> list[Case]:
    lists = [
        ([5], [5, 8], "one draft id, and it is right"),
        ([5], [6, 5], "one draft id, and it is wrong"),
        ([7, 7, 3], [7, 7, 3, 1], "all of the draft is right"),
        ([7, 2, 3], [7, 4, 3, 1], "the second id is wrong, the third agrees again"),
        ([2, 3, 4], [1, 2, 3, 4], "the draft is one place ahead"),
        ([4, 4, 9, 9], [4, 4, 8, 9, 1], "right twice, then wrong"),
    ]
    for _ in range(3):
        best = [rng.randrange(50) for _ in range(7)]
        place = rng.randrange(1, 5)
        draft = [*best[:place], best[place] + 1, *best[place + 1 : 6]]
        lists.append((draft, best, f"id {place} of the draft, counted from 0, is wrong"))
    return [Case((torch.tensor(draft), torch.tensor(best)), says) for draft, best, says in lists]


ACCEPTED_PREFIX = ExerciseSpec(
    name="c09.accepted_prefix",
    title="The longest accepted prefix",
    why="It decides how many tokens a greedy round keeps, and that the text stays the target's.",
    reference=accepted_prefix,
    cases=_prefix_cases,
    wrong_answers=sampling_mistakes.ACCEPTED_PREFIX,
    hints=(
        "Compare place by place. What does the target's choice mean behind a wrong token?",
        "draft_K == best_L[:len(draft_K)] says where they agree. Count up to the first False.",
        "A loop that returns at the first difference does it, or .long().cumprod(0).sum().",
    ),
)


# ---- the residual


def _probabilities(g: torch.Generator, size: int) -> Tensor:
    return (torch.randn(size, generator=g) * 1.5).softmax(-1)


def _residual_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = [
        Case((torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])), "the draft prefers the first"),
        Case((torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.3]))),
        Case((torch.tensor([0.25, 0.75, 0.0]), torch.tensor([0.0, 0.0, 1.0])), "nothing shared"),
        Case((torch.tensor([0.25, 0.75]), torch.tensor([0.25, 0.75])), "p and q are the same"),
    ]
    return cases + [Case((_probabilities(g, n), _probabilities(g, n))) for n in (3, 5, 8)]


RESIDUAL_DISTRIBUTION = ExerciseSpec(
    name="c09.residual_distribution",
    title="What a rejected token is replaced from",
    why="It makes up exactly for what the draft gives too little, so that together it is p.",
    reference=residual_distribution,
    cases=_residual_cases,
    wrong_answers=sampling_mistakes.RESIDUAL_DISTRIBUTION,
    hints=(
        "Which ids does the draft give less than the target wants? How much less?",
        "(p_V - q_V).clamp(min=0) is what is missing. It does not sum to 1.",
        "Divide by its sum; where the sum is 0, return p_V.",
    ),
    atol=1e-5,
)


# ---- accept or replace


def _plain(result: Any, args: tuple) -> Any:
    """Token and flag as int and bool, also where they are tensors of one number."""
    if not isinstance(result, tuple) or len(result) != 2:
        return result
    if any(isinstance(part, Tensor) and part.numel() != 1 for part in result):
        return result
    return int(result[0]), bool(result[1])


def _accept_cases(rng: random.Random) -> list[Case]:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.25, 0.15, 0.6])
    cases = [
        Case((0, p, q, 0.99, 0.5), "p > q: kept whatever the number is"),
        Case((2, p, q, 0.25, 0.5), "p / q is 1/3 and u_accept 0.25"),
        Case((2, p, q, 0.9, 0.1), "p / q is 1/3 and u_accept 0.9: replaced, u_draw 0.1"),
        Case((2, p, q, 0.4, 0.9), "p / q is 1/3 and u_accept 0.4: replaced, u_draw 0.9"),
        Case((1, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.0, 0.5), "p is 0"),
    ]
    g = _generator(rng)
    for _ in range(40):
        size = rng.choice((3, 4, 6))
        p, q = _probabilities(g, size), _probabilities(g, size)
        token = int(torch.multinomial(q, 1, generator=g))
        cases.append(Case((token, p, q, rng.random(), rng.random())))
    return cases


ACCEPT_OR_REPLACE = ExerciseSpec(
    name="c09.accept_or_replace",
    title="Keep or replace a sampled draft token",
    why="With any other rule the text has another distribution than the model that was asked.",
    reference=accept_or_replace,
    cases=_accept_cases,
    wrong_answers=sampling_mistakes.ACCEPT_OR_REPLACE,
    hints=(
        "The token comes with probability q. With which chance must it be kept, so that it comes "
        "out with at most p?",
        "Keep it if u_accept < p_V[token] / q_V[token]. Otherwise draw a token from the residual.",
        "draw(residual_distribution(p_V, q_V), u_draw) gives the replacement; the flag is False.",
    ),
    observe=_plain,
)


# ---- expected tokens


def _expected_cases(rng: random.Random) -> list[Case]:
    cases = [
        Case((0.0, 3), "nothing is ever kept"),
        Case((0.5, 1), "one draft token, kept every second time"),
        Case((1.0, 4), "all is kept"),
        Case((0.8, 3)),
    ]
    return cases + [Case((round(rng.uniform(0.1, 0.95), 3), rng.randint(2, 9))) for _ in range(4)]


EXPECTED_TOKENS = ExerciseSpec(
    name="c09.expected_tokens",
    title="Tokens of a round",
    why="With it you read an acceptance as a speed, and choose the length of the draft.",
    reference=expected_tokens,
    cases=_expected_cases,
    wrong_answers=sampling_mistakes.EXPECTED_TOKENS,
    hints=(
        "With which probability are the first i draft tokens all kept?",
        "Add that up over i = 1 ... k, and 1 for the target's own token.",
        "sum(acceptance**i for i in range(k + 1)), or (1 - a^(k+1)) / (1 - a) with a = 1 apart.",
    ),
)


# ---- the input of the module


def _modules(g: torch.Generator, width: int) -> tuple[RMSNorm, RMSNorm, Linear]:
    """Two norms with different weights, and a projection from 2D to D."""
    enorm, hnorm, eh_proj = RMSNorm(width), RMSNorm(width), Linear(2 * width, width, bias=False)
    with torch.no_grad():
        for norm in (enorm, hnorm):
            norm.weight.copy_(torch.rand(width, generator=g) + 0.5)
        eh_proj.weight.copy_(torch.randn(width, 2 * width, generator=g))
    return enorm, hnorm, eh_proj


def _input_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for batch, tokens, width, vocabulary in ((1, 1, 2, 5), (1, 3, 4, 7), (2, 5, 8, 11)):
        hidden = torch.randn(batch, tokens, width, generator=g) * 3
        ids = torch.stack(
            [torch.randperm(vocabulary, generator=g)[: tokens + 1] for _ in range(batch)]
        )
        table = torch.randn(vocabulary, width, generator=g) * 0.5
        says = (
            f"{count(batch, 'sequence')} of {count(tokens, 'hidden vector')} and {tokens + 1} ids"
        )
        cases.append(Case((hidden, ids, table, *_modules(g, width)), says))
    return cases


MTP_INPUT = ExerciseSpec(
    name="c09.mtp_input",
    title="What the MTP module reads",
    why="With the wrong token in it the module trains without error, and drafts nothing of use.",
    reference=mtp_input,
    cases=_input_cases,
    wrong_answers=mtp_mistakes.MTP_INPUT,
    hints=(
        "The hidden vector at i has seen the tokens up to i. Which token does the module add?",
        "F.embedding(ids_BS[:, 1:], table_VD) has shape (B, T, D), like hidden_BTD.",
        "eh_proj(torch.cat([enorm(next), hnorm(hidden)], dim=-1))",
    ),
    gradients=True,
    atol=1e-5,
)


# ---- the loss of the module


def _loss_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for batch, tokens, vocabulary in ((1, 2, 3), (1, 3, 4), (2, 4, 6), (3, 6, 11)):
        logits = torch.randn(batch, tokens, vocabulary, generator=g) * 2
        ids = torch.randint(vocabulary, (batch, tokens + 1), generator=g)
        says = f"{count(batch, 'sequence')} of {tokens + 1} ids, logits of {tokens} positions"
        cases.append(Case((logits, ids), says))
    large = torch.tensor([[[200.0, -200, 0], [0, 0, 0]]])
    says = "logits of 200 and -200; exp(200) is infinite in float32"
    return [*cases, Case((large, torch.tensor([[1, 2, 0]])), says)]


MTP_LOSS = ExerciseSpec(
    name="c09.mtp_loss",
    title="The loss of the MTP module",
    why="One position too early, and the module learns to copy the token that it was given.",
    reference=mtp_loss,
    cases=_loss_cases,
    wrong_answers=mtp_mistakes.MTP_LOSS,
    hints=(
        "At position i the module has read the ids up to i + 1. Which id can it be asked for?",
        "ids_BS[:, 2:] are the answers: T - 1 of them. Which of the T logits have none?",
        "F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BS[:, 2:].flatten())",
    ),
    gradients=True,
)

EXERCISES = [
    ACCEPTED_PREFIX,
    EXPECTED_TOKENS,
    RESIDUAL_DISTRIBUTION,
    ACCEPT_OR_REPLACE,
    MTP_INPUT,
    MTP_LOSS,
]
