"""The Mixture-of-Experts layer: in place of one MLP, a router and many, of which k see a token.

logits = x @ gate; the router's rule makes of them k experts and k weights per token; the dispatch
computes them. Shared experts see every token and are stored as one wider MLP. Both parts are
arguments: `route` is any function (logits_TE, config, bias_E) -> Routing, `dispatch` any function
with the signature of those in `experts`.

Source: DeepSeek-AI 2024, "DeepSeek-V3", equations 12 to 16; the gated shared expert is Qwen2-MoE's.
Left out: jitter and noise of the logits (Switch, Shazeer et al. 2017), which no family of chapter
05 uses. Layers that route by a table of token ids are in `routing`.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.layers import MLP
from course_utils.moe.capacity import beyond_capacity, drop, expert_capacity
from course_utils.moe.config import MoEConfig
from course_utils.moe.routing import Routing, route
from course_utils.moe.segments import experts_fast


class Gate(nn.Module):
    """The router's weights: one row per expert, and with `use_routing_bias` one bias per expert.

    That bias moves the choice alone. gpt-oss's `router_bias` is another: part of the linear map,
    learned like any weight.

    Logits are computed in at least 32 bits, as Switch Transformers does (section 2.4): rounding
    moves tokens to other experts. The bias keeps 32 bits too: its updates are small steps.
    """

    def __init__(self, hidden_size: int, config: MoEConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_choices, hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.num_choices)) if config.router_bias else None
        bias = torch.zeros(config.num_choices) if config.use_routing_bias else None
        self.register_buffer("e_score_correction_bias", bias)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x_TD: Tensor) -> Tensor:
        dtype = torch.promote_types(x_TD.dtype, torch.float32)
        with torch.autocast(x_TD.device.type, enabled=False):
            bias_E = None if self.bias is None else self.bias.to(dtype)
            return F.linear(x_TD.to(dtype), self.weight.to(dtype), bias_E)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Gate":
        before = self.e_score_correction_bias
        super()._apply(fn, recurse)
        after = self.e_score_correction_bias
        if after is not None and after.element_size() < 4:
            self.e_score_correction_bias = before.to(after.device)
        return self


class Experts(nn.Module):
    """E experts as three stacked weights, and the function that brings the tokens to them."""

    def __init__(self, hidden_size: int, config: MoEConfig, dispatch: Callable):
        super().__init__()
        E, D, width = config.num_experts, hidden_size, config.moe_intermediate_size
        self.w_gate_EDF = nn.Parameter(torch.empty(E, D, width))
        self.w_up_EDF = nn.Parameter(torch.empty(E, D, width))
        self.w_down_EFD = nn.Parameter(torch.empty(E, width, D))
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.02)
        self.dispatch = dispatch

    def forward(self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        kind, dtype = x_TD.device.type, x_TD.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        x_TD, weights_TK, *stacked = (
            tensor.to(dtype) for tensor in (x_TD, weights_TK, *self.parameters())
        )
        return self.dispatch(x_TD, experts_TK, weights_TK, *stacked)


class MoE(nn.Module):
    """router + experts (+ shared experts): x (..., D) to the same shape.

    After a forward pass, `routing` holds the router's decision with its graph, for auxiliary
    losses; `dropped` (num_choices,) counts the pairs per expert that capacity dropped from it.
    """

    def __init__(
        self,
        hidden_size: int,
        config: MoEConfig,
        *,
        route: Callable = route,
        dispatch: Callable | None = None,
    ):
        super().__init__()
        self.config, self.route = config, route
        if dispatch is None:
            skips = bool(config.zero_expert_num) or config.capacity_factor is not None
            dispatch = partial(experts_fast, identity=skips)
        self.gate = Gate(hidden_size, config)
        self.experts = Experts(hidden_size, config, dispatch)
        self.shared_experts = self.shared_expert_gate = None
        if config.n_shared_experts:
            width = config.n_shared_experts * config.moe_intermediate_size
            self.shared_experts = MLP(hidden_size, width)
        if config.use_shared_expert_gate:
            self.shared_expert_gate = nn.Linear(hidden_size, 1, bias=False)
        self.routing: Routing | None = None
        self.dropped: Tensor | None = None

    def forward(self, x_TD: Tensor) -> Tensor:
        shape, x_TD = x_TD.shape, x_TD.reshape(math.prod(x_TD.shape[:-1]), x_TD.shape[-1])
        self.routing = self.route(self.gate(x_TD), self.config, self.gate.e_score_correction_bias)
        y_TD = self.experts(x_TD, *self._within_capacity(self.routing))
        if self.shared_experts is not None:
            shared_TD = self.shared_experts(x_TD)
            if self.shared_expert_gate is not None:
                shared_TD = torch.sigmoid(self.shared_expert_gate(x_TD)) * shared_TD
            y_TD = y_TD + shared_TD
        return y_TD.view(shape)

    def _within_capacity(self, routing: Routing) -> tuple[Tensor, Tensor]:
        """Experts and weights as computed, and `dropped`: what the limit takes out."""
        experts_TK, weights_TK = routing.experts_TK, routing.weights_TK
        choices = self.config.num_choices
        self.dropped = experts_TK.new_zeros(choices)
        if self.config.capacity_factor is None:
            return experts_TK, weights_TK
        capacity = expert_capacity(len(experts_TK), self.config)
        late_TK = beyond_capacity(experts_TK, self.config.num_experts, capacity)
        self.dropped.scatter_add_(0, experts_TK.flatten(), late_TK.flatten().long())
        return drop(experts_TK, weights_TK, late_TK, nowhere=choices)

    def __getstate__(self) -> dict:
        """Without the last decision: it hangs on a graph, which can be neither copied nor saved."""
        return self.__dict__ | {"routing": None, "dropped": None}
