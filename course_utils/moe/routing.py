"""Which experts a token goes to, and with what weight.

A router multiplies a token by a matrix, which gives a logit for each expert. What follows is the
same three steps in every family: score the experts, choose k of them, weigh what they return. The
rules are in `rules`; `route` takes those that the config names.

What trains and what does not: gradients reach the logits through the weights of the chosen experts.
The choice itself has no gradient, so a bias that is used in the choice alone gets none.

Left out: capacity, which drops tokens after the choice (`capacity`), and the matrix (`layer`).
"""

from typing import NamedTuple

from torch import Tensor

from course_utils.moe import rules
from course_utils.moe.config import MoEConfig

SCORE_RULES = {
    "softmax": rules.softmax_scores,
    "sigmoid": rules.sigmoid_scores,
    "sqrtsoftplus": rules.sqrt_softplus_scores,
    "softmax_of_chosen": rules.softmax_scores,
}


class Routing(NamedTuple):
    """A router's decision about T tokens, k of E experts each.

    experts_TK: numbers of the chosen experts (int64), best first; weights_TK: what their outputs
    are multiplied with; scores_TE: the scores of all experts, without any bias; logits_TE: what the
    scores were made of. Balance is measured and trained on these. Scores and weights have at least
    32 bits. Numbers from `num_experts` on are identity experts.
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


def route_with_bias(
    logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """DeepSeek-V3's router without groups: experts of each token, and their weights, (T, k) each.

    The largest sigmoid(l) + b are chosen, best first; the weights are sigmoid(l) of the chosen,
    without b, divided by their sum, times `scale`.
    Source: DeepSeek-V3 Technical Report, equations 13 to 16.
    """
    scores_TE = logits_TE.sigmoid()
    experts_TK = (scores_TE + bias_E).topk(k, dim=-1).indices
    weights_TK = scores_TE.gather(-1, experts_TK)
    return experts_TK, scale * weights_TK / weights_TK.sum(-1, keepdim=True)


def route(
    logits_TE: Tensor,
    config: MoEConfig,
    bias_E: Tensor | None = None,
    hashed_TK: Tensor | None = None,
) -> Routing:
    """Route by the rule of `config`: score, choose, weigh.

    `bias_E` (None is zero) is used in the choice alone, and only by routers with
    `use_routing_bias`. `hashed_TK` are experts that `hash_experts` chose; the weights are scored as
    usual. Raises ValueError when there is not one logit for each expert, and when a bias is given
    to a router that has none.
    """
    _check(logits_TE, config, bias_E)
    scores_TE = SCORE_RULES[config.scoring_func](logits_TE)
    experts_TK = hashed_TK
    if experts_TK is None:
        experts_TK = choose(logits_TE, scores_TE, config, bias_E)
    weights_TK = weigh(logits_TE, scores_TE, experts_TK, config)
    return Routing(experts_TK, weights_TK, scores_TE, logits_TE)


def choose(
    logits_TE: Tensor, scores_TE: Tensor, config: MoEConfig, bias_E: Tensor | None
) -> Tensor:
    """The experts of each token (T, k): the largest score + bias within the open groups."""
    choice_TE = logits_TE if config.scoring_func == "softmax_of_chosen" else scores_TE
    if config.n_group == 1:
        return rules.choose_with_bias(choice_TE, bias_E, config.num_experts_per_tok)
    choice_TE = choice_TE if bias_E is None else choice_TE + bias_E
    open_TE = rules.limit_to_groups(
        choice_TE, config.n_group, config.topk_group, config.group_score
    )
    return rules.choose_with_bias(open_TE, None, config.num_experts_per_tok)


def weigh(logits_TE: Tensor, scores_TE: Tensor, experts_TK: Tensor, config: MoEConfig) -> Tensor:
    """The weights of the chosen experts (T, k): scores without bias, renormalised, then scaled."""
    if config.scoring_func == "softmax_of_chosen":
        weights_TK = rules.softmax_of_chosen(logits_TE, experts_TK)
    else:
        weights_TK = scores_TE.gather(-1, experts_TK)
        if config.norm_topk_prob:
            weights_TK = rules.renormalize(weights_TK, config.moe_norm_min)
    return weights_TK * config.routed_scaling_factor


def _check(logits_TE: Tensor, config: MoEConfig, bias_E: Tensor | None) -> None:
    if logits_TE.shape[-1] != config.num_choices:
        raise ValueError(
            f"there are {logits_TE.shape[-1]} logits a token and {config.num_choices} experts: "
            "the router's matrix needs one row for each"
        )
    if bias_E is not None and not config.use_routing_bias:
        raise ValueError(
            "a bias was given to a router without one: set use_routing_bias=True, or leave it out"
        )
