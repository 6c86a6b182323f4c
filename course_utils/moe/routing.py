"""Which experts a token goes to, and with what weight."""

from typing import NamedTuple

import torch
from torch import Tensor

from course_utils.moe.config import MoEConfig


class Routing(NamedTuple):
    """A router's decision about T tokens, k of E experts each.

    experts_TK: numbers of the chosen experts (int64), best first; weights_TK: what their outputs
    are multiplied with; scores_TE: the scores of all experts, without any bias; logits_TE: what the
    scores were made of. Balance is measured and trained on these.
    """

    experts_TK: Tensor
    weights_TK: Tensor
    scores_TE: Tensor
    logits_TE: Tensor


def route_top_k(logits_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best experts of each token (T, k), and their softmax weights, which sum to 1 (T, k).

    Source: Jiang et al. 2024, "Mixtral of Experts", section 2.1.
    """
    scores_TE = logits_TE.softmax(-1)
    weights_TK, experts_TK = scores_TE.topk(k, dim=-1)
    return experts_TK, weights_TK / weights_TK.sum(-1, keepdim=True)


def route(logits_TE: Tensor, config: MoEConfig, bias_E: Tensor | None = None) -> Routing:
    """Route by the rule of `config`."""
    scores_TE = logits_TE.softmax(-1, dtype=torch.float32)
    experts_TK, weights_TK = route_top_k(logits_TE, config.num_experts_per_tok)
    return Routing(experts_TK, weights_TK, scores_TE, logits_TE)
