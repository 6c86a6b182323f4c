"""Magnitude pruning: the smallest weights become zero.

The oldest idea, and hard to beat at low sparsity: a small weight changes its output little, if all
inputs are about equally large. Within one matrix (`magnitude_mask`), or with one threshold for all
matrices of a model (`global_masks`), which lets layers with small weights lose more.

Left out: pruning in several rounds with training between them. Sources: LeCun et al. 1989,
"Optimal Brain Damage"; Han et al. 2015, "Learning both Weights and Connections", section 3.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def check_sparsity(sparsity: float) -> None:
    """Raise ValueError unless the share of weights to remove is from 0 to below 1."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}: it is the share to remove, from 0 to below 1")


def keep_largest(scores: Tensor, sparsity: float) -> Tensor:
    """True for all but the round(sparsity * n) lowest of n scores; the shape of the scores."""
    check_sparsity(sparsity)
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    lowest = scores.flatten().topk(round(sparsity * scores.numel()), largest=False).indices
    mask[lowest] = False
    return mask.view(scores.shape)


def magnitude_mask(weight_FD: Tensor, sparsity: float) -> Tensor:
    """True where a weight stays: all but the given share of smallest magnitudes of the matrix.

    Same as `torch.nn.utils.prune.l1_unstructured`.
    """
    return keep_largest(weight_FD.abs(), sparsity)


def global_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """One mask a matrix, with one threshold for all of them together."""
    flat = torch.cat([weight.abs().flatten() for weight in weights.values()])
    parts = keep_largest(flat, sparsity).split([weight.numel() for weight in weights.values()])
    return {n: p.view(w.shape) for (n, w), p in zip(weights.items(), parts, strict=True)}
