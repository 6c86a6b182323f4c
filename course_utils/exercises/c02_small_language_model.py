"""The exercises of chapter 02: from bits per byte to generation with a cache.

The wrong answers stand in the files `_c02_*_mistakes.py` beside this one.
"""

import math
import random

import torch

from course_utils.attention import grouped_query_attention
from course_utils.exercises import _c02_attention_mistakes as attention_mistakes
from course_utils.exercises import _c02_generation_mistakes as generation_mistakes
from course_utils.exercises import _c02_loss_mistakes as loss_mistakes
from course_utils.exercises import _c02_mistakes as mistakes
from course_utils.exercises._c02_counting_model import CountingModel
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count
from course_utils.generation import generate_greedy
from course_utils.layers import apply_rope, rms_norm, rope_tables
from course_utils.training import bits_per_byte, next_token_loss


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- bits per byte


def _bits_cases(rng: random.Random) -> list[Case]:
    cases = [
        Case((math.log(2), 1, 1), "one bit of loss on one token of one byte"),
        Case((math.log(2), 1, 4), "one bit of loss on one token of four bytes"),
        Case((0.0, 10, 30), "a model that is never surprised"),
    ]
    for _ in range(4):
        tokens = rng.randint(20, 900)
        cases.append(Case((rng.uniform(0.5, 8), tokens, tokens * rng.randint(2, 5) + 1)))
    return cases


BITS_PER_BYTE = ExerciseSpec(
    name="c02.bits_per_byte",
    title="Bits per byte",
    why="It is the one loss that compares models with different tokenizers.",
    reference=bits_per_byte,
    cases=_bits_cases,
    wrong_answers=mistakes.BITS_PER_BYTE,
    hints=(
        "How many nats does the whole text cost, all tokens together?",
        "Turn nats into bits: a coin toss is 1 bit and ln 2 nats.",
        "nats_per_token * tokens is the total in nats. Divide by ln 2, then by the bytes.",
    ),
)


# ---- RMSNorm


def _norm_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    ones, two = torch.ones(4), torch.tensor([[3.0, 4.0]])
    return [
        Case((two, torch.ones(2), 1e-6), "one token with the vector (3, 4)"),
        Case((torch.zeros(1, 4), ones, 1e-6), "one token of zeros"),
        Case(
            (torch.full((1, 4), 1e-3), ones, 1e-6), "one token as small as the square root of eps"
        ),
        Case((torch.randn(3, 4, generator=g), torch.rand(4, generator=g) + 0.5, 1e-6)),
        Case((torch.randn(3, 4, generator=g) + 2, torch.rand(4, generator=g), 0.5), "eps of 0.5"),
        Case((torch.randn(2, 3, 8, generator=g), torch.rand(8, generator=g), 1e-5)),
    ]


RMS_NORM = ExerciseSpec(
    name="c02.rms_norm",
    title="RMSNorm",
    why="It stands before every attention and every feed-forward part of today's open models.",
    reference=rms_norm,
    cases=_norm_cases,
    wrong_answers=mistakes.RMS_NORM,
    hints=(
        "Square, mean, root: the name says it in reverse order.",
        "x_TD.pow(2).mean(-1, keepdim=True) has shape (T, 1), so it divides every channel of a "
        "token by the same number.",
        "weight_D * x_TD * torch.rsqrt(mean_square_T1 + eps)",
    ),
    gradients=True,
)


# ---- RoPE


def _rope_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for heads, tokens, width, first in ((1, 1, 2, 1), (1, 2, 4, 0), (2, 3, 8, 5), (3, 5, 16, 40)):
        cos, sin = rope_tables(torch.arange(first, first + tokens), width)
        x = torch.randn(heads, tokens, width, generator=g)
        says = f"{count(tokens, 'token')} from position {first}, head_dim {width}"
        cases.append(Case((x, cos, sin), says))
    cos, sin = rope_tables(torch.arange(3), 4)
    cases.append(Case((torch.randn(3, 4, generator=g), cos, sin), "no heads in front: (T, d)"))
    batch = torch.randn(2, 2, 3, 4, generator=g)
    cases.append(Case((batch, cos, sin), "a batch in front: (B, H, T, d)"))
    return cases


APPLY_ROPE = ExerciseSpec(
    name="c02.apply_rope",
    title="Rotary positions",
    why="With the wrong pairs a model stays fluent and forgets where things were: hard to find.",
    reference=apply_rope,
    cases=_rope_cases,
    wrong_answers=mistakes.APPLY_ROPE,
    hints=(
        "A turn in the plane takes (a, b) to (a cos - b sin, b cos + a sin).",
        "a is the first half of the channels, b the second: x_HTd.chunk(2, dim=-1).",
        "x * cos + torch.cat([-b, a], dim=-1) * sin",
    ),
)


# ---- grouped-query attention


def _attention_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    shapes = ((1, 1, 1, 1, 4), (2, 1, 2, 2, 4), (4, 2, 3, 3, 4), (4, 2, 1, 5, 8), (6, 2, 4, 7, 8))
    cases = [
        Case(
            (
                torch.randn(heads, queries, width, generator=g) * 2,
                torch.randn(groups, keys, width, generator=g) * 2,
                torch.randn(groups, keys, width, generator=g),
            ),
            f"{count(heads, 'query head')} on {count(groups, 'key-value head')}, "
            f"{count(queries, 'query', 'queries')}, {count(keys, 'key')}",
        )
        for heads, groups, queries, keys, width in shapes
    ]
    q, k, v = (torch.randn(2, heads, 3, 4, generator=g) * 2 for heads in (4, 2, 2))
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    large = torch.tensor([[[20.0, 0, 0, 0], [-20, 0, 0, 0]]])  # 20 * 20 / sqrt(4) = 200
    says = "scores of 200 and -200; exp(200) is infinite in float32"
    cases.append(Case((large, large, v[0, :1, :2]), says))
    cases.append(Case((q, k, v), "a batch in front: (B, H, T, d)"))
    cases.append(Case((q[0], k[0], v[0], mask), "a mask of one's own"))
    cases.append(Case((q, k, v, mask[None, None]), "a batch, and one mask (1, 1, T, S) for all"))
    return cases


GROUPED_QUERY_ATTENTION = ExerciseSpec(
    name="c02.grouped_query_attention",
    title="Grouped-query attention",
    why="It is where tokens meet, and what the cache of every open model is sized by.",
    reference=grouped_query_attention,
    cases=_attention_cases,
    wrong_answers=attention_mistakes.GROUPED_QUERY_ATTENTION,
    hints=(
        "Four steps: give every query head its key head, score, mask, mix the values.",
        "repeat_interleave(H // G, dim=-3) gives heads 0 and 1 the first key head, 2 and 3 the "
        "second. The mask is torch.ones(T, S, dtype=torch.bool).tril(S - T).",
        "softmax of (q @ k.transpose(-2, -1) / sqrt(d)) with -inf where the mask is False, @ v",
    ),
    gradients=True,
    atol=1e-5,
)


# ---- the loss


def _loss_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for batch, tokens, vocabulary in ((1, 2, 3), (1, 3, 4), (2, 3, 5), (3, 6, 11)):
        logits = torch.randn(batch, tokens, vocabulary, generator=g) * 2
        ids = torch.randint(vocabulary, (batch, tokens), generator=g)
        says = f"{count(batch, 'sequence')} of {tokens} tokens, vocabulary {vocabulary}"
        cases.append(Case((logits, ids), says))
    logits = torch.tensor([[[200.0, -200, 0], [0, 0, 0]]])
    sure = "logits of 200 and -200, the likeliest token came; exp(200) is infinite in float32"
    wrong = "logits of 200 and -200, the unlikeliest token came; exp(-400) is 0 in float32"
    cases.append(Case((logits, torch.tensor([[2, 0]])), sure))
    return [*cases, Case((logits, torch.tensor([[2, 1]])), wrong)]


NEXT_TOKEN_LOSS = ExerciseSpec(
    name="c02.next_token_loss",
    title="The loss of a language model",
    why="One position too early or too late, and the model learns to copy instead of to predict.",
    reference=next_token_loss,
    cases=_loss_cases,
    wrong_answers=loss_mistakes.NEXT_TOKEN_LOSS,
    hints=(
        "Which token is the right answer at position t? And at the last position?",
        "logits[:, :-1] are the predictions that can be judged, ids[:, 1:] the answers.",
        "F.cross_entropy wants (N, V) and (N,): flatten the batch and the positions together.",
    ),
    gradients=True,
)


# ---- generation with a cache


def _generate_cases(rng: random.Random) -> list[Case]:
    cases = []
    for length, new in ((1, 1), (2, 1), (2, 3), (5, 4), (9, 12)):
        prompt = torch.tensor([rng.randrange(97) for _ in range(length)])
        says = f"a prompt of {count(length, 'id')}, {count(new, 'new token')}"
        model = CountingModel(97, rng.randrange(1, 50))
        cases.append(Case((model, prompt, new), says))
    return cases


GENERATE_GREEDY = ExerciseSpec(
    name="c02.generate_greedy",
    title="Generation with a cache",
    why="Without the cache every token pays for the whole text again; with it, only for itself.",
    reference=generate_greedy,
    cases=_generate_cases,
    wrong_answers=generation_mistakes.GENERATE_GREEDY,
    hints=(
        "The model is called new_tokens times: once with the prompt, then with one token each.",
        "cache = model.new_cache(capacity=len(prompt_T) + new_tokens); model(ids_BT, cache) gives "
        "logits (1, T, V) and remembers the ids. prompt_T[None] has shape (1, T).",
        "ids_BT = logits_BTV[:, -1:].argmax(dim=-1) is the next id with shape (1, 1): keep it, and "
        "pass it to the next call.",
    ),
    work="tokens through the model",
)

EXERCISES = [
    BITS_PER_BYTE,
    RMS_NORM,
    APPLY_ROPE,
    GROUPED_QUERY_ATTENTION,
    NEXT_TOKEN_LOSS,
    GENERATE_GREEDY,
]
