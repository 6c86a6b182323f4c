"""The exercises of chapter 03: routing, the mixture, sorting by expert, capacity, and the cost.

The wrong answers stand in the files `_c03_*mistakes.py` beside this one.
"""

import random

import torch
from torch import Tensor

from course_utils.accounting.moe_layer import moe_layer_cost
from course_utils.exercises import _c03_dispatch_mistakes as dispatch_mistakes
from course_utils.exercises import _c03_mistakes as mistakes
from course_utils.exercises._c03_counted_weights import counted_weights
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count
from course_utils.moe import beyond_capacity, experts_loop, route_top_k, sort_by_expert


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


def _choices(tokens: int, num_experts: int, k: int, g: torch.Generator) -> Tensor:
    """k different experts for each token, at random."""
    return torch.rand(tokens, num_experts, generator=g).topk(k, dim=-1).indices


# ---- top-k routing


def _route_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = [
        Case((torch.tensor([[1.0, 3.0, 2.0, 0.0]]), 2), "one token, logits 1, 3, 2, 0"),
        Case((torch.tensor([[-1.0, -2.0, -0.5]]), 2), "one token, all logits negative"),
        Case((torch.zeros(1, 1), 1), "one token and one expert"),
        Case((torch.tensor([[0.5, 2.0, 1.0]]), 1), "one expert for each token"),
        Case((torch.tensor([[0.5, 2.0, 1.0]]), 3), "k = E: all experts"),
    ]
    for tokens, num_experts, k in ((2, 4, 2), (5, 6, 3), (4, 16, 4)):
        logits = torch.randn(tokens, num_experts, generator=g) * 2
        cases.append(Case((logits, k), f"{tokens} tokens, {num_experts} experts, top-{k}"))
    large = torch.tensor([[200.0, -200, 199, 0], [-150, -151, -300, -149]])
    cases.append(Case((large, 2), "logits of 200 and -300; exp(200) is infinite in float32"))
    double = torch.randn(3, 5, generator=g, dtype=torch.float64)
    cases.append(Case((double, 2), "3 tokens in float64"))
    batch = torch.randn(2, 3, 4, generator=g) * 2
    return [*cases, Case((batch, 2), "a batch in front: (B, T, E)")]


ROUTE_TOP_K = ExerciseSpec(
    name="c03.route_top_k",
    title="Top-k routing",
    why="These few lines decide which parameters a token sees, in every model of this part.",
    reference=route_top_k,
    cases=_route_cases,
    wrong_answers=mistakes.ROUTE_TOP_K,
    hints=(
        "Two questions: which k experts have the largest logits, and how do their outputs share "
        "a weight of 1?",
        "torch.topk(..., k, dim=-1) returns the values first and the indices second, best first.",
        "values_TK, experts_TK = logits_TE.topk(k, dim=-1); the softmax of these k values over "
        "the last dimension are the weights.",
    ),
    gradients=True,
)


# ---- the mixture


def _mixture(
    g: torch.Generator, tokens: int, num_experts: int, k: int, experts: Tensor | None = None, **kind
) -> tuple:
    D, width = 4, 6
    shapes = ((num_experts, D, width), (num_experts, D, width), (num_experts, width, D))
    gate, up, down = (torch.randn(shape, generator=g, **kind) for shape in shapes)
    x = torch.randn(tokens, D, generator=g, **kind)
    weights = torch.rand(tokens, k, generator=g, **kind) + 0.1
    experts = _choices(tokens, num_experts, k, g) if experts is None else experts
    return x, experts, weights, gate, up, down


def _mixture_case(says: str, *arguments: Tensor) -> Case:
    def make() -> tuple:
        x, experts, weights, gate, up, down = (tensor.clone() for tensor in arguments)
        return x, experts, weights, counted_weights(gate), up, down

    return Case(says=says, make=make)


def _loop_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = [_mixture_case("one token, one expert", *_mixture(g, 1, 1, 1))]
    for tokens, num_experts, k in ((1, 4, 2), (3, 3, 3), (4, 5, 1), (9, 6, 3)):
        says = f"{count(tokens, 'token')}, {num_experts} experts, top-{k}"
        cases.append(_mixture_case(says, *_mixture(g, tokens, num_experts, k)))
    same = torch.tensor([[2, 0]] * 4)
    cases.append(_mixture_case("all tokens choose experts 2 and 0", *_mixture(g, 4, 4, 2, same)))
    double = _mixture(g, 3, 4, 2, dtype=torch.float64)
    return [*cases, _mixture_case("3 tokens in float64", *double)]


EXPERTS_LOOP = ExerciseSpec(
    name="c03.experts_loop",
    title="The mixture, without waste",
    why="Here the saving is won or lost: the same numbers with k experts a token, or with all E.",
    reference=experts_loop,
    cases=_loop_cases,
    wrong_answers=dispatch_mistakes.EXPERTS_LOOP,
    hints=(
        "Go through the experts. Which tokens chose this one, and with what weight?",
        "tokens, place = torch.where(experts_TK == e) gives the rows and, for each, the column: "
        "x_TD[tokens] are the expert's rows, weights_TK[tokens, place, None] their weights.",
        "y_TD = torch.zeros_like(x_TD) at first; for each expert "
        "y_TD = y_TD.index_add(0, tokens, weight * expert(rows, w_gate_EDF[e], w_up_EDF[e], "
        "w_down_EFD[e])).",
    ),
    gradients=True,
    work="rows through experts",
    atol=1e-4,
)


# ---- sorting by expert


def _sort_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = [
        Case((torch.tensor([[1, 0]]), 2), "one token that chose experts 1 and 0"),
        Case((torch.tensor([[0]]), 1), "one token, one expert"),
        Case((torch.tensor([[0, 2], [2, 0]]), 4), "experts 1 and 3 were chosen by nobody"),
        Case((torch.tensor([[1], [1], [1]]), 3), "three tokens, all to expert 1"),
    ]
    for tokens, num_experts, k in ((3, 4, 2), (6, 5, 3), (20, 8, 2)):
        experts = _choices(tokens, num_experts, k, g)
        cases.append(Case((experts, num_experts), f"{tokens} tokens, top-{k} of {num_experts}"))
    return cases


def _any_order_within_a_block(result: tuple, args: tuple) -> tuple:
    """An order that brings equal experts together counts as the stable one."""
    order_S, ends_E = result
    chosen_S = args[0].flatten()
    stable_S = chosen_S.argsort(stable=True)
    every_pair = torch.equal(order_S.sort().values, torch.arange(len(chosen_S)))
    if every_pair and torch.equal(chosen_S[order_S], chosen_S[stable_S]):
        order_S = stable_S
    return order_S, ends_E


SORT_BY_EXPERT = ExerciseSpec(
    name="c03.sort_by_expert",
    title="Sort the pairs by expert",
    why="Blocks of neighbouring rows are what fast kernels and devices exchange.",
    reference=sort_by_expert,
    cases=_sort_cases,
    wrong_answers=dispatch_mistakes.SORT_BY_EXPERT,
    hints=(
        "Lay all pairs in one row. Which order brings equal experts together?",
        "argsort(stable=True) of experts_TK.flatten() is that order. bincount counts the pairs of "
        "each expert; minlength keeps room for experts that nobody chose.",
        "counts_E = experts_TK.flatten().bincount(minlength=num_experts); the ends are "
        "counts_E.cumsum(0).",
    ),
    observe=_any_order_within_a_block,
)


# ---- capacity


def _capacity_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = [
        Case((torch.tensor([[0], [0], [0]]), 2, 1), "three tokens want expert 0, which takes one"),
        Case((torch.tensor([[0, 1], [1, 0], [0, 2]]), 3, 1), "three tokens, two experts each"),
        Case((torch.tensor([[0, 1], [1, 2]]), 3, 2), "room for all"),
        Case((torch.tensor([[1]]), 2, 0), "a capacity of 0"),
    ]
    for tokens, num_experts, k, capacity in ((6, 3, 2, 3), (9, 4, 2, 3), (16, 4, 3, 9)):
        experts = _choices(tokens, num_experts, k, g)
        says = f"{tokens} tokens, top-{k} of {num_experts}, capacity {capacity}"
        cases.append(Case((experts, num_experts, capacity), says))
    return cases


BEYOND_CAPACITY = ExerciseSpec(
    name="c03.beyond_capacity",
    title="Who comes too late",
    why="A dropped token is not an error message: the model is quietly worse, and in training too.",
    reference=beyond_capacity,
    cases=_capacity_cases,
    wrong_answers=mistakes.BEYOND_CAPACITY,
    hints=(
        "Give each pair a number: how many pairs of the same expert have come so far?",
        "F.one_hot(experts_TK.flatten(), num_experts) has a 1 in the column of each pair's "
        "expert. cumsum(0) then counts down each column.",
        "gather(1, experts_TK.flatten()[:, None]) takes each pair's own number, 1 for an expert's "
        "first; late are those above the capacity. view_as(experts_TK) gives (T, k) back.",
    ),
)


# ---- what a layer costs


def _cost_cases(rng: random.Random) -> list[Case]:
    cases = [
        Case((1, 1, 1, 1), "all sizes 1: one expert of one channel"),
        Case((4096, 8, 2, 14336), "Mixtral-8x7B"),
        Case((7168, 256, 8, 2048, 1), "DeepSeek-V3, with one shared expert"),
    ]
    for shared in (0, 2, 3):
        num_experts = rng.randint(6, 40)
        k = rng.randint(2, 5)
        sizes = (8 * rng.randint(2, 90), num_experts, k, 8 * rng.randint(2, 90))
        cases.append(Case((*sizes, shared), f"{count(shared, 'shared expert')}"))
    return cases


MOE_LAYER_COST = ExerciseSpec(
    name="c03.moe_layer_cost",
    title="What a layer of experts costs",
    why="Memory pays for the total, time for the active part: every comparison needs both.",
    reference=moe_layer_cost,
    cases=_cost_cases,
    wrong_answers=mistakes.MOE_LAYER_COST,
    hints=(
        "How many numbers has one expert? How many experts are stored, and how many does a token "
        "go through?",
        "An expert is 3 * hidden_size * moe_intermediate_size, the router hidden_size * "
        "num_experts. Shared experts count in both, and the router has nothing to do with them.",
        "active = router + (num_experts_per_tok + n_shared_experts) * expert; a token costs two "
        "operations for each active weight.",
    ),
)

EXERCISES = [ROUTE_TOP_K, EXPERTS_LOOP, SORT_BY_EXPERT, BEYOND_CAPACITY, MOE_LAYER_COST]
