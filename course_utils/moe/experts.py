"""Experts of an MoE layer, and four ways to bring the tokens to them.

An expert is a SwiGLU block; E of them are stored as three stacked weights, so that one tensor holds
what belongs together. All functions here have one signature and give one result, in value and in
gradient: the sum over a token's experts of weight * expert(token). They differ in the order of the
work. An index of E or more is an identity expert: it gives the token back, and costs no product.

`experts_dense` computes every expert for every token. `experts_loop` asks each expert for its
tokens. `experts_sorted` sorts the pairs (token, expert) by expert, so that each expert has one
block of rows. `experts_grouped` leaves the loop over the blocks to one kernel. The layer's
default, `segments.experts_fast`, is the same sorted plan with its own backward pass.

Left out: experts with biases, and kernels that never write the sorted rows to memory (ScatterMoE,
Tan et al. 2024). Source: Shazeer et al. 2017, equation 1, with SwiGLU experts as in
Jiang et al. 2024, "Mixtral of Experts", section 2.1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.layers import swiglu
from course_utils.moe.permute import Combine, Dispatch


def expert(x_TD: Tensor, w_gate_DF: Tensor, w_up_DF: Tensor, w_down_FD: Tensor) -> Tensor:
    """One expert: SwiGLU between two widths, x (T, D) to (T, D)."""
    return swiglu(x_TD @ w_gate_DF, x_TD @ w_up_DF) @ w_down_FD


def identity_part(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, E: int) -> Tensor:
    """What identity experts give: x times the weights of the indices that are E or more."""
    return x_TD * (weights_TK * (experts_TK >= E)).sum(1, keepdim=True)


def experts_dense(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    w_gate_EDF: Tensor,
    w_up_EDF: Tensor,
    w_down_EFD: Tensor,
) -> Tensor:
    """Every expert for every token, as one large product; weight 0 where not chosen."""
    E, D, width = w_gate_EDF.shape
    mix_TE = weights_TK.new_zeros(len(x_TD), E + 1)  # the last column is for identity experts
    mix_TE = mix_TE.scatter_add(1, experts_TK.clamp(max=E), weights_TK)
    gate_TEF = (x_TD @ w_gate_EDF.transpose(0, 1).reshape(D, -1)).view(-1, E, width)
    up_TEF = (x_TD @ w_up_EDF.transpose(0, 1).reshape(D, -1)).view(-1, E, width)
    hidden_TEF = swiglu(gate_TEF, up_TEF) * mix_TE[:, :E, None]
    y_TD = hidden_TEF.flatten(1) @ w_down_EFD.reshape(-1, D)
    return y_TD + mix_TE[:, E:] * x_TD


def experts_loop(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    w_gate_EDF: Tensor,
    w_up_EDF: Tensor,
    w_down_EFD: Tensor,
) -> Tensor:
    """One expert after another: find its tokens, compute them, add them where they belong."""
    E = len(w_gate_EDF)
    y_TD = identity_part(x_TD, experts_TK, weights_TK, E)
    for e in range(E):
        tokens, place = torch.where(experts_TK == e)
        if len(tokens):
            out = expert(x_TD[tokens], w_gate_EDF[e], w_up_EDF[e], w_down_EFD[e])
            y_TD = y_TD.index_add(0, tokens, weights_TK[tokens, place, None] * out)
    return y_TD


def sort_by_expert(experts_TK: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Bring the pairs (token, expert) of each expert together: `order_S`, `ends_E`, both int64.

    Pair s = t * K + j is token t with its j-th expert. order_S (T * K,) lists the pairs sorted by
    expert, those of one expert in their old order; the block of expert e ends before position
    ends_E[e] (E,) and begins where the block before it ends. Pairs of identity experts, numbered
    num_experts and above, come after the last block.
    """
    chosen_S = experts_TK.flatten()
    counts_E = chosen_S.bincount(minlength=num_experts)[:num_experts]
    return chosen_S.argsort(stable=True), counts_E.cumsum(0)


def experts_sorted(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    w_gate_EDF: Tensor,
    w_up_EDF: Tensor,
    w_down_EFD: Tensor,
) -> Tensor:
    """Sort the T * K pairs by expert: each expert then has one block of neighbouring rows."""
    E, K = len(w_gate_EDF), experts_TK.shape[1]
    order_S, ends_E = sort_by_expert(experts_TK, E)
    tokens_S = order_S // K  # pair s belongs to token s // K
    *blocks, rest = x_TD[tokens_S].tensor_split(ends_E.cpu())
    weights = zip(blocks, w_gate_EDF, w_up_EDF, w_down_EFD, strict=True)
    done = [expert(block, *w) if len(block) else block for block, *w in weights]
    out_SD = torch.cat([*done, rest]) * weights_TK.flatten()[order_S, None]
    return torch.zeros_like(x_TD).index_add(0, tokens_S, out_SD)


def experts_grouped(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    w_gate_EDF: Tensor,
    w_up_EDF: Tensor,
    w_down_EFD: Tensor,
    identity: bool = True,
) -> Tensor:
    """The sorted plan with one grouped product in place of the loop.

    In bfloat16 nothing waits for a GPU; in 32 bits PyTorch's product reads the ends on the host.
    Rows behind the last real expert's are left uncomputed by the kernel, so they are masked.
    `identity=False` promises that there are none, and saves the masks. D and F must be multiples
    of 16 bytes; float64 has no grouped product.
    """
    E, K = len(w_gate_EDF), experts_TK.shape[1]
    sorted_S, order_S = experts_TK.flatten().sort(stable=True)
    ends_E = torch.searchsorted(sorted_S, torch.arange(E, device=x_TD.device), right=True).int()
    inverse_S, spare_S1 = order_S.argsort(), (sorted_S >= E)[:, None]
    rows_SD = Dispatch.apply(x_TD, order_S, inverse_S, K)
    weights_S1 = Dispatch.apply(weights_TK.reshape(-1, 1), order_S, inverse_S, 1)
    if identity:  # a mask also stops the gradient, which is as little computed for these rows
        rows_SD, weights_S1 = (t.masked_fill(spare_S1, 0) for t in (rows_SD, weights_S1))
    gate_SF = F.grouped_mm(rows_SD, w_gate_EDF, offs=ends_E)
    up_SF = F.grouped_mm(rows_SD, w_up_EDF, offs=ends_E)
    out_SD = F.grouped_mm(swiglu(gate_SF, up_SF) * weights_S1, w_down_EFD, offs=ends_E)
    if not identity:
        return Combine.apply(out_SD, order_S, inverse_S, K)
    y_TD = Combine.apply(out_SD.masked_fill(spare_S1, 0), order_S, inverse_S, K)
    return y_TD + identity_part(x_TD, experts_TK, weights_TK, E)
