"""Chapter 02: right answers in other styles pass, and mistakes as learners type them are named."""

import math
import random
import re

import pytest
import torch
import torch.nn.functional as F

from course_utils.exercises import catalog
from course_utils.exercises.judge import judge, prepare

SEEDS = (0, 1, 2)
_tasks: dict = {}


def judged(name: str, answer, seed: int = 0):
    """The verdict on an answer to c02.name."""
    if (name, seed) not in _tasks:
        _tasks[name, seed] = prepare(catalog.find(f"c02.{name}"), seed)
    return judge(_tasks[name, seed], answer)


# ---- right answers in other styles


def norm_of_pytorch(x, weight, eps=1e-6):
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def norm_by_einsum(x, weight, eps=1e-6):
    square = torch.einsum("...d,...d->...", x, x)[..., None] / x.shape[-1]
    return x / (square + eps) ** 0.5 * weight


def rope_in_place_on_a_copy(x, cos, sin):
    half = x.shape[-1] // 2
    out = torch.empty_like(x)
    a, b = x[..., :half], x[..., half:]
    out[..., :half] = a * cos[..., :half] - b * sin[..., :half]
    out[..., half:] = b * cos[..., half:] + a * sin[..., half:]
    return out


def rope_by_complex_numbers(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.complex(*x.chunk(2, -1)) * torch.complex(cos[..., :half], sin[..., :half])
    return torch.cat([turned.real, turned.imag], -1)


def attention_of_pytorch(q, k, v, mask=None):
    T, S = q.shape[-2], k.shape[-2]
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if mask is None else mask
    group = q.shape[-3] // k.shape[-3]
    k, v = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_in_groups(q, k, v, mask=None):
    """No key is copied; the mask is added; the softmax is written out, with the maximum."""
    T, S, G = q.shape[-2], k.shape[-2], k.shape[-3]
    if mask is None:
        mask = torch.arange(S) <= torch.arange(T)[:, None] + S - T
    grouped = q.unflatten(-3, (G, -1))
    scores = torch.einsum("...gnqd,...gkd->...gnqk", grouped, k) * q.shape[-1] ** -0.5
    hidden = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    scores = scores + (hidden if mask.dim() == 2 else hidden[:, :, None])
    weights = (scores - scores.amax(-1, keepdim=True).detach()).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("...gnqk,...gkd->...gnqd", weights, v).flatten(-4, -3)


def attention_with_a_large_number(q, k, v, mask=None):
    T, S = q.shape[-2], k.shape[-2]
    mask = torch.ones(T, S).tril(S - T) if mask is None else mask
    group = q.shape[-3] // k.shape[-3]
    k, v = k.repeat_interleave(group, dim=-3), v.repeat_interleave(group, dim=-3)
    scores = torch.matmul(q, k.mT) / math.sqrt(q.shape[-1])
    return scores.masked_fill(mask == 0, torch.finfo(q.dtype).min).softmax(dim=-1) @ v


def loss_transposed(logits, ids):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:])


def loss_gathered(logits, ids):
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1))
    return -chosen.mean()


def loss_by_log_sum_exp(logits, ids):
    logits, ids = logits[:, :-1], ids[:, 1:]
    right = logits.gather(-1, ids[..., None])[..., 0]
    return (logits.logsumexp(-1) - right).sum() / ids.numel()


def loss_sequence_by_sequence(logits, ids):
    parts = [F.cross_entropy(a[:-1], b[1:]) for a, b in zip(logits, ids, strict=True)]
    return torch.stack(parts).mean()


def loss_with_the_maximum(logits, ids):
    shifted = logits - logits.max(-1, keepdim=True).values
    log_p = shifted - shifted.exp().sum(-1, keepdim=True).log()
    return F.nll_loss(log_p[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def greedy_with_prefill(model, prompt, new_tokens):
    cache = model.new_cache(capacity=len(prompt) + new_tokens)
    ids = torch.zeros(new_tokens, dtype=torch.long)
    ids[0] = model(prompt.unsqueeze(0), cache)[0, -1].argmax()
    for place in range(1, new_tokens):
        ids[place] = model(ids[place - 1].view(1, 1), cache)[0, -1].argmax()
    return ids


def greedy_with_a_list(model, prompt, new_tokens):
    cache, step, found = model.new_cache(), prompt.tolist(), []
    while len(found) < new_tokens:
        logits = model(torch.tensor([step]), cache=cache, last_only=True)
        step = [int(logits[0, -1].argmax())]
        found += step
    return torch.tensor(found)


RIGHT = {
    "bits_per_byte": [
        lambda nats, tokens, text_bytes: nats * math.log2(math.e) * tokens / text_bytes,
        lambda nats, tokens, text_bytes: tokens / text_bytes * (nats / math.log(2)),
    ],
    "rms_norm": [norm_of_pytorch, norm_by_einsum],
    "apply_rope": [rope_in_place_on_a_copy, rope_by_complex_numbers],
    "grouped_query_attention": [
        attention_of_pytorch,
        attention_in_groups,
        attention_with_a_large_number,
    ],
    "next_token_loss": [
        loss_transposed,
        loss_gathered,
        loss_by_log_sum_exp,
        loss_sequence_by_sequence,
        loss_with_the_maximum,
    ],
    "generate_greedy": [greedy_with_prefill, greedy_with_a_list],
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "answer"), [(name, answer) for name, answers in RIGHT.items() for answer in answers]
)
def test_a_right_answer_in_another_style_passes(name: str, answer, seed: int) -> None:
    verdict = judged(name, answer, seed)
    assert verdict.passed, (verdict.smallest.case.says, verdict.smallest.differences)


def test_every_exercise_has_a_right_answer_here() -> None:
    names = {spec.name.partition(".")[2] for spec in catalog.exercises_of("c02")}
    assert names == set(RIGHT)


# ---- mistakes, typed once more


def overwritten(x, cos, sin):
    d = x.shape[-1] // 2
    y = x.clone()
    first, second = y[..., :d], y[..., d:]
    y[..., :d] = first * cos[..., :d] - second * sin[..., :d]
    y[..., d:] = second * cos[..., d:] + first * sin[..., d:]
    return y


def attention(q, k, v, mask=None, d=None, dim=-1, invert=False, repeat=True, exp=False):
    T, S = q.shape[-2], k.shape[-2]
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if mask is None else mask
    if repeat:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
        v = v.repeat_interleave(q.shape[-3] // v.shape[-3], -3)
    scores = q @ k.mT / (d or q.shape[-1] ** 0.5)
    scores = torch.where(mask ^ invert, scores, torch.tensor(-math.inf))
    weights = scores.softmax(dim)
    if exp:
        weights = torch.exp(scores)
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights @ v


def greedy_feeding_twice(model, prompt, new_tokens):
    cache = model.new_cache(capacity=200)
    model(prompt[None], cache)
    last, found = prompt[-1], []
    for _ in range(new_tokens):
        last = model(last.view(1, 1), cache)[0, -1].argmax()
        found.append(last)
    return torch.stack(found)


MISTAKES = [
    ("bits_per_byte", "decimal logarithm", lambda n, t, b: n * t / b / math.log10(2)),
    ("rms_norm", "no keepdim", lambda x, w, eps=1e-6: w * (x * (x**2).mean(-1).add(eps).rsqrt())),
    ("rms_norm", "sum instead of mean", lambda x, w, eps=1e-6: w * (x / x.norm(2, -1)[..., None])),
    ("apply_rope", "first half overwritten", overwritten),
    (
        "apply_rope",
        "half of x with the whole cos",
        lambda x, cos, sin: torch.cat(
            [
                x[..., : x.shape[-1] // 2] * cos - x[..., x.shape[-1] // 2 :] * sin,
                x[..., x.shape[-1] // 2 :] * cos + x[..., : x.shape[-1] // 2] * sin,
            ],
            -1,
        ),
    ),
    (
        "apply_rope",
        "turns backwards",
        lambda x, cos, sin: rope_in_place_on_a_copy(x, cos, -sin),
    ),
    (
        "grouped_query_attention",
        "mask inverted",
        lambda q, k, v, mask=None: attention(q, k, v, mask, invert=True),
    ),
    (
        "grouped_query_attention",
        "divided by d",
        lambda q, k, v, mask=None: attention(q, k, v, mask, d=k.shape[-1]),
    ),
    (
        "grouped_query_attention",
        "softmax over the queries",
        lambda q, k, v, mask=None: attention(q, k, v, mask, dim=-2),
    ),
    (
        "grouped_query_attention",
        "heads not repeated",
        lambda q, k, v, mask=None: attention(q, k, v, mask, repeat=False),
    ),
    (
        "grouped_query_attention",
        "exp without the maximum",
        lambda q, k, v, mask=None: attention(q, k, v, mask, exp=True),
    ),
    (
        "next_token_loss",
        "classes not on dimension 1",
        lambda logits, ids: F.cross_entropy(logits[:, :-1, :], ids[:, 1:]),
    ),
    (
        "next_token_loss",
        "reshaped instead of transposed",
        lambda logits, ids: F.cross_entropy(
            logits[:, :-1].contiguous().view(len(ids), logits.shape[2], -1), ids[:, 1:]
        ),
    ),
    (
        "next_token_loss",
        "flattened before the shift",
        lambda logits, ids: F.cross_entropy(
            logits.view(-1, logits.shape[-1])[:-1], ids.view(-1)[1:]
        ),
    ),
    (
        "next_token_loss",
        "divided by all positions",
        lambda logits, ids: loss_gathered(logits, ids) * (1 - 1 / ids.shape[1]),
    ),
    (
        "next_token_loss",
        "no mean",
        lambda logits, ids: F.cross_entropy(
            logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none"
        ),
    ),
    (
        "next_token_loss",
        "log of the softmax",
        lambda logits, ids: F.nll_loss(
            torch.log(torch.softmax(logits[:, :-1], -1)).flatten(0, 1), ids[:, 1:].flatten()
        ),
    ),
    ("generate_greedy", "last token fed twice", greedy_feeding_twice),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "mistake", "answer"), MISTAKES)
def test_a_mistake_typed_by_another_hand_is_named(
    name: str, mistake: str, answer, seed: int
) -> None:
    verdict = judged(name, answer, seed)
    assert not verdict.passed
    assert verdict.mistake is not None, verdict.smallest.differences
    assert verdict.mistake.name == mistake


def test_inputs_in_words_are_grammatical() -> None:
    for spec in catalog.exercises_of("c02"):
        for case in spec.cases(random.Random(0)):
            assert not re.search(r"\b1 (\w+ )?(tokens|ids|heads|queries|keys|sequences)", case.says)
