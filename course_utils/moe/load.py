"""How evenly tokens spread over experts: counts, and numbers made of them.

Devices that host experts work side by side, so a step takes as long as the busiest expert: the
maximum is what costs time, the entropy says how many experts are in use at all. Measured per layer
and batch. Left out: averages over a validation set (add the counts of its batches first).
"""

import torch
from torch import Tensor


def expert_counts(experts_TK: Tensor, num_experts: int) -> Tensor:
    """Tokens assigned to each expert (E,), int64; together T * k."""
    return torch.bincount(experts_TK.flatten(), minlength=num_experts)


def max_violation(counts_E: Tensor) -> float:
    """MaxVio: load of the busiest expert over the mean load, minus 1.

    0 is perfect balance; E / k - 1, all tokens on the same k experts, is the most there can be.
    NaN without any token. Source: Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy
    for Mixture-of-Experts", section 4.1, here per batch (MaxVio_batch).
    """
    loads_E = counts_E.double()
    return float(loads_E.max() / loads_E.mean() - 1)


def load_entropy(counts_E: Tensor) -> float:
    """Entropy of the distribution of tokens over experts, divided by that of even loads, log E.

    1 is perfect balance, 0 one expert that gets everything; log k / log E is complete collapse onto
    k experts. NaN without any token or with a single expert.
    """
    shares_E = counts_E.double() / counts_E.sum()
    return float(torch.special.entr(shares_E).sum() / torch.tensor(float(len(shares_E))).log())


def dropped_share(counts_E: Tensor, capacity: int) -> float:
    """Share of the T * k assignments lost where no expert takes more than `capacity` of them."""
    return float((counts_E - capacity).clamp(min=0).sum() / counts_E.sum())
