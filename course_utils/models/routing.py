"""What the routers of a model decide about a text, and the model with one expert switched off.

Left out: routing while a model trains, which `training.moe_balance` follows step by step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from course_utils.models.decoder import moe_layers
from course_utils.moe import MoE


@torch.no_grad()
def chosen_experts(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """The experts of every token in every MoE layer: (layers, B * T, K), best first.

    Raises ValueError for a model without experts.
    """
    layers = moe_layers(model)
    if not layers:
        raise ValueError("the model has no MoE layer: there is no routing to look at")
    model(ids_BT)
    return torch.stack([layer.routing.experts_TK for layer in layers])


@contextmanager
def without_expert(layer: MoE, expert: int) -> Iterator[None]:
    """Within the block no token of this layer gets `expert`; the next best takes its place.

    A bias of minus infinity closes it: the bias is used in the choice alone, so the weights of
    the others follow their scores. Raises ValueError for a router without a bias, and when too few
    experts are left.
    """
    bias_E = layer.gate.e_score_correction_bias
    if bias_E is None:
        raise ValueError("the router has no bias to close an expert with: use_routing_bias is off")
    if layer.config.num_experts_per_tok >= layer.config.num_choices:
        raise ValueError("every token takes every expert: none can be left out")
    kept = bias_E[expert].clone()
    bias_E[expert] = float("-inf")
    try:
        yield
    finally:
        bias_E[expert] = kept
