"""The exercises of chapter 02: from bits per byte to generation with a cache."""

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.attention import grouped_query_attention
from course_utils.exercises.spec import Case, ExerciseSpec, WrongAnswer
from course_utils.generation import generate_greedy
from course_utils.layers import apply_rope, rms_norm, rope_tables
from course_utils.models import ModelConfig
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
    wrong_answers=(
        WrongAnswer(
            "still nats",
            lambda nats, tokens, text_bytes: nats * tokens / text_bytes,
            "The total is still in nats. One bit is ln 2 = 0.693 nats: divide by it.",
        ),
        WrongAnswer(
            "per token",
            lambda nats, tokens, text_bytes: nats / math.log(2),
            "These are bits per token. A tokenizer with longer tokens would look worse. "
            "Spread the loss of all tokens over all bytes.",
        ),
        WrongAnswer(
            "ratio upside down",
            lambda nats, tokens, text_bytes: nats * text_bytes / (tokens * math.log(2)),
            "Bytes and tokens have changed places: the loss of `tokens` tokens is shared by "
            "`text_bytes` bytes, so tokens stand above the line.",
        ),
        WrongAnswer(
            "times ln 2",
            lambda nats, tokens, text_bytes: nats * math.log(2) * tokens / text_bytes,
            "You multiply by ln 2. A nat is larger than a bit (1.443 bits), so the number in bits "
            "must be larger: divide by ln 2.",
        ),
    ),
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


def _scaled(x: Tensor, denominator: Tensor, weight: Tensor) -> Tensor:
    return weight * x / denominator


RMS_NORM = ExerciseSpec(
    name="c02.rms_norm",
    title="RMSNorm",
    why="It stands before every attention and every feed-forward part of today's open models.",
    reference=rms_norm,
    cases=_norm_cases,
    wrong_answers=(
        WrongAnswer(
            "eps outside the root",
            lambda x, w, eps=1e-6: _scaled(x, x.pow(2).mean(-1, keepdim=True).sqrt() + eps, w),
            "Is your eps inside the square root? It is added to the mean square, before the root: "
            "for small vectors the two differ a lot.",
        ),
        WrongAnswer(
            "no eps",
            lambda x, w, eps=1e-6: _scaled(x, x.pow(2).mean(-1, keepdim=True).sqrt(), w),
            "eps is missing: a token of zeros divides zero by zero and gives NaN.",
        ),
        WrongAnswer(
            "subtracts the mean",
            lambda x, w, eps=1e-6: F.layer_norm(x, x.shape[-1:], w, None, eps),
            "This is LayerNorm: it subtracts the mean first. RMSNorm leaves the mean where it is.",
        ),
        WrongAnswer(
            "sum instead of mean",
            lambda x, w, eps=1e-6: _scaled(x, (x.pow(2).sum(-1, keepdim=True) + eps).sqrt(), w),
            "You divide by the length of the vector, so it comes out with length 1. Divide by the "
            "root of the MEAN square: it comes out with length sqrt(D).",
        ),
        WrongAnswer(
            "over the tokens",
            lambda x, w, eps=1e-6: _scaled(x, (x.pow(2).mean(-2, keepdim=True) + eps).sqrt(), w),
            "The mean runs over the tokens. Each token is normalised by itself, over its channels: "
            "the last dimension.",
        ),
        WrongAnswer(
            "forgets the weight",
            lambda x, w, eps=1e-6: x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt(),
            "The learned weight is missing: after the division every channel is multiplied by it.",
        ),
    ),
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
        cases.append(
            Case((x, cos, sin), f"{tokens} tokens from position {first}, head_dim {width}")
        )
    cos, sin = rope_tables(torch.arange(3), 4)
    cases.append(Case((torch.randn(3, 4, generator=g), cos, sin), "no heads in front: (T, d)"))
    batch = torch.randn(2, 2, 3, 4, generator=g)
    cases.append(Case((batch, cos, sin), "a batch in front: (B, H, T, d)"))
    return cases


def _interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    a, b, c, s = x[..., ::2], x[..., 1::2], cos[..., :half], sin[..., :half]
    return torch.stack([a * c - b * s, b * c + a * s], dim=-1).flatten(-2)


def _halves(x: Tensor, first_sign: int, second_sign: int, swap: bool = True) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([first_sign * b, second_sign * a] if swap else [-a, b], dim=-1)


APPLY_ROPE = ExerciseSpec(
    name="c02.apply_rope",
    title="Rotary positions",
    why="With the wrong pairs a model stays fluent and forgets where things were: hard to find.",
    reference=apply_rope,
    cases=_rope_cases,
    wrong_answers=(
        WrongAnswer(
            "interleaved pairs",
            _interleaved,
            "You pair neighbouring channels (0, 1), (2, 3): the interleaved form of the paper and "
            "of GGUF files. These weights expect half-split pairs: channel i with i + d/2.",
        ),
        WrongAnswer(
            "turns backwards",
            lambda x, cos, sin: x * cos + _halves(x, 1, -1) * sin,
            "You turn by the negative angle: the minus belongs to the second half, which moves to "
            "the front: (-b, a).",
        ),
        WrongAnswer(
            "no minus",
            lambda x, cos, sin: x * cos + _halves(x, 1, 1) * sin,
            "A minus is missing, so the pairs are not turned but stretched: a cos - b sin.",
        ),
        WrongAnswer(
            "halves not swapped",
            lambda x, cos, sin: x * cos + _halves(x, 1, 1, swap=False) * sin,
            "The halves must change places: the first half gets -b, the second half gets a.",
        ),
        WrongAnswer(
            "sine and cosine swapped",
            lambda x, cos, sin: x * sin + _halves(x, -1, 1) * cos,
            "Sine and cosine have changed places: at position 0 (cos 1, sin 0) nothing may move.",
        ),
    ),
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
            f"{heads} query heads on {groups} key-value heads, {queries} queries, {keys} keys",
        )
        for heads, groups, queries, keys, width in shapes
    ]
    q, k, v = (torch.randn(2, heads, 3, 4, generator=g) * 2 for heads in (4, 2, 2))
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    cases.append(Case((q, k, v), "a batch in front: (B, H, T, d)"))
    cases.append(Case((q[0], k[0], v[0], mask), "a mask of one's own"))
    cases.append(Case((q, k, v, mask[None, None]), "a batch, and one mask (1, 1, T, S) for all"))
    return cases


def _attend(
    q: Tensor, k: Tensor, v: Tensor, own: Tensor | None = None, *, scale: bool = True,
    tile: bool = False, shift: int = 0, top_left: bool = False,
) -> Tensor:  # fmt: skip
    """Attention with one mistake at a time."""
    group = q.shape[-3] // k.shape[-3]
    if tile:
        k, v = torch.cat([k] * group, -3), torch.cat([v] * group, -3)
    else:
        k, v = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    scores = q @ k.transpose(-2, -1) / (math.sqrt(q.shape[-1]) if scale else 1.0)
    T, S = scores.shape[-2:]
    mask = torch.ones(T, S, dtype=torch.bool).tril((0 if top_left else S - T) + shift)
    mask = mask if own is None else own
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v


def _after_softmax(q: Tensor, k: Tensor, v: Tensor, own: Tensor | None = None) -> Tensor:
    group = q.shape[-3] // k.shape[-3]
    k, v = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    T, S = weights.shape[-2:]
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if own is None else own
    return (weights * mask) @ v


GROUPED_QUERY_ATTENTION = ExerciseSpec(
    name="c02.grouped_query_attention",
    title="Grouped-query attention",
    why="It is where tokens meet, and what the cache of every open model is sized by.",
    reference=grouped_query_attention,
    cases=_attention_cases,
    wrong_answers=(
        WrongAnswer(
            "tiled groups",
            lambda q, k, v, own=None: _attend(q, k, v, own, tile=True),
            "The key heads are tiled (0, 1, 0, 1) where they must be repeated in place "
            "(0, 0, 1, 1): neighbouring query heads share one. See repeat_interleave.",
        ),
        WrongAnswer(
            "no scale",
            lambda q, k, v, own=None: _attend(q, k, v, own, scale=False),
            "The scores are not divided by sqrt(d): the softmax is too sharp.",
        ),
        WrongAnswer(
            "sees the next token",
            lambda q, k, v, own=None: _attend(q, k, v, own, shift=1),
            "The mask is shifted by one: a token sees its successor. Training would look "
            "wonderful and generation would fail.",
        ),
        WrongAnswer(
            "mask aligned at the start",
            lambda q, k, v, own=None: _attend(q, k, v, own, top_left=True),
            "With more keys than queries the queries are the LAST tokens: query t sees the keys "
            "up to S - T + t. Your mask counts from the start, so cached tokens are hidden.",
        ),
        WrongAnswer(
            "masked after the softmax",
            _after_softmax,
            "You set weights to zero after the softmax, so they no longer add up to 1. Put "
            "-infinity into the scores before it.",
        ),
        WrongAnswer(
            "ignores the mask",
            lambda q, k, v, own=None: _attend(q, k, v),
            "A mask was handed in and not used: mask_TS, where it is given, takes the place of "
            "the causal one. In padded batches it keeps the padding out.",
        ),
    ),
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
        cases.append(Case((logits, ids), f"{batch} x {tokens} tokens, vocabulary {vocabulary}"))
    return cases


NEXT_TOKEN_LOSS = ExerciseSpec(
    name="c02.next_token_loss",
    title="The loss of a language model",
    why="One position too early or too late, and the model learns to copy instead of to predict.",
    reference=next_token_loss,
    cases=_loss_cases,
    wrong_answers=(
        WrongAnswer(
            "no shift",
            lambda logits, ids: F.cross_entropy(logits.flatten(0, 1), ids.flatten()),
            "The logits at position t are compared with token t, which the model has just read. "
            "It would learn to copy. Compare them with token t + 1.",
        ),
        WrongAnswer(
            "shifted backwards",
            lambda logits, ids: F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten()),
            "Shifted the wrong way: the model is asked for the token BEFORE. Drop the last logits "
            "and the first ids.",
        ),
        WrongAnswer(
            "rolled around",
            lambda logits, ids: F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten()),
            "The last position is asked for the first token of the sequence (roll wraps around). "
            "Nobody knows the token after the last: leave that position out.",
        ),
        WrongAnswer(
            "sum",
            lambda logits, ids: F.cross_entropy(
                logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
            ),
            "This is the sum over all predictions. The mean does not change with the batch size, "
            "so that one learning rate fits all.",
        ),
        WrongAnswer(
            "softmax twice",
            lambda logits, ids: F.cross_entropy(
                logits[:, :-1].flatten(0, 1).softmax(-1), ids[:, 1:].flatten()
            ),
            "F.cross_entropy takes logits and applies the softmax itself: yours is applied twice.",
        ),
    ),
    hints=(
        "Which token is the right answer at position t? And at the last position?",
        "logits[:, :-1] are the predictions that can be judged, ids[:, 1:] the answers.",
        "F.cross_entropy wants (N, V) and (N,): flatten the batch and the positions together.",
    ),
    gradients=True,
)


# ---- generation with a cache


class CountingModel:
    """A tiny stand-in for a language model that counts the tokens that it processes.

    The next id depends on all ids seen and on their positions, so that a wrong cache shows.
    """

    def __init__(self, vocabulary: int, salt: int):
        self.vocabulary, self.salt, self.work = vocabulary, salt, 0
        self.config = ModelConfig(vocabulary, 8, 8, 1, 1, 1, 8, max_position_embeddings=1000)

    def eval(self) -> "CountingModel":
        return self

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> "CountingCache":
        return CountingCache(capacity or 1000, batch)

    def __call__(
        self,
        ids_BT: Tensor,
        cache: "CountingCache | None" = None,
        attention_mask: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        if ids_BT.dim() != 2 or 0 in ids_BT.shape:
            raise ValueError(f"ids have shape {tuple(ids_BT.shape)}: expected (batch, tokens)")
        if cache is not None and cache.batch != ids_BT.shape[0]:
            raise ValueError(
                f"the cache was made for {cache.batch} sequences, the ids are {ids_BT.shape[0]}: "
                "new_cache(capacity=n) makes room for n tokens"
            )
        seen = cache.seen if cache is not None else []
        logits = torch.zeros(*ids_BT.shape, self.vocabulary)
        for place, number in enumerate(ids_BT[0].tolist()):
            seen.append(number)
            self.work += 1
            mixed = sum((i + 1) * (value + self.salt) for i, value in enumerate(seen))
            logits[0, place, mixed % self.vocabulary] = 1.0
        if cache is not None and len(seen) > cache.capacity:
            raise ValueError(f"{len(seen)} tokens do not fit a cache of {cache.capacity}")
        return logits[:, -1:] if last_only else logits


class CountingCache:
    """The ids that a CountingModel has seen."""

    def __init__(self, capacity: int, batch: int = 1):
        self.capacity, self.batch, self.seen = capacity, batch, []

    @property
    def length(self) -> int:
        return len(self.seen)


def _generate_cases(rng: random.Random) -> list[Case]:
    cases = []
    for length, new in ((1, 1), (2, 1), (2, 3), (5, 4), (9, 12)):
        prompt = torch.tensor([rng.randrange(97) for _ in range(length)])
        model = CountingModel(97, rng.randrange(1, 50))
        cases.append(Case((model, prompt, new), f"a prompt of {length} ids, {new} new tokens"))
    return cases


def _loop(model, prompt, new_tokens, *, with_cache=True, everything=False, extra=0, first=False):
    """Greedy generation with one mistake at a time."""
    cache = model.new_cache() if with_cache else None
    text, step, chosen = list(prompt.tolist()), prompt[None], []
    for _ in range(new_tokens + extra):
        logits = model(step, cache)
        number = int(logits[0, 0 if first else -1].argmax())
        chosen.append(number)
        text.append(number)
        step = torch.tensor([text if everything else [number]])
    return torch.tensor(chosen[: new_tokens if not extra else None])


GENERATE_GREEDY = ExerciseSpec(
    name="c02.generate_greedy",
    title="Generation with a cache",
    why="Without the cache every token pays for the whole text again; with it, only for itself.",
    reference=generate_greedy,
    cases=_generate_cases,
    wrong_answers=(
        WrongAnswer(
            "no cache",
            lambda model, prompt, new: _loop(model, prompt, new, with_cache=False, everything=True),
            "The text is right and the work is not: every step runs the whole text again. Make one "
            "cache, give the model the prompt once, then only the newest token.",
        ),
        WrongAnswer(
            "whole text into the cache",
            lambda model, prompt, new: _loop(model, prompt, new, everything=True),
            "You use the cache and still pass the whole text each time, so the model sees "
            "everything again and again, at the wrong positions. Pass only the newest token.",
        ),
        WrongAnswer(
            "cache forgotten after the prompt",
            lambda model, prompt, new: _loop(model, prompt, new, with_cache=False),
            "After the prompt you pass one token without the cache: the model has forgotten the "
            "rest. Hand the same cache to every call.",
        ),
        WrongAnswer(
            "one token too many",
            lambda model, prompt, new: _loop(model, prompt, new, extra=1),
            "There is one token too many: the prompt's own pass gives the first new token already.",
        ),
        WrongAnswer(
            "prompt returned too",
            lambda model, prompt, new: torch.cat([prompt, _loop(model, prompt, new)]),
            "The result begins with the prompt. Return the new ids alone.",
        ),
        WrongAnswer(
            "first position read",
            lambda model, prompt, new: _loop(model, prompt, new, first=True),
            "The next token is predicted at the LAST position of the prompt; you read the first.",
        ),
    ),
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
