"""A linear map that reads its weight at full memory speed when there is one row of input.

Generating text multiplies one token's vector by every weight of the model: each weight is read once
and used once, so memory bandwidth is the limit. On CPUs PyTorch's `F.linear` reads a matrix for one
row with a single thread. Seen as two stacked halves, the same matrix, uncopied, becomes a batch of
two products, and batches are spread over threads. The sums are the same numbers in another order.

Left out: three and more parts (no faster with two cores), and quantized weights (chapter 13).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x_TD: Tensor, weight_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """x times the transpose of the weight, plus the bias: the result of `F.linear`.

    Shapes: x (..., D), weight (F, D), bias (F,); the result (..., F). One row without gradients on
    a CPU takes the two-halves path; everything else is `F.linear`.
    """
    width = weight_FD.shape[-1]
    one_row = x_TD.numel() == width and weight_FD.shape[0] % 2 == 0
    if not one_row or torch.is_grad_enabled() or weight_FD.device.type != "cpu":
        return F.linear(x_TD, weight_FD, bias_F)
    halves = weight_FD.view(2, -1, width)
    rows = x_TD.reshape(1, 1, width).expand(2, -1, -1)
    y_F = torch.bmm(rows, halves.transpose(1, 2)).view(-1)
    y_F = y_F if bias_F is None else y_F + bias_F
    return y_F.view(*x_TD.shape[:-1], -1)


class Linear(nn.Linear):
    """`torch.nn.Linear` whose forward is `linear` of this room."""

    def forward(self, x_TD: Tensor) -> Tensor:
        return linear(x_TD, self.weight, self.bias)
