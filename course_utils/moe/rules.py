"""The rules that routers are made of: how to score experts, choose among them, and weigh them.

Each family of models takes one rule of each kind. `routing.route` puts them together by config; a
rule here is small enough to be read beside its equation. l are a token's E logits, s its scores.

Left out: noise on the logits (Mixtral's jitter, Switch), and Llama 4, which weighs the expert's
input instead of its output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_scores(logits_TE: Tensor) -> Tensor:
    """s = softmax(l): experts compete, and a token's scores sum to 1. In at least 32 bits.

    Source: Jiang et al. 2024, "Mixtral of Experts", section 2.1; `scoring_func` "softmax".
    """
    return logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32)).softmax(-1)


def sigmoid_scores(logits_TE: Tensor) -> Tensor:
    """s = sigmoid(l): each expert is scored by itself, between 0 and 1. In at least 32 bits.

    Source: DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", equation 15.
    """
    return logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32)).sigmoid()


def sqrt_softplus_scores(logits_TE: Tensor) -> Tensor:
    """s = sqrt(log(1 + exp(l))): by itself as well, and without an upper end. In at least 32 bits.

    Below l = -87 softplus is kept at the smallest normal number: at 0 the root's slope is infinite,
    and the gradient would be NaN. Source: DeepSeek-V4, `scoring_func` "sqrtsoftplus".
    """
    logits_TE = logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32))
    return F.softplus(logits_TE).clamp(min=torch.finfo(logits_TE.dtype).tiny).sqrt()


def choose_with_bias(scores_TE: Tensor, bias_E: Tensor | None, k: int) -> Tensor:
    """The k experts with the largest s + b, best first (T, k). A bias of None is zero.

    Numbers of experts have no gradient, so nothing here trains b: balance updates it by hand.
    Source: Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts",
    section 3; DeepSeek-V3, equation 16.
    """
    choice_TE = scores_TE if bias_E is None else scores_TE + bias_E
    return choice_TE.topk(k, dim=-1).indices


def limit_to_groups(
    scores_TE: Tensor, n_group: int, topk_group: int, group_score: str = "top2_sum"
) -> Tensor:
    """Close all but the `topk_group` best of `n_group` equal groups: their scores become -inf.

    A group's score is the largest of its experts' ("max", DeepSeek-V2) or the sum of the two
    largest ("top2_sum", V3). V2 closes with 0, which is the same while scores are positive; scores
    with a bias can be negative, and then a closed 0 would win.
    Source: DeepSeek-V2, section 2.2.2; DeepSeek-V3, section 2.1.2, "Node-Limited Routing".
    """
    groups_TGS = scores_TE.unflatten(-1, (n_group, -1))
    best_TG2 = groups_TGS.topk(1 if group_score == "max" else 2, dim=-1).values
    open_TJ = best_TG2.sum(-1).topk(topk_group, dim=-1).indices
    closed_TG = torch.ones_like(groups_TGS[..., 0], dtype=torch.bool).scatter(-1, open_TJ, False)
    return groups_TGS.masked_fill(closed_TG[..., None], float("-inf")).flatten(-2)


def renormalize(weights_TK: Tensor, least: float = 1e-20) -> Tensor:
    """Divide each token's k weights by their sum, or by `least` (`moe_norm_min`) if it is smaller.

    Source: `norm_topk_prob`; DeepSeek-V3, equation 13. DeepSeek adds 1e-20 to the sum in place of
    taking the larger: in 32 bits the same for every sum above 1e-12.
    """
    return weights_TK / weights_TK.sum(-1, keepdim=True).clamp(min=least)


def softmax_of_chosen(logits_TE: Tensor, experts_TK: Tensor) -> Tensor:
    """Softmax over the logits of the chosen experts alone (T, k). In at least 32 bits.

    The same numbers as softmax over all E and then `renormalize`. Source: gpt-oss; Shazeer et al.
    2017, "Outrageously Large Neural Networks", equation 3.
    """
    return softmax_scores(logits_TE.gather(-1, experts_TK))


def hash_experts(token_ids_T: Tensor, table_VK: Tensor) -> Tensor:
    """Row `token_ids_T` of a table: a word always goes to the same experts, whatever the context.

    Source: Roller et al. 2021, "Hash Layers for Large Sparse Models"; DeepSeek-V4's first
    `num_hash_layers` layers, whose table is part of the checkpoint.
    """
    return table_VK[token_ids_T]


def random_hash_table(vocab_size: int, num_experts: int, k: int, seed: int = 0) -> Tensor:
    """A table for `hash_experts`: k different experts, at random, for each of the token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(vocab_size, num_experts, generator=generator).topk(k, dim=-1).indices


def identity_weight(experts_TK: Tensor, weights_TK: Tensor, num_experts: int) -> Tensor:
    """How much of itself a token gets back: the sum of its weights of identity experts (T, 1).

    Experts numbered `num_experts` and above return their input, so that y is the sum of w FFN(x)
    over real experts, plus this times x. Source: LongCat-Flash Technical Report, section 2.1.
    """
    return weights_TK.masked_fill(experts_TK < num_experts, 0.0).sum(-1, keepdim=True)
