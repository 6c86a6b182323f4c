"""Lightning attention: linear attention with a fixed decay per head, as MiniMax-Text-01 has it.

    S <- exp(-s) S + k_t v_t^T        write; what was there fades
    o_t = S^T q_t                     read

This is attention without the softmax: o_t = sum_{j <= t} exp(-s (t - j)) (q_t . k_j) v_j. The slope
s is fixed, from steep (a memory of a few tokens) in the first head to flat in the last. Nothing is
ever corrected: two values written under one key add up, which is what the delta rule repairs.

Left out: the tiled kernel that gives it its name. Sources: Qin et al. 2024, "Lightning
Attention-2" (arXiv 2401.04658), section 3; MiniMax-01 (arXiv 2501.08313), section 2.2; slopes as in
`MiniMaxLightningAttention` of `transformers`.
"""

import torch
from torch import Tensor

from course_utils.attention.delta_rule import decayed_products, empty_state


def lightning_slopes(heads: int, layer: int, layers: int) -> Tensor:
    """s (H,) in 64 bits: 2^(-8 h / H) for head h = 1, ..., H, flatter in later layers."""
    steepness = 1 - layer / (layers - 1 + 1e-5) + 1e-5
    slopes = [2 ** (-8 * (h + 1) / heads) * steepness for h in range(heads)]
    return torch.tensor(slopes, dtype=torch.float64)


def recurrent_lightning(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    slope_H: Tensor,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, T, V) and the state (B, H, K, V) after the last token, token by token."""
    S_BHKV = empty_state(k_BHTK, v_BHTV) if state_BHKV is None else state_BHKV
    decay_H11 = (-slope_H).exp()[:, None, None]
    out = []
    for t in range(q_BHTK.shape[2]):
        S_BHKV = decay_H11 * S_BHKV + k_BHTK[:, :, t, :, None] * v_BHTV[:, :, t, None]
        out.append(q_BHTK[:, :, t, None] @ S_BHKV)
    return torch.cat(out, dim=2), S_BHKV


def chunked_lightning(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    slope_H: Tensor,
    state_BHKV: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """`recurrent_lightning`, `chunk` tokens at a time: scores within a chunk, the state between.

    The last chunk may be shorter.
    """
    S_BHKV = empty_state(k_BHTK, v_BHTV) if state_BHKV is None else state_BHKV
    tokens, out = (q_BHTK, k_BHTK, v_BHTV), []
    for part in zip(*(x.split(chunk, dim=2) for x in tokens), strict=True):
        q_BHCK, k_BHCK, v_BHCV = part
        steps_C = torch.arange(1, q_BHCK.shape[2] + 1, device=q_BHCK.device)
        G_HC1 = (-slope_H[:, None] * steps_C)[..., None]  # log decay since the chunk's start
        within_BHCC = decayed_products(q_BHCK, k_BHCK, G_HC1[None])
        out.append((q_BHCK * G_HC1.exp()) @ S_BHKV + within_BHCC @ v_BHCV)
        to_end_HC1 = (G_HC1[:, -1:] - G_HC1).exp()
        S_BHKV = G_HC1[:, -1:].exp() * S_BHKV + (k_BHCK * to_end_HC1).mT @ v_BHCV
    return torch.cat(out, dim=2), S_BHKV
