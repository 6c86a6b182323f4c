"""The exercises of chapter 05: cut experts, a shared one, weights by family, specialisation.

The wrong answers stand in the files `_c05_*.py` beside this one.
"""

import random

import torch
from torch import Tensor

from course_utils.exercises import _c05_mistakes as mistakes
from course_utils.exercises import _c05_specialization_mistakes as specialization_mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count
from course_utils.moe import (
    MoEConfig,
    add_shared_expert,
    control_divergences,
    jensen_shannon,
    split_experts,
)
from course_utils.moe.routing import weigh


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- cutting experts


def _split_cases(rng: random.Random) -> list[Case]:
    odd = MoEConfig(8, 2, 3 * rng.randint(3, 9) + 1)
    rule = MoEConfig(
        rng.randint(5, 9),
        3,
        48,
        n_shared_experts=rng.randint(1, 2),
        scoring_func="sigmoid",
        use_routing_bias=True,
        norm_topk_prob=False,
        routed_scaling_factor=2.5,
    )
    return [
        Case((MoEConfig(2, 1, 8), 2), "two experts of width 8, top-1, each cut in two"),
        Case((MoEConfig(16, 2, 256), 1), "one piece: nothing changes"),
        Case((MoEConfig(16, 2, 256), 4), "the example of the paper"),
        Case((MoEConfig(8, 2, 192), 4, 1), "eight experts, top-2, in four pieces, one shared"),
        Case((MoEConfig(rng.randint(10, 20), 3, 72), 6, 2), "in six pieces, two of them shared"),
        Case((odd, 3), f"width {odd.moe_intermediate_size} in three pieces: cannot be"),
        Case((rule, 4, 1), "a config with shared experts and rules of its own"),
    ]


SPLIT_EXPERTS = ExerciseSpec(
    name="c05.split_experts",
    title="Cut the experts",
    why="It is the one change between Mixtral's eight experts and the hundreds of today's models.",
    reference=split_experts,
    cases=_split_cases,
    wrong_answers=mistakes.SPLIT_EXPERTS,
    hints=(
        "Three numbers change with m: how many experts, how many are chosen, how wide each is. "
        "What must the product of the last two be?",
        "Shared pieces are taken from both: from the experts to choose from and from the chosen. "
        "dataclasses.replace(config, num_experts=...) keeps all other fields.",
        "num_experts * pieces - shared, num_experts_per_tok * pieces - shared, "
        "moe_intermediate_size // pieces, n_shared_experts * pieces + shared; first raise "
        "ValueError if moe_intermediate_size % pieces",
    ),
)


# ---- a shared expert


def _shared_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)

    def case(T: int, D: int, width: int, gated: bool, says: str, dtype=torch.float32) -> Case:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g).to(dtype)

        weights = (normal(D, width), normal(D, width), normal(width, D))
        gate = (normal(D),) if gated else ()
        return Case((normal(T, D), normal(T, D), *weights, *gate), says)

    return [
        case(1, 2, 3, False, "one token, no gate"),
        case(1, 2, 3, True, "one token, with a gate"),
        case(4, 3, 5, False, "four tokens, no gate"),
        case(4, 3, 5, True, "four tokens, with a gate"),
        case(6, 8, 4, True, "float64, with a gate", torch.float64),
        case(0, 3, 4, True, "no token at all"),
    ]


ADD_SHARED_EXPERT = ExerciseSpec(
    name="c05.add_shared_expert",
    title="A shared expert",
    why="DeepSeek, Kimi, GLM and Qwen-Next have one; whether it is gated differs from family to "
    "family.",
    reference=add_shared_expert,
    cases=_shared_cases,
    wrong_answers=mistakes.ADD_SHARED_EXPERT,
    hints=(
        "The shared expert is a SwiGLU like any other: it does not ask the router.",
        "swiglu(x_TD @ w_gate_DF, x_TD @ w_up_DF) @ w_down_FD is its output. x_TD @ gate_D is one "
        "number a token, shape (T,).",
        "routed_TD + torch.sigmoid(x_TD @ gate_D)[:, None] * shared_TD with a gate, "
        "routed_TD + shared_TD without",
    ),
    gradients=True,
    atol=1e-5,
)


# ---- weights by family

_FAMILIES = {
    "Mixtral": MoEConfig(6, 2, 4),
    "Qwen1.5-MoE": MoEConfig(6, 3, 4, norm_topk_prob=False),
    "DeepSeek-V2": MoEConfig(6, 3, 4, norm_topk_prob=False, routed_scaling_factor=16.0),
    "gpt-oss": MoEConfig(6, 3, 4, scoring_func="softmax_of_chosen"),
    "DeepSeek-V3": MoEConfig(
        6, 3, 4, scoring_func="sigmoid", use_routing_bias=True, routed_scaling_factor=2.5
    ),
    "MiniMax-M2": MoEConfig(6, 3, 4, scoring_func="sigmoid", use_routing_bias=True),
    "a large floor": MoEConfig(6, 3, 4, moe_norm_min=0.25),
}


def _scored(logits_TE: Tensor, config: MoEConfig) -> Tensor:
    return logits_TE.sigmoid() if config.scoring_func == "sigmoid" else logits_TE.softmax(-1)


def _weigh_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for name, config in _FAMILIES.items():
        tokens, k = rng.randint(1, 4), config.num_experts_per_tok
        logits = torch.randn(tokens, 6, generator=g) * 2
        experts = torch.rand(tokens, 6, generator=g).argsort(-1)[:, :k]  # a bias may have chosen
        says = f"{name}: {count(tokens, 'token')}, top-{k}"
        cases.append(Case((logits, _scored(logits, config), experts, config), says))
    experts = torch.tensor([[5, 0, 3], [1, 2, 4]])
    silent = torch.full((2, 6), -200.0)
    config = _FAMILIES["DeepSeek-V3"]
    says = "logits of -200: every sigmoid is 0"
    cases.append(Case((silent, silent.sigmoid(), experts, config), says))
    logits = torch.randn(2, 6, generator=g, dtype=torch.float64)
    cases.append(Case((logits, _scored(logits, config), experts, config), "DeepSeek-V3, float64"))
    return cases


WEIGH = ExerciseSpec(
    name="c05.weigh",
    title="Weights by family",
    why="Five families differ in these lines alone, and serving code has shipped each of the "
    "mistakes.",
    reference=weigh,
    cases=_weigh_cases,
    wrong_answers=mistakes.WEIGH,
    hints=(
        "Which numbers belong to the chosen experts? gather takes them out of scores_TE.",
        "Three questions to the config, in this order: softmax_of_chosen? norm_topk_prob? what "
        "factor? `rules` has softmax_of_chosen(logits_TE, experts_TK) and renormalize(weights_TK, "
        "least).",
        'if config.scoring_func == "softmax_of_chosen": rules.softmax_of_chosen(...); otherwise '
        "scores_TE.gather(-1, experts_TK), then rules.renormalize(weights_TK, config.moe_norm_min) "
        "if config.norm_topk_prob. Last, times config.routed_scaling_factor.",
    ),
)


# ---- Jensen-Shannon divergence


def _divergence_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)

    def shares(*shape: int) -> Tensor:
        values = torch.rand(shape, generator=g) ** 3 + 0.01
        return values / values.sum(-1, keepdim=True)

    gaps = shares(8) * torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    return [
        Case((torch.tensor([1.0, 0]), torch.tensor([0, 1.0])), "no expert in common"),
        Case((torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5])), "the same shares"),
        Case((torch.tensor([0.5, 0.5, 0]), torch.tensor([0.5, 0, 0.5])), "one of two in common"),
        Case((shares(4), shares(4)), "four experts, all used"),
        Case((gaps / gaps.sum(), shares(8)), "two experts without a token on one side"),
        Case((shares(3, 5), shares(3, 5)), "three pairs at once"),
        Case((shares(16).double(), shares(16).double()), "float64"),
    ]


JENSEN_SHANNON = ExerciseSpec(
    name="c05.jensen_shannon",
    title="How far apart are two domains?",
    why="Claims that experts specialise need a number; this one has a fixed scale, 0 to 1 bit.",
    reference=jensen_shannon,
    cases=_divergence_cases,
    wrong_answers=specialization_mistakes.JENSEN_SHANNON,
    hints=(
        "The entropy of a mixture is at least the mean entropy of its parts. By how much?",
        "torch.special.entr(p_E) is -p ln p, and 0 at p = 0. Sum it over the last dimension, and "
        "divide by ln 2 for bits.",
        "entropy((p_E + q_E) / 2) - (entropy(p_E) + entropy(q_E)) / 2",
    ),
    rtol=1e-3,
    atol=1e-5,
)


# ---- the control


def _control_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for blocks, size, experts, k, domains in ((4, 3, 3, 1, 2), (6, 4, 5, 2, 3), (8, 16, 8, 2, 4)):
        kinds = torch.arange(blocks) % domains
        labels = kinds.repeat_interleave(size)
        drift = torch.randn(blocks, experts, generator=g).repeat_interleave(size, 0)
        logits = torch.randn(blocks * size, experts, generator=g) + 2 * drift
        chosen = logits.topk(k, dim=-1).indices
        orders = torch.stack([torch.randperm(blocks, generator=g) for _ in range(4)])
        says = f"{blocks} blocks of {size} tokens, {count(domains, 'domain')}, top-{k}, 4 orders"
        cases.append(Case((chosen, labels, experts, orders), says))
    return cases


CONTROL_DIVERGENCES = ExerciseSpec(
    name="c05.control_divergences",
    title="What chance alone gives",
    why="Any two samples differ a little. Without a control, chance looks like specialisation.",
    reference=control_divergences,
    cases=_control_cases,
    wrong_answers=specialization_mistakes.CONTROL_DIVERGENCES,
    hints=(
        "Only the labels move. After a row of orders_SP, which block's labels stand first?",
        "labels_N.view(P, -1) has one block a row; indexing it with a permutation puts the rows in "
        "another order; flatten() makes it labels again.",
        "[routing_divergence(experts_NK, blocks_PB[order_P].flatten(), num_experts) for order_P in "
        "orders_SP], with blocks_PB = labels_N.view(orders_SP.shape[1], -1)",
    ),
)

EXERCISES = [SPLIT_EXPERTS, ADD_SHARED_EXPERT, WEIGH, JENSEN_SHANNON, CONTROL_DIVERGENCES]
