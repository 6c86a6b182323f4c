"""Do experts specialise? Who gets which tokens, compared between kinds of text, with a control.

For each label (a domain, or a type of token) the shares of its assignments over the experts form a
distribution. Two labels whose tokens go to the same experts have equal distributions; the
Jensen-Shannon divergence says in bits how far apart they are, from 0 to 1 (no expert in common).

A finite number of tokens never gives exactly 0. So every divergence is shown beside a control: the
same number with the labels permuted, several seeds, mean and spread. Neighbouring tokens are alike,
so labels are permuted in blocks (`block`, a whole window of text at best): permuting single tokens
makes the control too small, and chance looks like specialisation.

Source: Lin 1991, "Divergence Measures Based on the Shannon Entropy", equation 4.2. Token-level maps
as in Xue et al. 2024, "OpenMoE", section 4. Left out: what experts do to their tokens.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def expert_shares(
    experts_NK: Tensor, labels_N: Tensor, num_experts: int, num_labels: int
) -> Tensor:
    """Shares of each label's assignments over experts (labels, E), float64; each row sums to 1.

    The row of a label without tokens is NaN.
    """
    pairs_NK = labels_N[:, None] * num_experts + experts_NK
    counts = torch.bincount(pairs_NK.flatten(), minlength=num_labels * num_experts)
    counts_GE = counts.view(num_labels, num_experts).double()
    return counts_GE / counts_GE.sum(-1, keepdim=True)


def jensen_shannon(p_E: Tensor, q_E: Tensor) -> Tensor:
    """Jensen-Shannon divergence in bits of distributions along the last axis: 0 equal, 1 disjoint.

    Entropy of the middle (p + q) / 2 minus the mean of both entropies; other axes broadcast.
    """

    def entropy(shares_E: Tensor) -> Tensor:
        return torch.special.entr(shares_E).sum(-1) / torch.tensor(2.0).log()

    return entropy((p_E + q_E) / 2) - (entropy(p_E) + entropy(q_E)) / 2


def routing_divergence(experts_NK: Tensor, labels_N: Tensor, num_experts: int) -> float:
    """Mean Jensen-Shannon divergence, in bits, over all pairs of labels that have tokens.

    Raises ValueError when there are fewer than two.
    """
    present, numbers_N = labels_N.unique(return_inverse=True)
    if len(present) < 2:
        raise ValueError(f"labels are {present.tolist()}: a divergence needs at least two")
    shares_GE = expert_shares(experts_NK, numbers_N, num_experts, len(present))
    one, other = torch.triu_indices(len(present), len(present), offset=1)
    return float(jensen_shannon(shares_GE[one], shares_GE[other]).mean())


def control_divergences(
    experts_NK: Tensor, labels_N: Tensor, num_experts: int, orders_SP: Tensor
) -> list[float]:
    """The routing divergence with the labels in another order, once for each row of orders_SP.

    A row permutes P equal blocks of labels_N; routing stays where it is. Several rows, because one
    permutation is one draw of chance.
    """
    blocks_PB = labels_N.view(orders_SP.shape[1], -1)
    return [
        routing_divergence(experts_NK, blocks_PB[order_P].flatten(), num_experts)
        for order_P in orders_SP.to(labels_N.device)
    ]


@dataclass(frozen=True)
class Specialization:
    """Routing divergence in bits, and the same under permuted labels: mean, standard deviation."""

    divergence: float
    control_mean: float
    control_spread: float

    @property
    def beyond_chance(self) -> bool:
        """More than the control by over twice its spread."""
        return self.divergence > self.control_mean + 2 * self.control_spread


def measure_specialization(
    experts_NK: Tensor,
    labels_N: Tensor,
    num_experts: int,
    *,
    block: int = 1,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> Specialization:
    """The routing divergence between labels beside its shuffled control.

    `block` consecutive tokens keep their labels together. Raises ValueError when it does not divide
    the number of tokens, or with fewer than two seeds.
    """
    if len(labels_N) % block or len(seeds) < 2:
        raise ValueError(
            f"block {block} must divide the {len(labels_N)} tokens, and a spread needs two seeds "
            f"(there are {len(seeds)})"
        )
    blocks = len(labels_N) // block
    chances = [torch.Generator().manual_seed(seed) for seed in seeds]
    orders_SP = torch.stack([torch.randperm(blocks, generator=chance) for chance in chances])
    controls = control_divergences(experts_NK, labels_N, num_experts, orders_SP)
    measured = routing_divergence(experts_NK, labels_N, num_experts)
    return Specialization(measured, statistics.mean(controls), statistics.stdev(controls))


def top_tokens(
    experts_NK: Tensor, ids_N: Tensor, num_experts: int, *, best: int = 8, least: int = 10
) -> list[list[tuple[int, float]]]:
    """For each expert the `best` token ids it attracts most: (id, share of its occurrences).

    A share of 1 means that the expert is among the k of every occurrence. Only ids that occur at
    least `least` times; equal shares are in order of frequency.
    """
    ids, numbers_N, seen = ids_N.unique(return_inverse=True, return_counts=True)
    pairs_NK = experts_NK * len(ids) + numbers_N[:, None]
    routed = torch.bincount(pairs_NK.flatten(), minlength=num_experts * len(ids))
    tables = routed.view(num_experts, len(ids)).tolist()
    ids, seen = ids.tolist(), seen.tolist()
    frequent = [n for n in range(len(ids)) if seen[n] >= least]
    result = []
    for row in tables:
        found = sorted((n for n in frequent if row[n]), key=lambda n: (-row[n] / seen[n], -seen[n]))
        result.append([(ids[n], row[n] / seen[n]) for n in found[:best]])
    return result
