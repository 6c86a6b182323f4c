"""A shared expert: one SwiGLU that every token goes through, added to what the routed experts gave.

Routed experts all need some of the same knowledge, such as how the language works; without a shared
expert each of them has to learn it for itself. DeepSeek adds the shared output as it is; Qwen2-MoE
multiplies it, token by token, with the sigmoid of a learned gate. The routed weights, and their
scaling factor, do not touch it. Several shared experts are one of the sum of their widths.

Source: Dai et al. 2024, "DeepSeekMoE", section 3.2; the gate: `Qwen2MoeSparseMoeBlock` in
`transformers`. Left out: `layer.MoE` has the same as modules, with weights to train.
"""

import torch
from torch import Tensor

from course_utils.layers import swiglu


def add_shared_expert(
    x_TD: Tensor,
    routed_TD: Tensor,
    w_gate_DF: Tensor,
    w_up_DF: Tensor,
    w_down_FD: Tensor,
    gate_D: Tensor | None = None,
) -> Tensor:
    """routed + shared(x), or routed + sigmoid(x . gate) * shared(x) with a gate. All (T, D)."""
    shared_TD = swiglu(x_TD @ w_gate_DF, x_TD @ w_up_DF) @ w_down_FD
    if gate_D is not None:
        shared_TD = torch.sigmoid(x_TD @ gate_D)[:, None] * shared_TD
    return routed_TD + shared_TD
