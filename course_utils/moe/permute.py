"""Dispatch and combine: tokens to rows sorted by expert, and rows back to tokens.

Dispatch copies token t to the k rows that its experts work on; combine adds the k rows of a token.
As matrices they are transposes of each other, so the gradient of one is the other: what a forward
pass sends out, the backward pass collects. (With experts on many devices the same holds for the two
exchanges between devices.)

Written as such, both are plain gathers. Autograd's own gradient of `x[index]` does not know that
the rows of a token are its k, and adds them one by one, with sorting or atomic additions on a GPU.

Source: Gale et al. 2022, "MegaBlocks", section 5.2 (permutation of tokens).
"""

import torch
from torch import Tensor


class Dispatch(torch.autograd.Function):
    """rows_SD = x_TD[order_S // K]; order_S sorts the pairs s = t * K + j, inverse_S undoes it."""

    @staticmethod
    def forward(ctx, x_TD: Tensor, order_S: Tensor, inverse_S: Tensor, K: int) -> Tensor:
        ctx.save_for_backward(order_S, inverse_S)
        ctx.K = K
        return x_TD[order_S // K]

    @staticmethod
    def backward(ctx, d_rows_SD: Tensor):
        return Combine.apply(d_rows_SD, *ctx.saved_tensors, ctx.K), None, None, None


class Combine(torch.autograd.Function):
    """y_TD = the sum of each token's K rows of rows_SD."""

    @staticmethod
    def forward(ctx, rows_SD: Tensor, order_S: Tensor, inverse_S: Tensor, K: int) -> Tensor:
        ctx.save_for_backward(order_S, inverse_S)
        ctx.K = K
        return rows_SD[inverse_S].unflatten(0, (-1, K)).sum(1)

    @staticmethod
    def backward(ctx, d_y_TD: Tensor):
        return Dispatch.apply(d_y_TD, *ctx.saved_tensors, ctx.K), None, None, None
