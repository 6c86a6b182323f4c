"""Multi-head latent attention (MLA): one short row per token, from which all heads are rebuilt.

    row of token s       c_s = norm(W_DKV x_s), the latent; r_s = RoPE(W_KR x_s), one key for all
    head h               key [W_UK c_s, r_s], value W_UV c_s; only the row is cached

Scores need no keys: q . (W_UK c) = (W_UK^T q) . c. So there are two forms of the same numbers.
`mla_naive` expands the rows to heads and then is plain attention: right for training and for a
prompt, where each row is expanded once. `mla_absorbed` moves W_UK into the query and W_UV behind
the sum, and then is multi-query attention whose key is the row and whose value the latent in it:
right for decoding, where naive would expand the whole cache for every new token.

RoPE stands between W_UK and the query and forbids the move (it changes from token to token), hence
the `qk_rope_head_dim` channels of their own. They are interleaved pairs, as in DeepSeek's
checkpoints.

Source: DeepSeek-AI 2024, "DeepSeek-V2" (arXiv 2405.04434), section 2.1 and appendix C; names of the
weights as in `transformers`. Left out: biases, and a cache of fewer bits (chapter 15).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.attention.cache import Cache, attend_cached
from course_utils.attention.config import MLAConfig
from course_utils.attention.gqa import causal_mask
from course_utils.attention.indexer import Indexer
from course_utils.attention.stores import Tokens
from course_utils.attention.yarn import softmax_scale
from course_utils.layers import Linear, RMSNorm, apply_rope_interleaved, rms_norm


def mla_naive(
    q_BHTd: Tensor,
    rows_BSC: Tensor,
    w_uk_HNR: Tensor,
    w_uv_HVR: Tensor,
    scale: float,
    mask: Tensor | None = None,
) -> Tensor:
    """Expand every row to the keys and values of all heads, then attend.

    Shapes: queries (B, H, T, N + P), N channels without and P with RoPE; rows (B, S, R + P): the
    latent, then the shared key; W_UK (H, N, R), W_UV (H, V, R); the result (B, H, T, V). mask is
    True where a query may look, (T, S) or (B, 1, T, S); without one, query t sees the rows up to
    S - T + t.
    """
    H, rank = w_uk_HNR.shape[0], w_uk_HNR.shape[2]
    latent_BSR, k_rope_BSP = rows_BSC[..., :rank], rows_BSC[..., rank:]
    k_nope_BHSN = torch.einsum("bsr,hnr->bhsn", latent_BSR, w_uk_HNR)  # W_UK c
    v_BHSV = torch.einsum("bsr,hvr->bhsv", latent_BSR, w_uv_HVR)  # W_UV c
    k_rope_BHSP = k_rope_BSP[:, None].expand(-1, H, -1, -1)
    k_BHSd = torch.cat([k_nope_BHSN, k_rope_BHSP], dim=-1)
    return scaled_attention(q_BHTd, k_BHSd, v_BHSV, scale, mask)


def mla_absorbed(
    q_BHTd: Tensor,
    rows_BSC: Tensor,
    w_uk_HNR: Tensor,
    w_uv_HVR: Tensor,
    scale: float,
    mask: Tensor | None = None,
) -> Tensor:
    """`mla_naive` in the space of the latents: no row is expanded, and none is copied."""
    (H, T), (_, N, rank) = q_BHTd.shape[1:3], w_uk_HNR.shape
    q_nope_BHTN, q_rope_BHTP = q_BHTd[..., :N], q_BHTd[..., N:]
    q_latent_BHTR = q_nope_BHTN @ w_uk_HNR  # W_UK^T q
    q_BHTC = torch.cat([q_latent_BHTR, q_rope_BHTP], dim=-1) * scale
    scores_BHTS = (q_BHTC.flatten(1, 2) @ rows_BSC.mT).unflatten(1, (H, T))
    if mask is None and T > 1:
        mask = causal_mask(T, rows_BSC.shape[1], q_BHTd.device)
    if mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask, -math.inf)
    weights_BHTS = scores_BHTS.softmax(dim=-1)
    sum_BHTR = (weights_BHTS.flatten(1, 2) @ rows_BSC[..., :rank]).unflatten(1, (H, T))
    return sum_BHTR @ w_uv_HVR.mT  # W_UV applied to the sum


def scaled_attention(
    q_BHTd: Tensor, k_BHSd: Tensor, v_BHSV: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    """softmax(scale q k^T) v through PyTorch's kernel, causal without a mask: (B, H, T, V).

    The fused kernels want values as wide as keys. Zeros make them so; what they give is cut off.
    """
    (T, width), (S, V) = q_BHTd.shape[2:], v_BHSV.shape[2:]
    if V < width:
        v_BHSV = F.pad(v_BHSV, (0, width - V))
    elif V > width:  # zero channels add nothing to a score
        q_BHTd, k_BHSd = (F.pad(x, (0, V - width)) for x in (q_BHTd, k_BHSd))
    causal = mask is None and T == S
    if mask is None and 1 < T < S:
        mask = causal_mask(T, S, q_BHTd.device)
    out_BHTd = F.scaled_dot_product_attention(
        q_BHTd, k_BHSd, v_BHSV, mask, is_causal=causal, scale=scale
    )
    return out_BHTd[..., :V]


def absorbing_pays(config: MLAConfig, queries: int, rows: int) -> bool:
    """Whether the absorbed form multiplies less, for so many new queries over so many rows.

    Per head, naive expands every row and attends over heads; absorbed moves every query into the
    latent space and back, and attends over latents, which are wider.
    """
    rank, value = config.kv_lora_rank, config.v_head_dim
    moved = rank * (config.qk_nope_head_dim + value)
    naive = rows * moved + queries * rows * (config.qk_head_dim + value)
    absorbed = queries * moved + queries * rows * (2 * rank + config.qk_rope_head_dim)
    return absorbed < naive


class LatentAttention(nn.Module):
    """MLA: queries (compressed with `q_lora_rank`), rows, cache, either form, projection.

    With `config.index` an `Indexer` chooses the rows that are read (DSA); `indexer` (rope, score,
    select) are given to it. `norm`, `rope`, `naive` and `absorbed` may be any functions with the
    signatures of `rms_norm`, `apply_rope_interleaved`, `mla_naive` and `mla_absorbed`. The norms of
    the latents have an epsilon of their own, 1e-6, as in DeepSeek's code.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        config: MLAConfig,
        norm: Callable = rms_norm,
        rope: Callable = apply_rope_interleaved,
        naive: Callable = mla_naive,
        absorbed: Callable = mla_absorbed,
        indexer: dict[str, Callable] | None = None,
    ):
        super().__init__()
        self.config, self.heads = config, heads
        self.rope, self.naive, self.absorbed = rope, naive, absorbed
        width, rank = heads * config.qk_head_dim, config.kv_lora_rank
        if config.q_lora_rank is None:
            self.q_proj = Linear(hidden_size, width, bias=False)
        else:
            self.q_a_proj = Linear(hidden_size, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, 1e-6, norm)
            self.q_b_proj = Linear(config.q_lora_rank, width, bias=False)
        row = rank + config.qk_rope_head_dim
        self.kv_a_proj_with_mqa = Linear(hidden_size, row, bias=False)
        self.kv_a_layernorm = RMSNorm(rank, 1e-6, norm)
        up = heads * (config.qk_nope_head_dim + config.v_head_dim)
        self.kv_b_proj = Linear(rank, up, bias=False)
        self.o_proj = Linear(heads * config.v_head_dim, hidden_size, bias=False)
        self.scale = softmax_scale(config.qk_head_dim, config.rope_scaling)
        self.indexer = Indexer(hidden_size, config, **(indexer or {})) if config.index else None

    def cache_layout(self) -> Tokens:
        """One row a token: the latent after its norm, then the shared key after RoPE; and the
        indexer's key, where there is one."""
        shapes = {"rows": (self.config.kv_lora_rank + self.config.qk_rope_head_dim,)}
        if self.config.index:
            shapes["index_keys"] = (self.config.index.index_head_dim,)
        return Tokens(shapes)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        layer: int = 0,
        absorbed: bool | None = None,
    ) -> Tensor:
        """(B, T, D) to the same shape; absorbed None: the form that multiplies less."""
        latent_BTQ = self.query_latent(x_BTD)
        q_BHTd = self.queries(latent_BTQ, cos, sin)
        kept = (self.rows(x_BTD, cos, sin),)
        if self.indexer is not None:
            kept += (self.indexer.keys(x_BTD, cos, sin),)
            if cache is not None:
                kept = cache.update(layer, *kept)
            rows_BSC, mask = self.indexer.choose(x_BTD, latent_BTQ, (cos, sin), kept, mask)
            out_BHTV = self.attend(q_BHTd, rows_BSC, mask, absorbed)
        else:
            attend = partial(self.attend, absorbed=absorbed)
            out_BHTV = attend_cached(cache, layer, attend, q_BHTd, kept, mask)
        return self.o_proj(out_BHTV.transpose(1, 2).flatten(2))

    def query_latent(self, x_BTD: Tensor) -> Tensor:
        """What queries are made of: the compressed and normed x, or x itself."""
        if self.config.q_lora_rank is None:
            return x_BTD
        return self.q_a_layernorm(self.q_a_proj(x_BTD))

    def queries(self, latent_BTQ: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, H, T, N + P): queries of all heads, the last P channels turned by RoPE."""
        project = self.q_proj if self.config.q_lora_rank is None else self.q_b_proj
        q_BHTd = project(latent_BTQ).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        N = self.config.qk_nope_head_dim
        return torch.cat([q_BHTd[..., :N], self.rope(q_BHTd[..., N:], cos, sin)], dim=-1)

    def rows(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, R + P): what is kept of each token."""
        row_BTC = self.kv_a_proj_with_mqa(x_BTD)
        rank = self.config.kv_lora_rank
        k_rope_B1TP = self.rope(row_BTC[:, None, :, rank:], cos, sin)
        return torch.cat([self.kv_a_layernorm(row_BTC[..., :rank]), k_rope_B1TP[:, 0]], dim=-1)

    def up_projections(self) -> tuple[Tensor, Tensor]:
        """W_UK (H, N, R) and W_UV (H, V, R), views of one weight."""
        w_HCR = self.kv_b_proj.weight.view(self.heads, -1, self.config.kv_lora_rank)
        N = self.config.qk_nope_head_dim
        return w_HCR[:, :N], w_HCR[:, N:]

    def attend(
        self, q_BHTd: Tensor, rows_BSC: Tensor, mask: Tensor | None, absorbed: bool | None
    ) -> Tensor:
        """(B, H, T, V), by the form that is asked for, or that multiplies less."""
        if absorbed is None:
            absorbed = absorbing_pays(self.config, q_BHTd.shape[2], rows_BSC.shape[1])
        form = self.absorbed if absorbed else self.naive
        return form(q_BHTd, rows_BSC, *self.up_projections(), self.scale, mask)
