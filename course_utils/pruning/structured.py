"""Structured pruning: whole heads, channels, layers or experts leave, and the model is smaller.

A mask keeps every zero in memory and multiplies by it. Here rows and columns are cut out, so that
parameters, bytes and operations go down together, in a model that any software can run: the result
is an ordinary `DecoderLM` whose config says its new sizes.

Whatever is cut must leave on both sides. A channel has a row in `gate` and `up` and a column in
`down`; a query head has rows in `q_proj` and columns in `o_proj`, and takes its key-value head
along when it was the last of its group. Experts are in `experts` of this room.

All layers keep equally many, since a config has one number for all. Left out: the width of the
stream itself, which Minitron cuts as well, and merging parts in place of dropping them.
Sources: Muralidharan et al. 2024 (Minitron), section 2; Men et al. 2024 (ShortGPT), section 3.3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from course_utils.models import DecoderLM
from course_utils.moe import MoE
from course_utils.pruning.rebuild import check_lists, rebuilt

STACKS = "w_gate_EDF", "w_up_EDF", "w_down_EFD"
GROUPED = "q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"


def cut_channels(
    gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor, kept: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """gate, up and down of a SwiGLU with the kept channels alone, as new tensors."""
    return gate_FD[list(kept)], up_FD[list(kept)], down_DF[:, list(kept)]


def cut_heads(
    q_CD: Tensor,
    k_CD: Tensor,
    v_CD: Tensor,
    o_DC: Tensor,
    kept: list[int],
    head_dim: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, o with the kept query heads alone, and with the key-value heads that they need.

    Shapes: q (H * d, D), k and v (G * d, D), o (D, H * d); query heads h of one group, H / G
    neighbours, share a key-value head. A group stays if one of its heads does. Raises ValueError
    when the groups that stay keep different numbers of heads.
    """
    q_HdD, k_GdD, v_GdD = (w.unflatten(0, (-1, head_dim)) for w in (q_CD, k_CD, v_CD))
    o_DHd = o_DC.unflatten(1, (-1, head_dim))
    size = len(q_HdD) // len(k_GdD)
    kept = sorted(kept)
    owners = [head // size for head in kept]
    groups = sorted(set(owners))
    if len({owners.count(group) for group in groups}) != 1:
        raise ValueError(f"heads {kept} leave groups of different sizes: keep as many in each")
    smaller = q_HdD[kept], k_GdD[groups], v_GdD[groups]
    return *(w.flatten(0, 1) for w in smaller), o_DHd[:, kept].flatten(1)


def prune_heads(
    model: DecoderLM, kept_LH: Sequence[Sequence[int]], cut: Callable = cut_heads, **parts
) -> DecoderLM:
    """The model with the given query heads of each layer. ValueError where that cannot be."""
    config, weights, widths = model.config, dict(model.state_dict()), set()
    if config.mla is not None or config.layer_types is not None:
        raise ValueError("only grouped-query attention has heads to cut here: mla or layer_types")
    check_lists("heads", kept_LH, config.num_hidden_layers, config.num_attention_heads)
    for layer, kept in enumerate(kept_LH):
        names = [f"model.layers.{layer}.self_attn.{name}" for name in GROUPED]
        new = cut(*(weights[name] for name in names), kept, config.head_dim)
        weights |= dict(zip(names, new, strict=True))
    widths = {
        weights[f"model.layers.{n}.self_attn.k_proj.weight"].shape[0] for n in range(layer + 1)
    }
    if len(widths) != 1:
        raise ValueError("layers keep different numbers of key-value heads: keep equally many")
    heads = {"num_attention_heads": len(kept_LH[0])}
    heads["num_key_value_heads"] = widths.pop() // config.head_dim
    return rebuilt(model, replace(config, **heads), weights, **parts)


def prune_channels(
    model: DecoderLM,
    kept: Sequence[Mapping[str, Sequence]],
    cut: Callable = cut_channels,
    **parts,
) -> DecoderLM:
    """The model with the given feed-forward channels of each layer.

    `kept` has for each layer what `channel_scores` has: {"mlp": [...]}, or {"experts": one list for
    each expert, "shared": [...]}. All experts keep equally many; the shared experts n times that.
    """
    config, weights = model.config, dict(model.state_dict())
    narrow, narrow_experts = config.intermediate_size, None
    for layer, (own, part) in enumerate(zip(kept, model.model.layers, strict=True)):
        base = f"model.layers.{layer}.mlp"
        if not isinstance(part.mlp, MoE):
            narrow = len(own["mlp"])
            weights |= _cut_mlp(weights, base, own["mlp"], cut)
            continue
        narrow_experts = len(own["experts"][0])
        stacks = [weights[f"{base}.experts.{name}"].transpose(1, 2) for name in STACKS]
        new = [cut(*of, chosen) for *of, chosen in zip(*stacks, own["experts"], strict=True)]
        for name, stack in zip(STACKS, zip(*new, strict=True), strict=True):
            weights[f"{base}.experts.{name}"] = torch.stack(stack).transpose(1, 2)
        if part.mlp.shared_experts is not None:
            weights |= _cut_mlp(weights, f"{base}.shared_experts", own["shared"], cut)
    moe = config.moe
    if moe is not None and narrow_experts is not None:
        moe = replace(moe, moe_intermediate_size=narrow_experts)
    return rebuilt(model, replace(config, intermediate_size=narrow, moe=moe), weights, **parts)


def _cut_mlp(weights: Mapping[str, Tensor], base: str, kept: Sequence[int], cut: Callable) -> dict:
    names = [f"{base}.{part}_proj.weight" for part in ("gate", "up", "down")]
    return dict(zip(names, cut(*(weights[name] for name in names), kept), strict=True))


def prune_layers(model: DecoderLM, kept: Sequence[int], **parts) -> DecoderLM:
    """The model with the given layers alone, in their old order."""
    config, old = model.config, model.state_dict()
    check_lists("layers", [kept], 1, config.num_hidden_layers)
    kept = sorted(kept)
    weights = {n: w for n, w in old.items() if not n.startswith("model.layers.")}
    for new, layer in enumerate(kept):
        start = f"model.layers.{layer}."
        names = [name for name in old if name.startswith(start)]
        weights |= {f"model.layers.{new}.{n.removeprefix(start)}": old[n] for n in names}
    changes: dict = {"num_hidden_layers": len(kept)}
    if config.layer_types is not None:
        changes["layer_types"] = tuple(config.layer_types[n] for n in kept)
    if config.moe is not None:
        dense = sum(n < config.moe.first_k_dense_replace for n in kept)
        changes["moe"] = replace(config.moe, first_k_dense_replace=dense)
    return rebuilt(model, replace(config, **changes), weights, **parts)
