"""Cutting experts out of a model: stacks, router rows, router bias, and the config's count.

After the cut the experts have new numbers, 0 to E' - 1, so the router's rows and the entries of its
bias must move with them: a row that stays behind sends its tokens to a stranger. The rule of the
router and the number of experts per token stay, so a token costs what it cost. What shrinks is the
memory.

Left out: routers whose experts stand in groups, and merging experts in place of dropping them.
Sources: Lu et al. 2024, "Not All Experts are Equal", section 3.2 (by output change); Chen et al.
2022, "Task-Specific Expert Pruning", section 3 (by load).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from course_utils.models import DecoderLM
from course_utils.moe import MoE, MoEConfig
from course_utils.pruning.rebuild import check_lists, rebuilt

STACKS = "w_gate_EDF", "w_up_EDF", "w_down_EFD"
BIAS = "gate.e_score_correction_bias"


def cut_experts(
    gate_ED: Tensor,
    bias_E: Tensor | None,
    w_gate_EDF: Tensor,
    w_up_EDF: Tensor,
    w_down_EFD: Tensor,
    kept: list[int],
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """Router rows, router bias and the three stacks with the kept experts alone, in that order.

    Rows of the router behind the last real expert belong to identity experts and stay.
    """
    kept = list(kept)
    rows = kept + list(range(len(w_gate_EDF), len(gate_ED)))
    bias_E = None if bias_E is None else bias_E[rows]
    return gate_ED[rows], bias_E, w_gate_EDF[kept], w_up_EDF[kept], w_down_EFD[kept]


def fewer_experts(config: MoEConfig, count: int) -> MoEConfig:
    """The config with `count` experts to choose from; k stays. ValueError where k is more."""
    if config.n_group > 1:
        raise ValueError(f"n_group is {config.n_group}: experts in groups are not cut here")
    return replace(config, num_experts=count)


def smaller_moe(layer: MoE, kept: Sequence[int], cut: Callable = cut_experts) -> MoE:
    """One MoE layer with the kept experts alone: same router rule, same k, same shared experts."""
    config = fewer_experts(layer.config, len(kept))
    with torch.device("meta"):
        smaller = MoE(layer.gate.weight.shape[1], config, route=layer.route)
    weights = moe_weights(layer.state_dict(), kept, cut)
    smaller.load_state_dict({k: w.clone() for k, w in weights.items()}, assign=True)
    return smaller.train(layer.training)


def moe_weights(weights: Mapping[str, Tensor], kept: Sequence[int], cut: Callable) -> dict:
    """The weights of an MoE layer by name, with the kept experts alone."""
    stacks = [f"experts.{name}" for name in STACKS]
    bias = BIAS if BIAS in weights else None
    router = weights["gate.weight"], weights[bias] if bias else None
    new_gate, new_bias, *new = cut(*router, *(weights[name] for name in stacks), kept)
    found = dict(weights) | {"gate.weight": new_gate} | dict(zip(stacks, new, strict=True))
    if bias:
        found[bias] = new_bias
    if "gate.bias" in weights:  # gpt-oss's: part of the linear map
        rows = [*kept, *range(len(weights[stacks[0]]), len(weights["gate.bias"]))]
        found["gate.bias"] = weights["gate.bias"][rows]
    return found


def prune_experts(
    model: DecoderLM, kept_LE: Sequence[Sequence[int]], cut: Callable = cut_experts, **parts
) -> DecoderLM:
    """The model with the given experts of each MoE layer, and routers that know no others.

    Raises ValueError for a model without experts, fewer experts than k, or lists of two lengths.
    """
    config, weights = model.config, dict(model.state_dict())
    if config.moe is None:
        raise ValueError("the model has no experts: prune heads, channels or layers")
    first = config.moe.first_k_dense_replace
    check_lists("experts", kept_LE, config.num_hidden_layers - first, config.moe.num_experts)
    for layer, kept in enumerate(kept_LE, first):
        base = f"model.layers.{layer}.mlp."
        own = {n.removeprefix(base): w for n, w in weights.items() if n.startswith(base)}
        weights |= {f"{base}{n}": w for n, w in moe_weights(own, kept, cut).items()}
    moe = fewer_experts(config.moe, len(kept_LE[0]))
    return rebuilt(model, replace(config, moe=moe), weights, **parts)
