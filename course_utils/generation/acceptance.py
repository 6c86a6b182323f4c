"""Which tokens of a draft are kept, so that the text is the target's: greedy and sampled.

A cheap draft proposes K tokens; the target, the model whose text is wanted, gives its own
probabilities at all of them in one pass. Greedy: keep the draft while it is what the target would
have chosen. Sampled: keep a token x with probability min(1, p(x) / q(x)), with p the target's and q
the draft's distribution; at the first that is not kept, draw from max(0, p - q), renormalised.
Either way the target's last distribution gives one token more, so a round yields 1 to K + 1 tokens.

The sampled text has exactly the distribution p, whatever q is: a token x comes out with probability
min(q, p) from the draft, and with max(0, p - q) in place of a rejected one; together p.

Every draw is made from a number in [0, 1) that comes as argument, so that a result can be repeated
and all results can be enumerated. Left out: trees of drafts, and typical acceptance, which changes
the distribution.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", sections
2.3 and 3.1, appendix A.1; Chen et al. 2023, "Accelerating Large Language Model Decoding with
Speculative Sampling", algorithm 2.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def accepted_prefix(draft_K: Tensor, best_L: Tensor) -> int:
    """How many draft ids are kept in greedy decoding: those before the first that differs.

    draft (K,) ids; best (K + 1,) the target's likeliest id at each of these places and at the one
    after. The result is between 0 and K.
    """
    same_K = draft_K == best_L[: len(draft_K)]
    return int(same_K.long().cumprod(0).sum())


def draw(p_V: Tensor, uniform: float) -> int:
    """The id that a number in [0, 1) stands for: id i owns the part p[i] of the line.

    Ids of probability 0 are never drawn.
    """
    sums_V = p_V.cumsum(0)
    index = int((sums_V <= uniform * sums_V[-1]).sum())
    return min(index, int(p_V.nonzero()[-1]))


def residual_distribution(p_V: Tensor, q_V: Tensor) -> Tensor:
    """What a rejected draft token is replaced from: max(0, p - q), divided by its sum.

    Shapes (V,). Where p and q are equal nothing is ever rejected; then the result is p.
    """
    left_V = (p_V - q_V).clamp(min=0)
    total = left_V.sum()
    return left_V / total if total > 0 else p_V


def accept_or_replace(
    token: int, p_V: Tensor, q_V: Tensor, u_accept: float, u_draw: float
) -> tuple[int, bool]:
    """Keep a token drawn from q, or draw another, so that the result is distributed as p.

    p (V,) are the target's probabilities, q (V,) the draft's; u_accept and u_draw are two
    independent numbers in [0, 1). Returns the token, and whether it is the draft's.
    """
    if u_accept * q_V[token] < p_V[token]:
        return token, True
    return draw(residual_distribution(p_V, q_V), u_draw), False


def verify_greedy(draft_K: Tensor, best_L: Tensor, prefix: Callable = accepted_prefix) -> Tensor:
    """The 1 to K + 1 ids that a greedy round yields: what is kept, then the target's own next."""
    kept = prefix(draft_K, best_L)
    return torch.cat([draft_K[:kept], best_L[kept : kept + 1]])


def verify_sampled(
    draft_K: Tensor,
    q_KV: Tensor,
    p_LV: Tensor,
    uniform: Callable[[], float],
    accept: Callable = accept_or_replace,
) -> Tensor:
    """The 1 to K + 1 ids that a sampled round yields, distributed as the target's.

    draft (K,) drawn from q (K, V); p (K + 1, V) the target's probabilities at these places and at
    the one after. `uniform()` gives independent numbers in [0, 1).
    """
    ids = []
    for place, token in enumerate(draft_K.tolist()):
        token, kept = accept(token, p_LV[place], q_KV[place], uniform(), uniform())
        ids.append(token)
        if not kept:
            break
    else:
        ids.append(draw(p_LV[-1], uniform()))
    return torch.tensor(ids, device=draft_K.device)


def expected_tokens(acceptance: float, k: int) -> float:
    """Mean tokens of a round with k draft tokens, each kept with the same probability.

    1 + a + a^2 + ... + a^k = (1 - a^(k+1)) / (1 - a): the i-th is reached when all before it were
    kept, and the target adds one. k + 1 at a = 1. Source: Leviathan et al. 2023, equation 1.
    """
    if acceptance == 1:
        return float(k + 1)
    return (1 - acceptance ** (k + 1)) / (1 - acceptance)


def speedup(acceptance: float, k: int, verify_cost: float, draft_cost: float) -> float:
    """Tokens per unit of time against plain decoding, with costs in units of one plain step.

    verify_cost: one target pass over k + 1 tokens; draft_cost: one draft token.
    Source: Leviathan et al. 2023, theorem 3.8, where verify_cost is 1.
    """
    return expected_tokens(acceptance, k) / (verify_cost + k * draft_cost)


def break_even_acceptance(k: int, verify_cost: float, draft_cost: float) -> float | None:
    """The acceptance at which drafting costs as much as it brings; None if there is none below 1.

    0 when it pays even if nothing is kept.
    """
    low, high = 0.0, 1.0
    if speedup(high, k, verify_cost, draft_cost) <= 1:
        return None
    if speedup(low, k, verify_cost, draft_cost) >= 1:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if speedup(middle, k, verify_cost, draft_cost) < 1:
            low = middle
        else:
            high = middle
    return high
