"""The exercises of chapter 07: pooled heads, interleaved RoPE, latent rows, absorbing, low rank.

The wrong answers stand in the files `_c07_*_mistakes.py` beside this one.
"""

import random

import torch
from torch import Tensor

from course_utils.attention import causal_mask, mla_absorbed
from course_utils.attention.latent_rows import latent_rows
from course_utils.exercises import _c07_absorb_mistakes as absorb_mistakes
from course_utils.exercises import _c07_mistakes as mistakes
from course_utils.exercises._c07_counted_rows import counted_rows
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count
from course_utils.layers import apply_rope_interleaved, rope_tables
from course_utils.layers.low_rank import low_rank_factors
from course_utils.models.pooling import pool_heads


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- pooling heads


def _pool_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for heads, groups, width, D in ((2, 1, 2, 3), (4, 2, 2, 4), (6, 3, 4, 6), (8, 2, 4, 12)):
        weight = torch.randn(heads * width, D, generator=g)
        says = f"{heads} heads of {width} channels to {count(groups, 'head')}, model width {D}"
        cases.append(Case((weight, heads, groups), says))
    same = torch.randn(12, 4, generator=g)
    return [*cases, Case((same, 3, 3), "3 heads to 3: nothing to do")]


POOL_HEADS = ExerciseSpec(
    name="c07.pool_heads",
    title="Fewer key-value heads",
    why="It turns a trained model with many key-value heads into one with a smaller cache.",
    reference=pool_heads,
    cases=_pool_cases,
    wrong_answers=mistakes.POOL_HEADS,
    hints=(
        "The rows of the weight lie head by head. Which heads become one, and which of their "
        "channels go together?",
        "weight_CD.unflatten(0, (groups, heads // groups, -1)) has shape (groups, heads of a "
        "group, d, D). Over which dimension do you average?",
        "weight_CD.unflatten(0, (groups, heads // groups, -1)).mean(dim=1), flattened back to "
        "(groups * d, D)",
    ),
)

# ---- interleaved RoPE


def _rope_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for heads, tokens, width, first in ((1, 1, 2, 1), (1, 1, 4, 3), (2, 3, 8, 5), (3, 5, 16, 40)):
        cos, sin = rope_tables(torch.arange(first, first + tokens), width)
        x = torch.randn(heads, tokens, width, generator=g)
        says = f"{count(tokens, 'token')} from position {first}, {count(width // 2, 'pair')}"
        cases.append(Case((x, cos, sin), says))
    cos, sin = rope_tables(torch.arange(3), 4)
    cases.append(Case((torch.randn(3, 4, generator=g), cos, sin), "no heads in front: (T, d)"))
    batch = torch.randn(2, 2, 3, 4, generator=g)
    return [*cases, Case((batch, cos, sin), "a batch in front: (B, H, T, d)")]


APPLY_ROPE_INTERLEAVED = ExerciseSpec(
    name="c07.apply_rope_interleaved",
    title="Interleaved rotary positions",
    why="DeepSeek's checkpoints pair other channels than Llama's; mixed up, the text stays fluent.",
    reference=apply_rope_interleaved,
    cases=_rope_cases,
    wrong_answers=mistakes.APPLY_ROPE_INTERLEAVED,
    hints=(
        "The turn is the same as ever, (a cos - b sin, b cos + a sin). Only which channels are a "
        "and b has changed: 2i and 2i + 1.",
        "a = x[..., 0::2] and b = x[..., 1::2] have d / 2 channels, and so must cos and sin: "
        "their second half repeats the first.",
        "torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2) weaves the two "
        "back into each other",
    ),
)

# ---- rows of the latent cache


def _row_case(g: torch.Generator, shape: tuple, rank: int, rope: int, first: int) -> Case:
    cos, sin = rope_tables(torch.arange(first, first + shape[-1]), rope)
    down = torch.randn(*shape, rank + rope, generator=g) * 2
    weight = torch.rand(rank, generator=g) + 0.5
    says = f"{count(shape[-1], 'token')} from position {first}, R {rank}, P {rope}"
    if len(shape) > 1:
        says += f", a batch of {shape[0]}"
    return Case((down, weight, cos, sin), says)


def _row_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    shapes = (((1,), 4, 2, 3), ((2,), 8, 4, 1), ((5,), 6, 4, 30), ((2, 3), 12, 8, 7))
    return [_row_case(g, *shape) for shape in shapes]


LATENT_ROWS = ExerciseSpec(
    name="c07.latent_rows",
    title="What latent attention keeps",
    why="The cache is these numbers and no others; the two usual mistakes are both silent.",
    reference=latent_rows,
    cases=_row_cases,
    wrong_answers=mistakes.LATENT_ROWS,
    hints=(
        "Two parts lie side by side, and each gets one treatment: which one a norm, which one "
        "RoPE?",
        "R = len(weight_R). The latent is down_BTC[..., :R]: norm it with rms_norm(x, weight_R, "
        "1e-6). The key is down_BTC[..., R:]: turn it by apply_rope_interleaved(x, cos, sin).",
        "torch.cat([normed latent, turned key], dim=-1)",
    ),
)

# ---- absorbing


def _latent_sizes(
    g: torch.Generator, batch: int, heads: int, queries: int, rows: int, widths: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, rows, W_UK, W_UV; widths are N, P, V, R."""
    N, P, V, R = widths
    q = torch.randn(batch, heads, queries, N + P, generator=g)
    row = torch.randn(batch, rows, R + P, generator=g)
    up = torch.randn(heads, N + V, R, generator=g) * R**-0.5
    return q, row, up[:, :N].contiguous(), up[:, N:].contiguous()


def _absorb_case(says: str, q: Tensor, row: Tensor, uk: Tensor, uv: Tensor, scale: float, *mask):
    def make() -> tuple:
        return q.clone(), counted_rows(row), uk.clone(), uv.clone(), scale, *mask

    return Case(says=says, make=make)


def _absorb_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    sizes = (
        (1, 1, 1, 1, (2, 2, 2, 3)),
        (1, 2, 1, 24, (8, 4, 8, 6)),
        (1, 2, 3, 3, (4, 2, 6, 5)),
        (2, 3, 2, 7, (6, 4, 4, 10)),
        (1, 4, 1, 40, (16, 8, 12, 16)),
    )
    for batch, heads, queries, rows, widths in sizes:
        N, P, V, R = widths
        says = f"{count(heads, 'head')}, {count(queries, 'query', 'queries')}, "
        says += f"{count(rows, 'row')}; N {N}, P {P}, V {V}, R {R}"
        tensors = _latent_sizes(g, batch, heads, queries, rows, widths)
        cases.append(_absorb_case(says, *tensors, (N + P) ** -0.5))
    tensors = _latent_sizes(g, 1, 2, 2, 5, (4, 2, 6, 5))
    cases.append(_absorb_case("with YaRN: scale 1.6 / sqrt(N + P)", *tensors, 1.6 * 6**-0.5))
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], dtype=torch.bool)
    cases.append(_absorb_case("a mask of one's own, (T, S)", *tensors, 6**-0.5, mask))
    padded = torch.stack([mask, causal_mask(2, 5)])[:, None]
    tensors = _latent_sizes(g, 2, 2, 2, 5, (4, 2, 6, 5))
    cases.append(_absorb_case("a mask for each text, (B, 1, T, S)", *tensors, 6**-0.5, padded))
    return cases


MLA_ABSORBED = ExerciseSpec(
    name="c07.mla_absorbed",
    title="Attention in the space of the latents",
    why="Without it every new token expands the whole cache, and the small cache saves no time.",
    reference=mla_absorbed,
    cases=_absorb_cases,
    wrong_answers=absorb_mistakes.MLA_ABSORBED,
    hints=(
        "q . (W_UK c) = (W_UK^T q) . c. Which of the two sides is computed once per query, and "
        "which once per cached row? And a weighted sum of W_UV c is W_UV times the sum of c.",
        "N, R = w_uk_HNR.shape[1:]. Take the query's first N channels into the latent space: "
        "einsum('bhtn,hnr->bhtr', ...). Its scores with rows[..., :R], plus those of the last P "
        "channels with rows[..., R:], times scale; then mask and softmax.",
        "einsum('bhts,bsr->bhtr', weights, rows[..., :R]) sums latents, and "
        "einsum('bhtr,hvr->bhtv', that, w_uv_HVR) makes values of the sums",
    ),
    work="numbers made of the cached rows",
    work_slack=3.0,
    atol=1e-5,
)

# ---- low rank


def _product(result: object, args: tuple) -> object:
    """Both shapes and the product: how the singular values are shared out is free."""
    if not (isinstance(result, tuple | list) and len(result) == 2):
        return result
    up, down = result
    if not (isinstance(up, Tensor) and isinstance(down, Tensor)):
        return result
    shapes = {"shape of up": tuple(up.shape), "shape of down": tuple(down.shape)}
    fits = up.dim() == down.dim() == 2 and up.shape[1] == down.shape[0]
    return shapes | {"up @ down": up @ down if fits else "the inner sizes do not fit"}


def _rank_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    diagonal = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    cases = [Case((diagonal, 1), "a diagonal matrix 3, 2, 1, rank 1")]
    for C, D, rank in ((4, 6, 2), (7, 4, 3), (12, 8, 5), (5, 5, 5)):
        weight = torch.randn(C, D, generator=g)
        cases.append(Case((weight, rank), f"a weight ({C}, {D}), rank {rank}"))
    return cases


LOW_RANK_FACTORS = ExerciseSpec(
    name="c07.low_rank_factors",
    title="Two thin matrices for one",
    why="With it a trained model with keys and values becomes one with latents.",
    reference=low_rank_factors,
    cases=_rank_cases,
    wrong_answers=mistakes.LOW_RANK_FACTORS,
    hints=(
        "torch.linalg.svd(weight_CD, full_matrices=False) gives U, the singular values in falling "
        "order, and V already transposed.",
        "A rank of r keeps r directions: r columns of U, r singular values, r rows of V^T.",
        "u[:, :rank] * s[:rank] and vh[:rank]",
    ),
    observe=_product,
    atol=1e-5,
    rtol=1e-4,
)

EXERCISES = [POOL_HEADS, APPLY_ROPE_INTERLEAVED, LATENT_ROWS, MLA_ABSORBED, LOW_RANK_FACTORS]
