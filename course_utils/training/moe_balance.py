"""Balance of experts while a model trains: losses and steps for `train`, and a record of the loads.

    trace = BalanceTrace()
    train(model, stream, config, extra_losses=[AuxiliaryLoss(0.01)], after_step=[trace])

Each works on the routing that the model's MoE layers kept from the last forward pass. A loss is
summed over the layers, each balanced by itself. Left out: loads summed over several devices, which
a run with data parallelism must do before `BiasUpdate`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from course_utils.moe.balance import (
    load_balancing_loss,
    router_z_loss,
    sequence_balance_loss,
    update_bias,
)
from course_utils.moe.load import expert_counts, load_entropy, max_violation
from course_utils.moe.routing import Routing


def routed_layers(model: nn.Module) -> list[nn.Module]:
    """The modules that hold a routing of the last forward pass, in the order of the model.

    Raises ValueError when there is none.
    """
    layers = [m for m in model.modules() if isinstance(getattr(m, "routing", None), Routing)]
    if not layers:
        raise ValueError("no MoE layer has routed tokens: give a model with MoE layers, and run it")
    return layers


def layer_counts(model: nn.Module) -> Tensor:
    """Tokens per layer and expert (L, E) in the last forward pass."""
    routings = [layer.routing for layer in routed_layers(model)]
    return torch.stack([expert_counts(r.experts_TK, r.scores_TE.shape[-1]) for r in routings])


@dataclass(frozen=True)
class AuxiliaryLoss:
    """`coefficient` times the sum over layers of the load-balancing loss (1 a layer at best)."""

    coefficient: float

    def __call__(self, model: nn.Module) -> Tensor:
        losses = [
            load_balancing_loss(r.experts_TK, r.scores_TE / r.scores_TE.sum(-1, keepdim=True))
            for r in (layer.routing for layer in routed_layers(model))
        ]
        return self.coefficient * torch.stack(losses).sum()


@dataclass(frozen=True)
class SequenceLoss:
    """The same with balance within each sequence of `length` tokens, as in DeepSeek-V3."""

    coefficient: float
    length: int

    def __call__(self, model: nn.Module) -> Tensor:
        losses = []
        for layer in routed_layers(model):
            experts_TK, scores_TE = layer.routing.experts_TK, layer.routing.scores_TE
            if len(experts_TK) % self.length:
                raise ValueError(
                    f"length {self.length} does not divide the {len(experts_TK)} tokens of a "
                    "batch: give the length of the training windows"
                )
            experts_BTK = experts_TK.unflatten(0, (-1, self.length))
            scores_BTE = scores_TE.unflatten(0, (-1, self.length))
            losses.append(sequence_balance_loss(experts_BTK, scores_BTE))
        return self.coefficient * torch.stack(losses).sum()


@dataclass(frozen=True)
class ZLoss:
    """`coefficient` times the sum over layers of the router z-loss."""

    coefficient: float

    def __call__(self, model: nn.Module) -> Tensor:
        losses = [router_z_loss(layer.routing.logits_TE) for layer in routed_layers(model)]
        return self.coefficient * torch.stack(losses).sum()


@dataclass(frozen=True)
class BiasUpdate:
    """After each step, moves every layer's routing bias by `speed` against the loads.

    Raises ValueError for a layer without a bias.
    """

    speed: float

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> None:
        for layer, counts_E in zip(routed_layers(model), layer_counts(model), strict=True):
            bias_E = getattr(layer.gate, "e_score_correction_bias", None)
            if bias_E is None:
                raise ValueError("an MoE layer has no bias to update: set use_routing_bias=True")
            bias_E.copy_(update_bias(bias_E, counts_E, self.speed))


@dataclass
class BalanceTrace:
    """Called after each step, keeps the loads of that step's batch, by step and layer.

    `counts_SLE` holds tokens per layer and expert (L, E), from which the share that any capacity
    would drop follows (`moe.dropped_share`); MaxVio and load entropy are computed.
    """

    counts_SLE: list[Tensor] = field(default_factory=list)
    max_violations_SL: list[list[float]] = field(default_factory=list)
    entropies_SL: list[list[float]] = field(default_factory=list)

    def __call__(self, model: nn.Module) -> None:
        counts_LE = layer_counts(model).cpu()
        self.counts_SLE.append(counts_LE)
        self.max_violations_SL.append([max_violation(counts_E) for counts_E in counts_LE])
        self.entropies_SL.append([load_entropy(counts_E) for counts_E in counts_LE])
