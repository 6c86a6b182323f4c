"""The feed-forward part of a layer: SwiGLU, a product of two projections, one through SiLU.

The gate lets each of the F channels decide, token by token, how much of its value to pass on.
Three matrices of D x F in place of two of D x 4D: at F = 8/3 D the size is the same, the loss
lower.

Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6; config key
`intermediate_size`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.layers.linear import Linear


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """SiLU(gate) * up, element by element; both of shape (..., F)."""
    return F.silu(gate_TF) * up_TF


class MLP(nn.Module):
    """down(SwiGLU(gate(x), up(x))), without biases; names of the weights as in `transformers`."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x_TD), self.up_proj(x_TD)))
