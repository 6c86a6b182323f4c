"""The exercises of chapter 12: masks (Wanda, 2:4), importance of channels and layers, cutting.

The wrong answers stand in the files `_c12_*mistakes.py` beside this one.
"""

import random

import torch
from torch import Tensor

from course_utils.exercises import _c12_cutting_mistakes as cutting
from course_utils.exercises import _c12_mistakes as mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count
from course_utils.pruning import (
    block_influence,
    channel_importance,
    cut_experts,
    cut_heads,
    two_four_mask,
    wanda_mask,
)


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- Wanda


def _wanda_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    weight = torch.tensor([[1.0, -2.0, 3.0, -4.0], [-3.0, 2.5, 2.0, 1.0]])
    x_TD = torch.tensor([[4.0, 1.0, 1.0, 0.5], [-4.0, 1.0, 0.5, 0.5], [4.0, -3.0, 1.0, 0.0]])
    cases = [
        Case((weight, x_TD[:2], 0.5), "two rows, four inputs, half of them go"),
        Case((weight, x_TD, 0.25), "one of four goes"),
    ]
    for rows, inputs, tokens, share in ((4, 6, 6, 0.5), (8, 8, 8, 0.5), (5, 16, 40, 0.7)):
        large = torch.rand(inputs, generator=g) * 3 + 0.1
        x = torch.randn(tokens, inputs, generator=g) * large
        w = torch.randn(rows, inputs, generator=g)
        says = f"{rows} outputs, {inputs} inputs, {count(tokens, 'token')}, sparsity {share}"
        cases.append(Case((w, x, share), says))
    return [*cases, Case((weight, x_TD, 0.0), "sparsity 0: all stay")]


WANDA_MASK = ExerciseSpec(
    name="c12.wanda_mask",
    title="Judge a weight with its input",
    why="Large language models have a few input channels a hundred times as large as the others; "
    "their small weights matter most.",
    reference=wanda_mask,
    cases=_wanda_cases,
    wrong_answers=mistakes.WANDA_MASK,
    hints=(
        "Weight w[f, d] changes output f by w[f, d] * x[t, d]. How large is that over all tokens?",
        "x_TD.square().sum(0).sqrt() is the norm of every channel. argsort(dim=-1, stable=True) "
        "sorts each row of the scores; how many of its first places go?",
        "lowest = scores.argsort(dim=-1, stable=True)[:, : int(sparsity * D)], then "
        "torch.ones_like(weight_FD, dtype=torch.bool).scatter(-1, lowest, False)",
    ),
)

# ---- 2:4


def _two_four_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    sizes = ((4, 4), (4, 8), (8, 16), (12, 24))
    cases = [
        Case((torch.tensor([[3.0, 4.0, 1.0, 2.0]]).expand(4, 4).contiguous(),), "four equal rows"),
        Case((torch.ones(4, 8),), "all scores equal"),
        Case((torch.randn(4, 6, generator=g),), "6 inputs: cannot be"),
    ]
    made = [Case((torch.randn(s, generator=g),), f"{s[0]} outputs, {s[1]} inputs") for s in sizes]
    return [*cases, *made]


TWO_FOUR_MASK = ExerciseSpec(
    name="c12.two_four_mask",
    title="Two of every four",
    why="It is the one sparsity that tensor cores multiply faster, and only along the inputs.",
    reference=two_four_mask,
    cases=_two_four_cases,
    wrong_answers=mistakes.TWO_FOUR_MASK,
    hints=(
        "Which four weights belong to one sum? Look at the shape (F, D): outputs by inputs.",
        "scores_FD.unflatten(-1, (-1, 4)) has the groups in its last dimension; "
        "argsort(dim=-1, descending=True, stable=True)[..., :2] are the two places that stay.",
        "torch.zeros_like(fours, dtype=torch.bool).scatter(-1, best, True).flatten(-2); before it, "
        "raise ValueError if scores_FD.shape[-1] % 4",
    ),
)

# ---- importance of channels


def _channel_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    down = torch.tensor([[1.0, 0.0, 3.0], [1.0, 0.0, -4.0], [0.0, 2.0, 0.0]])
    hidden = torch.tensor([[2.0, 5.0, 1.0], [-2.0, 5.0, 0.0]])
    cases = [Case((hidden, down), "two tokens, three channels, model width 3")]
    for tokens, D, width in ((1, 2, 2), (4, 4, 4), (5, 3, 6), (9, 8, 20)):
        h = torch.randn(tokens, width, generator=g) * (torch.rand(width, generator=g) + 0.1)
        says = f"{count(tokens, 'token')}, {width} channels, model width {D}"
        cases.append(Case((h, torch.randn(D, width, generator=g)), says))
    return cases


CHANNEL_IMPORTANCE = ExerciseSpec(
    name="c12.channel_importance",
    title="What a channel adds",
    why="A wrong side of one matrix, and the model keeps the parts that it does not need.",
    reference=channel_importance,
    cases=_channel_cases,
    wrong_answers=mistakes.CHANNEL_IMPORTANCE,
    hints=(
        "The output is hidden_TF @ down_DF.T, a sum over channels. Write the term of channel f: "
        "a number times a vector.",
        "The length of that vector is |hidden[t, f]| times the length of column f. Which dimension "
        "of down_DF do you sum over to get F numbers?",
        "hidden_TF.square().mean(0).sqrt() * down_DF.square().sum(0).sqrt()",
    ),
)

# ---- heads


def _head_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)

    def case(heads: int, groups: int, d: int, D: int, kept: list[int], says: str = "") -> Case:
        def weight(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g)

        given = weight(heads * d, D), weight(groups * d, D), weight(groups * d, D)
        words = f"{heads} heads on {groups}, heads {kept} stay{says}"
        return Case((*given, weight(D, heads * d), kept, d), words)

    return [
        case(2, 2, 2, 4, [1], ": every head has its own key"),
        case(4, 2, 2, 8, [2, 3], ": one whole group"),
        case(4, 2, 2, 8, [1, 3], ": one of each group"),
        case(6, 2, 2, 12, [0, 1, 5], ": two of one group, one of the other"),
        case(6, 3, 2, 12, [0, 1, 4, 5], ": two groups of three"),
        case(6, 2, 4, 24, [1, 2, 3, 5], ": two of three in each group"),
        case(8, 2, 2, 16, [7, 5, 4, 6], ": given out of order"),
    ]


CUT_HEADS = ExerciseSpec(
    name="c12.cut_heads",
    title="Cut heads out of four matrices",
    why="A head has rows in one matrix, columns in another, and shares a third and fourth.",
    reference=cut_heads,
    cases=_head_cases,
    wrong_answers=cutting.CUT_HEADS,
    hints=(
        "Which matrices have a head's channels as rows, which has them as columns? Which heads "
        "share a key?",
        "q_CD.unflatten(0, (-1, head_dim)) is (H, d, D) and o_DC.unflatten(1, (-1, head_dim)) is "
        "(D, H, d): index the heads there. Head h belongs to group h // (H // G).",
        "kept = sorted(kept); groups = sorted({h // size for h in kept}); q[kept], k[groups], "
        "v[groups], each .flatten(0, 1), and o[:, kept].flatten(1). First count the heads of every "
        "group, and raise ValueError if they differ.",
    ),
)

# ---- block influence


def _influence_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    turned = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    cases = [
        Case((x, 3 * x), "every vector three times as long: no turn"),
        Case((x, turned), "one of two tokens turned by a right angle"),
        Case((x, -x), "every vector turned round"),
    ]
    for T, D in ((1, 3), (6, 4), (30, 16)):
        long = torch.rand(T, 1, generator=g) * 5 + 0.1
        before = torch.randn(T, D, generator=g) * long
        after = before + torch.randn(T, D, generator=g)
        cases.append(Case((before, after), f"{count(T, 'token')}, width {D}"))
    return cases


BLOCK_INFLUENCE = ExerciseSpec(
    name="c12.block_influence",
    title="How far a layer turns a token",
    why="One line decides which layers leave; with its sign turned the best ones do.",
    reference=block_influence,
    cases=_influence_cases,
    wrong_answers=cutting.BLOCK_INFLUENCE,
    hints=(
        "What is the cosine of a vector with itself? How important is a layer that changes "
        "nothing?",
        "torch.cosine_similarity(x_TD, y_TD, dim=-1) gives one number a token.",
        "float(1 - torch.cosine_similarity(x_TD, y_TD, dim=-1).mean())",
    ),
)

# ---- experts


def _expert_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)

    def case(E: int, kept: list[int], bias: bool, spare: int = 0) -> Case:
        def weight(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g)

        stacks = weight(E, 3, 4), weight(E, 3, 4), weight(E, 4, 3)
        rows = E + spare
        says = f"{E} experts, {kept} stay, {'a' if bias else 'no'} bias"
        says += f", {count(spare, 'identity expert')}" if spare else ""
        return Case((weight(rows, 3), weight(rows) if bias else None, *stacks, kept), says)

    return [
        case(2, [1], False),
        case(2, [1], True),
        case(4, [0, 2, 3], True),
        case(6, [5, 1, 3], True),
        case(8, [2, 3, 6, 7], True, spare=2),
        case(8, [7, 0, 4], False, spare=1),
    ]


CUT_EXPERTS = ExerciseSpec(
    name="c12.cut_experts",
    title="Cut experts, and tell the router",
    why="A router whose rows stay behind runs without an error and sends tokens to strangers.",
    reference=cut_experts,
    cases=_expert_cases,
    wrong_answers=cutting.CUT_EXPERTS,
    hints=(
        "After the cut, what number does the expert kept[0] have? Which row of the router decides "
        "over it?",
        "Five tensors have the experts as first dimension; tensor[list(kept)] takes them in that "
        "order. The router may have more rows than there are experts: len(gate_ED) against "
        "len(w_gate_EDF).",
        "rows = list(kept) + list(range(len(w_gate_EDF), len(gate_ED))); gate_ED[rows], "
        "bias_E[rows] unless it is None, and the three stacks with list(kept)",
    ),
)

EXERCISES = [
    WANDA_MASK,
    TWO_FOUR_MASK,
    CHANNEL_IMPORTANCE,
    CUT_HEADS,
    BLOCK_INFLUENCE,
    CUT_EXPERTS,
]
