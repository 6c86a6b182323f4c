"""The gated delta rule: attention whose memory is one matrix a head, corrected at every token.

    S <- Diag(exp(g_t)) S                          forget: g_t <= 0
    u_t = beta_t (v_t - S^T k_t)                   what is to be stored, less what k_t recalls now
    S <- S + k_t u_t^T                             write
    o_t = S^T q_t                                  read

S is K x V whatever the length of the text, so neither memory nor the cost of a token grows. The
decay g_t is one number a head in Gated DeltaNet, and one a key channel in Kimi Delta Attention
(KDA); beta_t in (0, 1) is how much of the old value is replaced. Keys have length 1, so that with
beta = 1 and no decay reading k_t after writing gives exactly v_t.

`recurrent_delta_rule` is that loop. `chunked_delta_rule` does a chunk of tokens at once: within a
chunk the u_t depend on earlier ones through a lower triangular system, which is solved; from chunk
to chunk only S is handed on. Both take and return the state, so that a text may be cut anywhere.

Left out: fused kernels, and the factored decay products by which KDA's kernels avoid the
(C, C, K) tensor that is formed here. Sources: Yang et al. 2024, "Gated Delta Networks"
(arXiv 2412.06464), section 3; Kimi Team 2025, "Kimi Linear" (arXiv 2510.26692), section 3.
"""

import math

import torch
from torch import Tensor


def recurrent_delta_rule(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    g_BHTG: Tensor,
    beta_BHT: Tensor,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, T, V) and the state (B, H, K, V) after the last token, token by token.

    g is the logarithm of the decay, of size G = 1 (one a head) or G = K (one a channel), at most 0.
    state None: nothing is stored yet.
    """
    S_BHKV = empty_state(k_BHTK, v_BHTV) if state_BHKV is None else state_BHKV
    out = []
    for t in range(q_BHTK.shape[2]):
        q_BHK1, k_BHK1 = q_BHTK[:, :, t, :, None], k_BHTK[:, :, t, :, None]
        S_BHKV = g_BHTG[:, :, t, :, None].exp() * S_BHKV  # forget
        recalled_BH1V = k_BHK1.mT @ S_BHKV
        u_BH1V = beta_BHT[:, :, t, None, None] * (v_BHTV[:, :, t, None] - recalled_BH1V)
        S_BHKV = S_BHKV + k_BHK1 @ u_BH1V  # write
        out.append(q_BHK1.mT @ S_BHKV)  # read
    return torch.cat(out, dim=2), S_BHKV


def chunked_delta_rule(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    g_BHTG: Tensor,
    beta_BHT: Tensor,
    state_BHKV: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """`recurrent_delta_rule`, `chunk` tokens at a time; the last chunk may be shorter."""
    S_BHKV = empty_state(k_BHTK, v_BHTV) if state_BHKV is None else state_BHKV
    tokens, out = (q_BHTK, k_BHTK, v_BHTV, g_BHTG, beta_BHT), []
    for part in zip(*(x.split(chunk, dim=2) for x in tokens), strict=True):
        out_BHCV, S_BHKV = delta_rule_chunk(*part, S_BHKV)
        out.append(out_BHCV)
    return torch.cat(out, dim=2), S_BHKV


def delta_rule_chunk(
    q_BHCK: Tensor,
    k_BHCK: Tensor,
    v_BHCV: Tensor,
    g_BHCG: Tensor,
    beta_BHC: Tensor,
    S_BHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """One chunk of C tokens: outputs and the state after it.

    With G_i the decay summed up to token i, token i meets a state that holds exp(G_i) S and, of
    each earlier token j, exp(G_i - G_j) k_j u_j^T. So with A_ij = k_i . exp(G_i - G_j) k_j

        u_i + beta_i sum_{j < i} A_ij u_j = beta_i (v_i - S^T exp(G_i) k_i).
    """
    G_BHCG = g_BHCG.cumsum(dim=2)
    decay_BHCG = G_BHCG.exp()
    beta_BHC1 = beta_BHC[..., None]
    A_BHCC = decayed_products(k_BHCK, k_BHCK, G_BHCG)
    right_BHCV = beta_BHC1 * (v_BHCV - (k_BHCK * decay_BHCG) @ S_BHKV)
    u_BHCV = torch.linalg.solve_triangular(  # reads below the diagonal, and takes 1 on it
        beta_BHC1 * A_BHCC, right_BHCV, upper=False, unitriangular=True
    )
    P_BHCC = decayed_products(q_BHCK, k_BHCK, G_BHCG)
    out_BHCV = (q_BHCK * decay_BHCG) @ S_BHKV + P_BHCC @ u_BHCV
    to_end_BHCG = (G_BHCG[:, :, -1:] - G_BHCG).exp()
    S_BHKV = decay_BHCG[:, :, -1, :, None] * S_BHKV + (k_BHCK * to_end_BHCG).mT @ u_BHCV
    return out_BHCV, S_BHKV


def decayed_products(a_BHCK: Tensor, b_BHCK: Tensor, G_BHCG: Tensor) -> Tensor:
    """(B, H, C, C): sum over channels of a_i exp(G_i - G_j) b_j for j <= i, and 0 for j > i.

    One decay a head comes out of the sum, which is then a matrix product; one a channel does not.
    """
    C = a_BHCK.shape[2]
    later_CC = torch.ones(C, C, dtype=torch.bool, device=a_BHCK.device).triu(1)
    difference_BHCCG = G_BHCG[:, :, :, None] - G_BHCG[:, :, None]
    # exp of what lies above the diagonal could overflow: it is set before, not after
    decay_BHCCG = difference_BHCCG.masked_fill(later_CC[..., None], -math.inf).exp()
    if G_BHCG.shape[-1] == 1:
        return (a_BHCK @ b_BHCK.mT) * decay_BHCCG[..., 0]
    return (a_BHCK[:, :, :, None] * b_BHCK[:, :, None] * decay_BHCCG).sum(-1)


def empty_state(k_BHTK: Tensor, v_BHTV: Tensor) -> Tensor:
    """Zeros (B, H, K, V): the state before the first token."""
    B, H, _, K = k_BHTK.shape
    return v_BHTV.new_zeros(B, H, K, v_BHTV.shape[-1])
