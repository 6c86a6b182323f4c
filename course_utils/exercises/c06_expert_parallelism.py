"""The exercises of chapter 06: what is sent, what comes back, what it costs, who hosts what.

The wrong answers stand in the files `_c06_*.py` beside this one.
"""

import random
from typing import Any

import torch

from course_utils.exercises import _c06_mistakes as mistakes
from course_utils.exercises import _c06_placement_mistakes as placement_mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.moe import combine, copies_to_send, expected_copies, pack, replicate, wire_bytes


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- copies to send


def _copies_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)

    def case(T: int, K: int, ranks: int, says: str, lowest: int = 0) -> Case:
        rank_TK = torch.randint(lowest, ranks, (T, K), generator=g)
        return Case((rank_TK, ranks), says)

    return [
        Case((torch.tensor([[1, 1]]), 2), "one token, both experts on rank 1 of 2"),
        Case((torch.tensor([[0, 1]]), 2), "one token, experts on both of 2 ranks"),
        Case((torch.tensor([[2, 0, 2], [0, 1, 0]]), 3), "two tokens, three ranks"),
        Case((torch.tensor([[1, -1], [-1, -1], [0, 1]]), 3), "places without an expert: -1"),
        Case((torch.tensor([[0, 0], [3, 0]]), 5), "ranks that nobody needs"),
        case(7, 3, 4, "seven tokens, top-3, four ranks"),
        case(12, 4, 6, "twelve tokens, top-4, six ranks, some places empty", -1),
        case(40, 8, 8, "forty tokens, top-8, eight ranks"),
        Case((torch.zeros(0, 2, dtype=torch.long), 3), "a rank without tokens"),
    ]


COPIES_TO_SEND = ExerciseSpec(
    name="c06.copies_to_send",
    title="What is sent where",
    why="One copy for each rank, not for each expert: that is why limits on ranks save traffic.",
    reference=copies_to_send,
    cases=_copies_cases,
    wrong_answers=mistakes.COPIES_TO_SEND,
    hints=(
        "Ask one yes-or-no question for each rank and token: is any of the token's experts there?",
        "rank_TK == torch.arange(ranks)[:, None, None] is a table (ranks, T, K) of yes and no; "
        ".any(-1) leaves (ranks, T).",
        "nonzero(as_tuple=True) lists the places that are true, row by row: with a row for each "
        "rank that is the order asked for.",
    ),
)


# ---- combine


def _combine_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)

    def case(tokens: list[int], T: int, D: int, says: str, dtype=torch.float32) -> Case:
        y_CD = torch.randn(len(tokens), D, generator=g, dtype=dtype)
        return Case((y_CD, torch.tensor(tokens, dtype=torch.long), T), says)

    chosen = torch.rand(3, 9, generator=g) < 0.6
    chosen[:, 8] = False
    many = chosen.nonzero()[:, 1].tolist()
    return [
        case([0, 0], 1, 2, "one token that comes back from two ranks"),
        case([0, 1], 2, 3, "two tokens, one copy each"),
        case([1, 0, 1], 2, 3, "two tokens; token 1 has two copies"),
        case([0, 2, 0, 1, 0], 4, 3, "four tokens; the last has no copy"),
        case(many, 9, 4, "nine tokens, copies from three ranks"),
        case(many, 9, 4, "the same in float64", torch.float64),
        case([], 3, 2, "nothing came back"),
    ]


COMBINE = ExerciseSpec(
    name="c06.combine",
    title="Add up what comes back",
    why="The line that comes to mind first runs without an error, and loses experts.",
    reference=combine,
    cases=_combine_cases,
    wrong_answers=mistakes.COMBINE,
    hints=(
        "How many rows has the result, and what is a row before anything has come back?",
        "Begin with zeros of the right shape, dtype and device: y_CD.new_zeros(...). Which "
        "function adds rows at given places, also when a place occurs twice?",
        "y_CD.new_zeros(num_tokens, y_CD.shape[1]).index_add(0, token_C, y_CD)",
    ),
    gradients=True,
)


# ---- bytes on the wire


def _wire_cases(rng: random.Random) -> list[Case]:
    return [
        Case((1, 1, 1), "one copy of one number of one byte"),
        Case((1, 7168, 2), "one copy of a vector of DeepSeek-V3 in bfloat16"),
        Case((502, 64, 4), "502 copies, width 64, float32"),
        Case((rng.randint(2, 9999), rng.randint(65, 4096), rng.choice([2, 4])), "some sizes"),
        Case((0, 64, 4), "nothing to send"),
    ]


WIRE_BYTES = ExerciseSpec(
    name="c06.wire_bytes",
    title="Bytes of a training step",
    why="A formula that equals the counted bytes says that nothing was forgotten.",
    reference=wire_bytes,
    cases=_wire_cases,
    wrong_answers=mistakes.WIRE_BYTES,
    hints=(
        "Follow one copy through forward and backward. How often does a vector of its width cross "
        "the wire?",
        "Dispatch, combine, and backward the gradient of each.",
        "4 * copies * width * bytes_per_number",
    ),
)


# ---- expected copies


def _expected_cases(rng: random.Random) -> list[Case]:
    ranks, size = rng.randint(4, 9), rng.randint(4, 8)
    m, k = rng.randint(2, 3), rng.randint(3, 6)
    E = ranks * size
    return [
        Case((4, 1, 2), "4 experts, top-1, 2 ranks"),
        Case((4, 2, 2), "4 experts, top-2, 2 ranks"),
        Case((4, 4, 2), "4 experts, all of them chosen, 2 ranks"),
        Case((6, 2, 1), "a single rank"),
        Case((16, 4, 4, 1), "16 experts, top-4, 4 ranks, limit 1"),
        Case((16, 4, 4, 2), "16 experts, top-4, 4 ranks, limit 2"),
        Case((16, 4, 4, 4), "16 experts, top-4, 4 ranks, a limit of all 4"),
        Case((E, k, ranks), f"{E} experts, top-{k}, {ranks} ranks"),
        Case((E, k, ranks, m), f"{E} experts, top-{k}, {ranks} ranks, limit {m}"),
        Case((256, 8, 8, 4), "DeepSeek-V3: 256 experts, top-8, 8 nodes, limit 4"),
        Case((256, 8, 32), "256 experts, top-8, 32 ranks"),
    ]


EXPECTED_COPIES = ExerciseSpec(
    name="c06.expected_copies",
    title="How many copies on average?",
    why="It says what a plan for 32 or 144 GPUs sends, before anybody has them.",
    reference=expected_copies,
    cases=_expected_cases,
    wrong_answers=mistakes.EXPECTED_COPIES,
    hints=(
        "Averages add up: find the chance that ONE open rank is needed, and multiply by the number "
        "of open ranks. The chance to miss it is easier.",
        "There are math.comb(n, k) ways to choose k of n experts. n is m * E / ranks for all, and "
        "E / ranks less for those that miss a given rank.",
        "m * (1 - comb(m * size - size, k) / comb(m * size, k)) * (ranks - 1) / ranks, with "
        "size = num_experts // ranks and m = limit or ranks",
    ),
)


# ---- replicate


def _loads(rng: random.Random, many: int) -> list[int]:
    """Distinct loads, a few of them hot."""
    return [round(load) for load in (rng.uniform(2, 9) ** 3 + i for i in range(many))]


def _replicate_cases(rng: random.Random) -> list[Case]:
    wide = _loads(rng, 12)
    return [
        Case(([3, 1], 2), "as many slots as experts"),
        Case(([3, 1], 3), "one slot more"),
        Case(([5, 4, 1], 5), "two slots more"),
        Case(([7, 7, 7, 7], 6), "equal loads"),
        Case(([90, 20, 25, 10], 8), "one expert as hot as all others"),
        Case(([100, 30, 28, 26], 8), "the third copy of one against the second of another"),
        Case(([60, 32, 0, 1], 7), "an expert without load"),
        Case(([0.2, 0.5, 0.3], 6), "loads as shares of 1"),
        Case((wide, 16), "12 experts, 16 slots"),
        Case(([float(load) for load in _loads(rng, 16)], 24), "16 experts, 24 slots, floats"),
    ]


REPLICATE = ExerciseSpec(
    name="c06.replicate",
    title="Copies for the hot",
    why="One hot expert makes all ranks wait; a second copy of it halves that.",
    reference=replicate,
    cases=_replicate_cases,
    wrong_answers=placement_mistakes.REPLICATE,
    hints=(
        "Each expert has one slot. Who gets the next one? And after that, is the same expert still "
        "the hottest?",
        "Keep a list of copies, all 1 at first. An expert with c copies has loads_E[e] / c on "
        "each.",
        "max(range(E), key=lambda e: loads_E[e] / copies[e]) finds the hottest, the lower number "
        "first; append it, raise its copies by 1, until there are `slots` entries.",
    ),
)


# ---- pack


def _pack_cases(rng: random.Random) -> list[Case]:
    return [
        Case(([4, 3, 2, 1], 2), "four items, two boxes"),
        Case(([1, 2, 3, 4], 2), "the same from light to heavy"),
        Case(([9, 1, 1, 1, 1, 1], 2), "one heavy item, five light ones"),
        Case(([5, 5, 5, 5, 5, 5], 3), "equal weights"),
        Case(([10, 9, 2, 1, 1, 1], 3), "six items, three boxes"),
        Case(([8, 7, 6, 5], 1), "a single box"),
        Case(([20, 3, 3, 9, 8, 2, 1, 1, 10], 3), "nine items, three boxes"),
        Case((_loads(rng, 16), 4), "16 items, four boxes"),
        Case(([load / 7 for load in _loads(rng, 24)], 6), "24 items, six boxes, floats"),
    ]


def _in_any_order(result: Any, args: tuple) -> Any:
    """Boxes with their items sorted: in which order a box was filled does not matter."""
    if not isinstance(result, list | tuple):
        return result
    try:
        return [sorted(box) for box in result]
    except TypeError:  # a box that is no box: compared as it is
        return result


PACK = ExerciseSpec(
    name="c06.pack",
    title="Heavy beside light",
    why="All ranks have the same memory, so the same number of experts; what differs is the load.",
    reference=pack,
    cases=_pack_cases,
    wrong_answers=placement_mistakes.PACK,
    hints=(
        "Which item is hardest to place? Put it first.",
        "Keep each box's items and its total. Of the boxes that have room, take the one with the "
        "smallest total.",
        "for item in sorted(range(n), key=lambda i: -weights[i]): box = min((b for b in "
        "range(boxes) if len(contents[b]) < n // boxes), key=lambda b: totals[b])",
    ),
    observe=_in_any_order,
)

EXERCISES = [COPIES_TO_SEND, COMBINE, WIRE_BYTES, EXPECTED_COPIES, REPLICATE, PACK]
