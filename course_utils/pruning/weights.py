"""The matrices of a model that pruning may thin out, and what the model puts into them.

`prunable` names the matrix products of the layers: projections of attention, feed-forward parts,
experts. Each is seen as (out, in), experts as (E, out, in), whatever its layout in memory, and as a
view: what is written into it is in the model. `masked` gives a copy with zeros where a mask is
False: the same shapes, the same bytes, the same operations. Nothing is saved yet.

Left out: the embedding (its rows are looked up), norms, and routers (small, and they decide where
tokens go).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.layers import swiglu
from course_utils.models import DecoderLM
from course_utils.moe.layer import Experts


def prunable(model: DecoderLM) -> dict[str, Tensor]:
    """The matrices by name, as views (..., out, in) of the model's weights, without gradient."""
    found: dict[str, Tensor] = {}
    for name, part in model.model.layers.named_modules(prefix="layers"):
        if isinstance(part, nn.Linear) and not name.endswith("shared_expert_gate"):
            found[name] = part.weight.detach()
        elif isinstance(part, Experts):
            stacked = dict(part.named_parameters())
            found |= {f"{name}.{n}": w.detach().transpose(1, 2) for n, w in stacked.items()}
    return found


@torch.no_grad()
def masked(model: DecoderLM, masks: Mapping[str, Tensor]) -> DecoderLM:
    """A copy of the model with zeros where a mask (True: keep) is False.

    Raises ValueError for a name or a shape that is not among `prunable`.
    """
    model = copy.deepcopy(model)
    weights = prunable(model)
    for name, mask in masks.items():
        if name not in weights or weights[name].shape != mask.shape:
            shape = tuple(weights[name].shape) if name in weights else None
            raise ValueError(
                f"the mask {name!r} has shape {tuple(mask.shape)}, the model's weight {shape}: "
                "make masks from `prunable` of this model"
            )
        weights[name].mul_(mask)
    return model


def share_of_zeros(model: DecoderLM) -> float:
    """The share of zeros among all prunable weights."""
    weights = list(prunable(model).values())
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@torch.no_grad()
def watch(
    model: DecoderLM,
    modules: Sequence[nn.Module],
    ids_BT: Tensor,
    look: Callable[[nn.Module, tuple, Tensor], Any],
) -> list[Any]:
    """`look(module, inputs, output)` of each module when the model reads the ids, in their order.

    Looking at once, and keeping only what `look` gives, spares the memory of all activations.
    """
    found: dict[nn.Module, Any] = {}
    hooks = [
        module.register_forward_hook(
            lambda part, inputs, output: found.__setitem__(part, look(part, inputs, output))
        )
        for module in modules
    ]
    try:
        model(ids_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[module] for module in modules]


def expert_rows(experts: Experts, inputs: tuple) -> list[tuple[Tensor, Tensor]]:
    """For each expert, the token vectors (N, D) that it got, and its hidden channels (N, F)."""
    x_TD, experts_TK, _ = inputs
    rows = []
    for e, (gate_DF, up_DF) in enumerate(zip(experts.w_gate_EDF, experts.w_up_EDF, strict=True)):
        x_ND = x_TD[(experts_TK == e).any(-1)]
        rows.append((x_ND, swiglu(x_ND @ gate_DF, x_ND @ up_DF)))
    return rows
