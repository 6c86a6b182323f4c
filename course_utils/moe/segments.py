"""The fast way through the experts: sorted blocks with a backward pass written by hand.

`experts_sorted` leaves the gradient to autograd, which stores and moves several copies of all T * K
rows: on a CPU that costs as much time as the products of small experts. Here each block is gathered
from x, computed, and added to y while its rows are in the cache; nothing of shape (T * K, D) is
ever stored. Two things make it work:

- The routing weight multiplies the F hidden channels, before the last product and not after it.
  Then its gradient is a sum over F, and no expert's output needs to be kept.
- The forward pass keeps gate and up (T * K, F). The backward pass gathers the rows of x again and
  repeats SiLU, which is cheaper than storing and reading the results.

`experts_fast` takes this path on a CPU. A GPU computes one small product at a time badly, and must
not wait for the counts: there it is `experts_grouped`.

Left out: second derivatives. Source of the sorted plan: Gale et al. 2022, "MegaBlocks"; of
recomputing: Dao et al. 2022, "FlashAttention", section 3.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from course_utils.moe.experts import experts_grouped, identity_part, sort_by_expert

FEW_ROWS = 8  # for 2 to 8 rows of 576 by 384 weights the turned product was 1.4 to 2.7 times faster
Block = tuple[int, slice, Tensor]  # expert, its rows among the sorted pairs, its tokens


def blocks_of(experts_TK: Tensor, num_experts: int) -> tuple[Tensor, list[Block]]:
    """The order that sorts the pairs by expert, and the block of every expert with tokens."""
    order_S, ends_E = sort_by_expert(experts_TK, num_experts)
    tokens_S = order_S // experts_TK.shape[1]
    blocks, start = [], 0
    for e, end in enumerate(ends_E.tolist()):
        if end > start:
            blocks.append((e, slice(start, end), tokens_S[start:end]))
        start = end
    return order_S, blocks


class ExpertBlocks(torch.autograd.Function):
    """y = sum over a token's real experts of w * (SiLU(x @ gate) * (x @ up)) @ down."""

    @staticmethod
    def forward(ctx, x_TD, experts_TK, weights_TK, w_gate_EDF, w_up_EDF, w_down_EFD):
        order_S, blocks = blocks_of(experts_TK, len(w_gate_EDF))
        weights_S1 = weights_TK.flatten()[order_S, None]
        y_TD = torch.zeros_like(x_TD)
        gate_SF = x_TD.new_empty(len(order_S), w_gate_EDF.shape[2])
        up_SF = torch.empty_like(gate_SF)
        for e, rows, tokens in blocks:
            x_D = x_TD.index_select(0, tokens)
            gate_F = torch.mm(x_D, w_gate_EDF[e], out=gate_SF[rows])
            up_F = torch.mm(x_D, w_up_EDF[e], out=up_SF[rows])
            hidden_F = F.silu(gate_F).mul_(up_F).mul_(weights_S1[rows])
            y_TD.index_add_(0, tokens, hidden_F @ w_down_EFD[e])
        ctx.save_for_backward(
            x_TD, gate_SF, up_SF, order_S, weights_S1, w_gate_EDF, w_up_EDF, w_down_EFD
        )
        ctx.blocks, ctx.shape_TK = blocks, experts_TK.shape
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y_TD):
        x_TD, gate_SF, up_SF, order_S, weights_S1, *stacked = ctx.saved_tensors
        d_stacked = [torch.empty_like(weight) for weight in stacked]
        d_x_TD, d_weights_S1 = torch.zeros_like(x_TD), torch.zeros_like(weights_S1)
        for e, rows, tokens in ctx.blocks:
            d_x_D, d_weights_S1[rows] = _block_backward(
                x_TD.index_select(0, tokens),
                d_y_TD.index_select(0, tokens),
                *(kept[rows] for kept in (gate_SF, up_SF, weights_S1)),
                [weight[e] for weight in stacked],
                [d_weight[e] for d_weight in d_stacked],
            )
            d_x_TD.index_add_(0, tokens, d_x_D)
        used = {e for e, _, _ in ctx.blocks}
        for e in set(range(len(stacked[0]))) - used:
            for d_weight in d_stacked:
                d_weight[e].zero_()
        d_weights_S = torch.empty_like(d_weights_S1[:, 0])
        d_weights_S[order_S] = d_weights_S1[:, 0]
        return d_x_TD, None, d_weights_S.view(ctx.shape_TK), *d_stacked


def _block_backward(x_D, d_y_D, gate_F, up_F, weight_1, weights, d_weights):
    """Gradients of one block: of x and the routing weight; those of the expert into d_weights."""
    w_gate_DF, w_up_DF, w_down_FD = weights
    d_gate_DF, d_up_DF, d_down_FD = d_weights
    silu_F = F.silu(gate_F)
    hidden_F = silu_F * up_F  # y = (weight * hidden) @ down
    d_scaled_F = times_transposed(d_y_D, w_down_FD)
    d_weight_1 = (d_scaled_F * hidden_F).sum(1, keepdim=True)
    torch.mm(hidden_F.mul_(weight_1).T, d_y_D, out=d_down_FD)
    d_hidden_F = d_scaled_F.mul_(weight_1)
    d_up_F = silu_F.mul_(d_hidden_F)
    d_gate_F = torch.ops.aten.silu_backward(d_hidden_F.mul_(up_F), gate_F)
    torch.mm(x_D.T, d_gate_F, out=d_gate_DF)
    torch.mm(x_D.T, d_up_F, out=d_up_DF)
    d_x_D = times_transposed(d_gate_F, w_gate_DF).add_(times_transposed(d_up_F, w_up_DF))
    return d_x_D, d_weight_1


def times_transposed(rows: Tensor, weight: Tensor) -> Tensor:
    """rows @ weight.T; few rows as columns on the right, which CPU kernels multiply faster."""
    if len(rows) > FEW_ROWS:
        return rows @ weight.T
    return (weight @ rows.T).T.contiguous()


def experts_fast(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    w_gate_EDF: Tensor,
    w_up_EDF: Tensor,
    w_down_EFD: Tensor,
    identity: bool = True,
) -> Tensor:
    """The layer's default: blocks on a CPU, grouped products on a GPU.

    `identity=False` promises that every index is that of a real expert.
    """
    stacked = (w_gate_EDF, w_up_EDF, w_down_EFD)
    if x_TD.is_cuda:
        return experts_grouped(x_TD, experts_TK, weights_TK, *stacked, identity=identity)
    y_TD = ExpertBlocks.apply(x_TD, experts_TK, weights_TK, *stacked)
    return y_TD + identity_part(x_TD, experts_TK, weights_TK, len(w_gate_EDF)) if identity else y_TD
