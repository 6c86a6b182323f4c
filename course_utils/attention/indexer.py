"""The lightning indexer of DeepSeek Sparse Attention (DSA): a small attention chooses what the
large one reads.

    I_ts = sum_h w_th ReLU(q_th . k_s)      score of token s for query t: few narrow heads, one key
    S_t  = the k tokens s <= t of the largest I_ts

A score costs heads x width products where attention costs 16 to 128 heads x hundreds, and attention
then reads k rows however long the text: the part that grows with the text is the cheap one.

A single new token reads only its chosen rows. Several at once (a prompt, training), or texts with
padding, are computed in full under the mask of their choice: the same numbers, and no work is
saved. Where the text has at most k tokens nothing is chosen and no score computed.

RoPE turns the first channels of index queries and keys, in half-split pairs; latent attention turns
the last channels of its own in interleaved pairs. DeepSeek's own first release mixed the two up.

Left out: 8-bit scores and the Hadamard rotation before them, and kernels that skip work for
prompts. Sources: DeepSeek-V3.2-Exp report, section 2.1; names of the weights, and both scales in
w, as in `DeepseekV32Indexer` of `transformers`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils.attention.config import MLAConfig
from course_utils.attention.gqa import causal_mask
from course_utils.layers import Linear, apply_rope


def index_scores(q_BHTd: Tensor, k_BSd: Tensor, w_BTH: Tensor) -> Tensor:
    """I (B, T, S): for every query and token, the heads' ReLU(q . k), weighted and summed.

    A ReLU and not a softmax: whether a token is chosen must not depend on the others.
    """
    B, H, T, _ = q_BHTd.shape
    products_BHTS = (q_BHTd.flatten(1, 2) @ k_BSd.mT).view(B, H, T, -1)
    return (w_BTH.transpose(1, 2)[..., None] * products_BHTS.relu()).sum(dim=1)


def choose_tokens(scores_BTS: Tensor, k: int, mask: Tensor) -> Tensor:
    """(B, T, S) of booleans: the k best-scored tokens of each query, among those it may see.

    mask (T, S) or (B, T, S): True where a query may look; where it sees fewer than k, all of them.
    Scores of 0, all ReLUs closed, are common. Of equal scores the earliest tokens are taken, so
    that a choice does not depend on how the text is cut.
    """
    scores_BTS = scores_BTS.masked_fill(~mask, -torch.inf)
    last_BT1 = scores_BTS.topk(min(k, scores_BTS.shape[-1]), dim=-1).values[..., -1:]
    above_BTS, equal_BTS = scores_BTS > last_BT1, scores_BTS == last_BT1
    room_BT1 = k - above_BTS.sum(dim=-1, keepdim=True)
    return (above_BTS | equal_BTS & (equal_BTS.cumsum(dim=-1) <= room_BT1)) & mask


class Indexer(nn.Module):
    """Index queries, keys and weights of heads; `choose` narrows what latent attention reads.

    `index_topk` may be set, to None for reading everything (`dsa.set_index_topk`). `rope`, `score`
    and `select` may be any functions with the signatures of `apply_rope`, `index_scores` and
    `choose_tokens`. What goes in is detached: the indexer learns from `dsa.indexer_loss` alone.
    """

    def __init__(
        self,
        hidden_size: int,
        config: MLAConfig,
        rope: Callable = apply_rope,
        score: Callable = index_scores,
        select: Callable = choose_tokens,
    ):
        super().__init__()
        self.heads, width = config.index.index_n_heads, config.index.index_head_dim
        self.turned, self.index_topk = config.qk_rope_head_dim, config.index.index_topk
        self.rope, self.score, self.select = rope, score, select
        self.wq_b = Linear(config.q_lora_rank or hidden_size, self.heads * width, bias=False)
        self.wk = Linear(hidden_size, width, bias=False)
        self.k_norm = nn.LayerNorm(width, eps=1e-6)
        self.weights_proj = Linear(hidden_size, self.heads, bias=False)
        self.scale = (self.heads * width) ** -0.5

    def keys(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, d): what is kept of each token, beside the row of latent attention."""
        k_B1Td = self.k_norm(self.wk(x_BTD.detach()))[:, None]
        return self._turn(k_B1Td, cos, sin)[:, 0]

    def scores(
        self, x_BTD: Tensor, latent_BTQ: Tensor, cos: Tensor, sin: Tensor, keys_BSd: Tensor
    ) -> Tensor:
        """I (B, T, S), not masked, from x and the latent that queries are made of."""
        q_BHTd = self.wq_b(latent_BTQ.detach()).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        w_BTH = self.weights_proj(x_BTD.detach()) * self.scale
        return self.score(self._turn(q_BHTd, cos, sin), keys_BSd, w_BTH)

    def choose(
        self,
        x_BTD: Tensor,
        latent_BTQ: Tensor,
        tables: tuple[Tensor, Tensor],
        kept: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The rows (B, S', C) to read, and the mask over them; of `kept`, rows and index keys.

        mask (T, S) or (B, 1, T, S), None: causal.
        """
        (rows_BSC, keys_BSd), (B, T) = kept, x_BTD.shape[:2]
        S, k = rows_BSC.shape[1], self.index_topk
        if k is None or k >= S:
            return rows_BSC, mask
        with torch.no_grad():  # which tokens are best has no gradient
            scores_BTS = self.scores(x_BTD, latent_BTQ, *tables, keys_BSd)
        seen = causal_mask(T, S, x_BTD.device) if mask is None else mask
        seen_BTS = (seen[:, 0] if seen.dim() == 4 else seen).expand(B, T, S)
        chosen_BTS = self.select(scores_BTS, k, seen_BTS)
        if T > 1 or mask is not None:
            return rows_BSC, chosen_BTS[:, None]
        return rows_BSC[chosen_BTS[:, 0]].view(B, k, -1), None  # k of each: they can be stacked

    def _turn(self, x_BHTd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """RoPE on the first channels."""
        first, rest = x_BHTd[..., : self.turned], x_BHTd[..., self.turned :]
        return torch.cat([self.rope(first, cos, sin), rest], dim=-1)
