"""A router that drifts, without a model behind it: what balancing has to keep up with.

Every step a batch of tokens arrives. A token's logits are what the task wants of each expert, plus
the token's own noise. What the task wants starts uneven (`skew`) and wanders (`drift`): that is
what training does to a router. Two ways to balance may act on it, each by its own rule:

- the bias of `update_bias`, speed u, used in the choice alone;
- an offset of the logits that learns by gradient descent from coefficient * auxiliary loss, and
  from the task, which pulls it back to zero with a loss of TASK_PULL / 2 * offset^2.

What it leaves out: experts that get better with use, so nothing collapses by itself here; the skew
is given. It shows the controllers, not how a language model fares. Source: the two rules are those
of `balance`; the drifting task is the course's own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.moe.balance import load_balancing_loss, update_bias
from course_utils.moe.load import expert_counts
from course_utils.moe.routing import route_with_bias

TASK_PULL = 0.01  # how strongly the task holds on to the logits that it wants


@dataclass(frozen=True)
class DriftingRouter:
    """The setting. Raises ValueError on values that cannot be.

    `skew` and `drift` are standard deviations, of the logits between experts at the start, and of
    their change in a step; a token's own noise has deviation 1.
    """

    num_experts: int = 16
    num_experts_per_tok: int = 2
    skew: float = 1.0
    drift: float = 0.02
    bias_speed: float = 0.0
    coefficient: float = 0.0
    learning_rate: float = 1.0
    tokens: int = 512
    steps: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}: it must be 1 to "
                f"num_experts, {self.num_experts}"
            )
        for name in ("skew", "drift", "bias_speed", "coefficient", "learning_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 0 or more")
        for name in ("tokens", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


def simulate_loads(setting: DriftingRouter) -> Tensor:
    """Tokens per step and expert (S, E), int64; the same tokens for every way to balance."""
    generator = torch.Generator().manual_seed(setting.seed)
    E, k = setting.num_experts, setting.num_experts_per_tok
    wanted_E = setting.skew * torch.randn(E, generator=generator)
    bias_E, offset_E = torch.zeros(E), torch.zeros(E)
    loads = []
    for _ in range(setting.steps):
        wanted_E = wanted_E + setting.drift * torch.randn(E, generator=generator)
        noise_TE = torch.randn(setting.tokens, E, generator=generator)
        logits_TE = wanted_E + offset_E + noise_TE
        experts_TK, _ = route_with_bias(logits_TE, bias_E, k)
        loads.append(expert_counts(experts_TK, E))
        bias_E = update_bias(bias_E, loads[-1], setting.bias_speed)
        if setting.coefficient:
            slope_E = setting.coefficient * _slope(logits_TE, experts_TK) + TASK_PULL * offset_E
            offset_E = offset_E - setting.learning_rate * slope_E
    return torch.stack(loads)


def _slope(logits_TE: Tensor, experts_TK: Tensor) -> Tensor:
    """Gradient of the auxiliary loss with respect to an offset of all tokens' logits (E,)."""
    logits_TE = logits_TE.requires_grad_()
    scores_TE = logits_TE.sigmoid()
    loss = load_balancing_loss(experts_TK, scores_TE / scores_TE.sum(-1, keepdim=True))
    return torch.autograd.grad(loss, logits_TE)[0].sum(0)
