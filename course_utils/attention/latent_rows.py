"""What latent attention keeps of a token: the normed latent, then the shared key after RoPE.

Both are finished before they are kept, so that nothing is done twice to a cached token: the norm
needs the token's own latent alone, and RoPE its own position alone. Kept are R + P numbers for all
heads together.

Source: DeepSeek-AI 2024, "DeepSeek-V2" (arXiv 2405.04434), section 2.1.3; `kv_a_layernorm` in the
published code. Left out: fewer bits for the row (chapter 15).
"""

import torch
from torch import Tensor

from course_utils.layers import apply_rope_interleaved, rms_norm


def latent_rows(down_BTC: Tensor, weight_R: Tensor, cos_TP: Tensor, sin_TP: Tensor) -> Tensor:
    """The rows that are cached, from what `kv_a_proj_with_mqa` gives.

    Shapes: down (..., T, R + P), the latent and then the key; the norm's weight (R,); cosine and
    sine (T, P); the result as down. The norm's epsilon is 1e-6, the pairs of RoPE are interleaved.
    """
    rank = weight_R.shape[0]
    latent_BTR = rms_norm(down_BTC[..., :rank], weight_R, 1e-6)
    key_BTP = apply_rope_interleaved(down_BTC[..., rank:], cos_TP, sin_TP)
    return torch.cat([latent_BTR, key_BTP], dim=-1)
