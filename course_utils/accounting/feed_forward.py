"""The feed-forward part of a layer: one SwiGLU, or a router with many small ones.

A SwiGLU of width F has three matrices, gate, up and down: 3 D F. Of E routed experts a token uses
k; shared experts are used by every token. A correction bias (DeepSeek-V3) shifts which experts are
chosen and is stored in the checkpoint, although no gradient trains it.

Identity experts (LongCat-Flash) are chosen like others, so the router has rows for them; they have
no weights. A token that takes some uses fewer parameters: `activated` counts k real experts.
"""

from dataclasses import dataclass

from course_utils.accounting.tensors import (
    BIASES,
    DENSE,
    NORMS,
    ROUTED,
    ROUTER,
    SHARED,
    Weight,
    matrix,
    vector,
)


def swiglu(name: str, part: str, inputs: int, width: int, copies: int, active: int) -> list[Weight]:
    """Gate, up and down of `copies` feed-forwards, of which a token uses `active`."""
    shapes = {"gate_proj": (width, inputs), "up_proj": (width, inputs)}
    shapes["down_proj"] = (inputs, width)
    return [Weight(name + key, part, shape, copies, active) for key, shape in shapes.items()]


@dataclass(frozen=True)
class DenseFeedForward:
    """One SwiGLU that every token uses."""

    intermediate_size: int
    bias: bool = False
    label: str = "dense"

    def weights(self, hidden_size: int) -> list[Weight]:
        """Three matrices, and their biases if there are any."""
        found = swiglu("mlp.", DENSE, hidden_size, self.intermediate_size, 1, 1)
        if self.bias:
            found += [vector(f"{weight.name}.bias", BIASES, weight.shape[0]) for weight in found]
        return found


@dataclass(frozen=True)
class MixtureOfExperts:
    """A router, `num_experts` routed experts, and shared ones of a total width.

    router_bias: added to the logits. correction_bias: added for the choice alone. expert_bias and
    shared_bias: inside the experts. shared_gate: a sigmoid on the shared experts' output.
    expert_input_size: routed experts work on a narrower copy of the token (0: on the token itself).
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    correction_bias: bool = False
    expert_bias: bool = False
    shared_bias: bool = False
    expert_input_size: int = 0
    identity_experts: int = 0
    label: str = "MoE"

    def __post_init__(self) -> None:
        choices = self.num_experts + self.identity_experts
        if not 1 <= self.num_experts_per_tok <= choices:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}: choose from 1 to "
                f"{choices}, the number of experts"
            )

    def weights(self, hidden_size: int) -> list[Weight]:
        """Router, experts, shared experts."""
        E, D = self.num_experts, self.expert_input_size or hidden_size
        k = min(self.num_experts_per_tok, E)
        found = self._router(hidden_size)
        if self.expert_input_size:
            found.append(matrix("experts.in_proj", ROUTED, hidden_size, D))
            found.append(matrix("experts.out_proj", ROUTED, D, hidden_size))
            found.append(vector("experts.norm", NORMS, D))
        experts = swiglu("experts.", ROUTED, D, self.moe_intermediate_size, E, k)
        found += experts
        if self.expert_bias:
            found += [
                Weight(f"{weight.name}.bias", BIASES, weight.shape[:1], E, k, product=False)
                for weight in experts
            ]
        if self.shared_intermediate_size:
            width = self.shared_intermediate_size
            shared = swiglu("shared_experts.", SHARED, hidden_size, width, 1, 1)
            found += shared
            if self.shared_bias:
                found += [
                    vector(f"{weight.name}.bias", BIASES, weight.shape[0]) for weight in shared
                ]
        if self.shared_gate:
            found.append(matrix("shared_expert_gate", SHARED, hidden_size, 1))
        return found

    def _router(self, hidden_size: int) -> list[Weight]:
        choices = self.num_experts + self.identity_experts
        found = [matrix("router", ROUTER, hidden_size, choices)]
        if self.router_bias:
            found.append(vector("router.bias", ROUTER, choices))
        if self.correction_bias:
            found.append(vector("e_score_correction_bias", ROUTER, choices))
        return found
