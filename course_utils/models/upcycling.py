"""Upcycling: a mixture of experts that begins as exactly the dense model it is made of.

Training from nothing is the largest cost of a model. A dense model already has what the experts
should know, so each expert begins as a copy of its MLP. All copies give the same output, and
weights that sum to 1 mix them to that output, whatever the router says: the new model computes the
old function. Training then sends different tokens to different copies, and they part.

Fine-grained experts of width F = I / m are the m pieces of the MLP: its I channels are cut, and the
sum of the pieces is the MLP. The experts stand in virtual groups of m, one whole MLP each. The m
rows of a group in the router begin equal, so that a token takes a group whole or not at all: it
gets every piece equally often, k / m times, with equal weight. The weights sum to 1, so a piece
comes with 1 / m in all, and the down projections are multiplied by m.

Refused is every config for which this is not exact. Equal rows hold the groups together for
random rows; where two groups tie, as in a router of zeros, top-k may cut both, unless `n_group` is
the number of virtual groups. Left out: noise on the copies, and shared experts.

Sources: Komatsuzaki et al. 2022, "Sparse Upcycling" (copies); He et al. 2024, "Upcycling Large
Language Models into Mixture of Experts" (virtual groups, and scaled weights).
"""

from dataclasses import replace

import torch
from torch import Tensor

from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM
from course_utils.moe import MoE, MoEConfig


@torch.no_grad()
def upcycle(dense: DecoderLM, moe: MoEConfig, seed: int = 0, **parts) -> DecoderLM:
    """A model with the experts of `moe` that gives the logits of `dense`.

    The width `moe_intermediate_size` F decides the kind: with the dense `intermediate_size` I every
    expert is a copy of the MLP; with I / m the experts are its m pieces. Routers are drawn from
    `seed`. `parts` (norm, rope, attend, route, dispatch) go to `DecoderLM`. Raises ValueError,
    naming the key, for a config with which the function would not be the same.
    """
    pieces = pieces_of(dense.config, moe)
    model = DecoderLM(replace(dense.config, moe=moe), seed=seed, **parts)
    weight = dense.lm_head.weight
    model.to(weight.device, weight.dtype)
    kept = {name: w for name, w in dense.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(kept, strict=False)
    for new, old in zip(model.model.layers, dense.model.layers, strict=True):
        if isinstance(new.mlp, MoE):
            fill(new.mlp, old.mlp, pieces)
    return model.train(dense.training)


def fill(layer: MoE, mlp: torch.nn.Module, pieces: int) -> None:
    """Make the experts pieces of the MLP, group after group, and the rows of each group equal."""
    groups = layer.config.num_experts // pieces
    scale = pieces / layer.config.routed_scaling_factor
    experts, rows_GD = layer.experts, layer.gate.weight[:groups].clone()
    experts.w_gate_EDF.copy_(cut(mlp.gate_proj.weight, pieces).mT.repeat(groups, 1, 1))
    experts.w_up_EDF.copy_(cut(mlp.up_proj.weight, pieces).mT.repeat(groups, 1, 1))
    down_PFD = cut(mlp.down_proj.weight.T, pieces)
    experts.w_down_EFD.copy_(scale * down_PFD.repeat(groups, 1, 1))
    layer.gate.weight.copy_(rows_GD.repeat_interleave(pieces, dim=0))


def cut(weight_ID: Tensor, pieces: int) -> Tensor:
    """The I channels of a weight in equal pieces: (pieces, I / pieces, D)."""
    return weight_ID.reshape(pieces, -1, weight_ID.shape[1])


def pieces_of(dense: ModelConfig, moe: MoEConfig) -> int:
    """Into how many pieces the MLP is cut; ValueError where the function would not be the same."""
    if dense.moe is not None:
        raise ValueError("the model has experts already: upcycle a dense one")
    wide, narrow = dense.intermediate_size, moe.moe_intermediate_size
    if wide % narrow:
        raise ValueError(
            f"moe_intermediate_size {narrow} does not divide the dense intermediate_size {wide}: "
            "experts are the MLP or equal pieces of it"
        )
    _check_rule(moe)
    pieces = wide // narrow
    counts = {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_tok,
        "num_experts / n_group": moe.num_experts // moe.n_group,
    }
    for name, count in counts.items():
        if count % pieces:
            raise ValueError(
                f"{name} is {count}: it must be a multiple of the {pieces} pieces of the MLP, so "
                "that every token gets each piece equally often"
            )
    return pieces


def _check_rule(moe: MoEConfig) -> None:
    if not moe.norm_topk_prob and moe.scoring_func != "softmax_of_chosen":
        raise ValueError(
            "norm_topk_prob is False: the weights do not sum to 1, and mixed copies would not give "
            "what one gives; set it to True"
        )
    if moe.moe_norm_min > 1e-12:
        raise ValueError(
            f"moe_norm_min is {moe.moe_norm_min}: small weights would not sum to 1; leave it out"
        )
    additions = {
        "n_shared_experts": (moe.n_shared_experts, 0),
        "zero_expert_num": (moe.zero_expert_num, 0),
        "num_hash_layers": (moe.num_hash_layers, 0),
        "capacity_factor": (moe.capacity_factor, None),
    }
    for name, (value, none) in additions.items():
        if value != none:
            raise ValueError(
                f"{name} is {value}: it would change the function; upcycle with {none}"
            )
