"""Wrong answers to the exercises on routing in chapter 04: the router with a bias, and groups."""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

Pair = tuple[Tensor, Tensor]


def _chosen(choice_TE: Tensor, k: int) -> Tensor:
    return choice_TE.topk(k, dim=-1).indices


def _weighed(scores_TE: Tensor, experts_TK: Tensor, scale: float) -> Pair:
    weights_TK = scores_TE.gather(-1, experts_TK)
    return experts_TK, scale * weights_TK / weights_TK.sum(-1, keepdim=True)


def _leak(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    biased_TE = logits_TE.sigmoid() + bias_E
    return _weighed(biased_TE, _chosen(biased_TE, k), scale)


def _biased_logits(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    return _weighed(logits_TE.sigmoid(), _chosen(logits_TE + bias_E, k), scale)


def _biased_logits_leak(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = (logits_TE + bias_E).sigmoid()
    return _weighed(scores_TE, _chosen(scores_TE, k), scale)


def _no_bias(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    return _weighed(scores_TE, _chosen(scores_TE, k), scale)


def _not_renormalised(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK = _chosen(scores_TE + bias_E, k)
    return experts_TK, scale * scores_TE.gather(-1, experts_TK)


def _scale_cancels(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK = _chosen(scores_TE + bias_E, k)
    weights_TK = scale * scores_TE.gather(-1, experts_TK)
    return experts_TK, weights_TK / weights_TK.sum(-1, keepdim=True)


def _softmax(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.softmax(-1)
    return _weighed(scores_TE, _chosen(scores_TE + bias_E, k), scale)


def _softmax_of_chosen(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK = _chosen(scores_TE + bias_E, k)
    return experts_TK, scale * scores_TE.gather(-1, experts_TK).softmax(-1)


def _over_all(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK = _chosen(scores_TE + bias_E, k)
    return experts_TK, scale * (scores_TE / scores_TE.sum(-1, keepdim=True)).gather(-1, experts_TK)


def _other_experts(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    weights_TK = scores_TE.topk(k, dim=-1).values
    experts_TK = _chosen(scores_TE + bias_E, k)
    return experts_TK, scale * weights_TK / weights_TK.sum(-1, keepdim=True)


def _swapped(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK, weights_TK = _weighed(scores_TE, _chosen(scores_TE + bias_E, k), scale)
    return weights_TK, experts_TK


def _detached(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK, weights_TK = _weighed(scores_TE, _chosen(scores_TE + bias_E, k), scale)
    return experts_TK, weights_TK.detach()


def _softmax_of_logits(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    experts_TK = _chosen(logits_TE.sigmoid() + bias_E, k)
    return experts_TK, scale * logits_TE.gather(-1, experts_TK).softmax(-1)


def _minus(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    return _weighed(scores_TE, _chosen(scores_TE - bias_E, k), scale)


def _one_sum(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK = _chosen(scores_TE + bias_E, k)
    weights_TK = scores_TE.gather(-1, experts_TK)
    return experts_TK, scale * weights_TK / weights_TK.sum()


def _divided_by_scale(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    return _weighed(scores_TE, _chosen(scores_TE + bias_E, k), 1 / scale)


def _swapped_leak(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    return _leak(logits_TE, bias_E, k, scale)[::-1]


def _topk_pair(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    return tuple((logits_TE.sigmoid() + bias_E).topk(k))


def _by_columns(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK = _chosen(scores_TE + bias_E, k)
    weights_TK = scores_TE[:, experts_TK]
    return experts_TK, scale * weights_TK / weights_TK.sum(-1, keepdim=True)


def _sum_without_keepdim(logits_TE: Tensor, bias_E: Tensor, k: int, scale: float = 1.0) -> Pair:
    scores_TE = logits_TE.sigmoid()
    experts_TK = _chosen(scores_TE + bias_E, k)
    weights_TK = scores_TE.gather(-1, experts_TK)
    return experts_TK, scale * weights_TK / weights_TK.sum(-1)


ROUTE_WITH_BIAS = (
    WrongAnswer(
        "bias leaks into the weights",
        _leak,
        "The weights are made of score + bias. The bias must not be seen in the output: choose by "
        "score + bias, then gather the weights from the scores alone.",
    ),
    WrongAnswer(
        "bias added to the logits",
        _biased_logits,
        "The bias is added before the sigmoid. It belongs to the scores: sigmoid(logits) + bias. "
        "On logits the same step u means much in the middle and little at the ends.",
        also=(_biased_logits_leak,),
    ),
    WrongAnswer(
        "bias not used",
        _no_bias,
        "The experts are chosen by the scores alone: your bias has no effect. Choose by score + "
        "bias.",
    ),
    WrongAnswer(
        "not renormalised",
        _not_renormalised,
        "A token's weights do not sum to `scale`: sigmoids sum to anything. Divide them by their "
        "sum over the k chosen.",
    ),
    WrongAnswer(
        "scale inside the renormalisation",
        _scale_cancels,
        "The scale has no effect: it is not there, or it is multiplied in before the division, "
        "where it cancels. Renormalise first, scale then.",
    ),
    WrongAnswer(
        "softmax scores",
        _softmax,
        "The scores are a softmax. Here each expert is scored by itself: logits_TE.sigmoid().",
    ),
    WrongAnswer(
        "softmax over the chosen",
        _softmax_of_chosen,
        "A softmax of the chosen is not their share: divide each chosen score by their sum.",
        also=(_softmax_of_logits,),
    ),
    WrongAnswer(
        "renormalised over all experts",
        _over_all,
        "You divide by the sum over all E experts. Only the k chosen are computed, so their "
        "weights are to sum to `scale`.",
    ),
    WrongAnswer(
        "weights of other experts",
        _other_experts,
        "The weights are the k largest scores, and these may belong to other experts than the k "
        "largest score + bias. Take the scores of the chosen: scores_TE.gather(-1, experts_TK).",
    ),
    WrongAnswer(
        "swapped",
        _swapped,
        "Experts first, weights second: return experts_TK, weights_TK. (topk gives values first, "
        "and those would hold the bias.)",
        also=(_swapped_leak, _topk_pair),
    ),
    WrongAnswer(
        "bias subtracted",
        _minus,
        "The bias is subtracted. A higher bias must make an expert MORE likely to be chosen: score "
        "+ bias.",
    ),
    WrongAnswer(
        "one sum for all tokens",
        _one_sum,
        "You divide by the sum over all tokens. Each token's k weights sum to `scale`: "
        "sum(-1, keepdim=True).",
    ),
    WrongAnswer(
        "divided by the scale",
        _divided_by_scale,
        "The weights sum to 1 / scale. Multiply by the scale.",
    ),
    WrongAnswer(
        "scores[:, experts]",
        _by_columns,
        "scores[:, experts] takes for EVERY token the columns of all tokens. gather(-1, "
        "experts_TK) takes from each row its own.",
    ),
    WrongAnswer(
        "no gradient",
        _detached,
        "The values are right, but the weights are detached: the router could not learn. Only the "
        "choice is without a gradient, and that by itself.",
    ),
    WrongAnswer(
        "sum without keepdim",
        _sum_without_keepdim,
        "weights.sum(-1) has shape (T,), which is lined up with the k columns and not with the "
        "rows: sum(-1, keepdim=True).",
    ),
)


# ---- groups


def _group_sums(scores_TE: Tensor, n_group: int, best: int) -> Tensor:
    return scores_TE.unflatten(-1, (n_group, -1)).topk(best, dim=-1).values.sum(-1)


def _close(scores_TE: Tensor, judged_TG: Tensor, keep: int, fill: float = float("-inf")) -> Tensor:
    """Scores with all but the `keep` best groups filled."""
    open_TJ = judged_TG.topk(keep, dim=-1).indices
    open_TG = torch.zeros_like(judged_TG, dtype=torch.bool).scatter(-1, open_TJ, True)
    open_TE = open_TG.repeat_interleave(scores_TE.shape[-1] // judged_TG.shape[-1], dim=-1)
    return scores_TE.masked_fill(~open_TE, fill)


def _interleaved(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    turned_TE = scores_TE.unflatten(-1, (-1, n_group)).transpose(-1, -2).flatten(-2)
    closed_TE = _close(turned_TE, _group_sums(turned_TE, n_group, 2), topk_group)
    return closed_TE.unflatten(-1, (n_group, -1)).transpose(-1, -2).flatten(-2)


def _same_for_all(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    judged_G = _group_sums(scores_TE, n_group, 2).mean(0)
    return _close(scores_TE, judged_G.expand(len(scores_TE), -1), topk_group)


def _in_place(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    closed_TE = _close(scores_TE, _group_sums(scores_TE, n_group, 2), topk_group).isinf()
    return scores_TE.masked_fill_(closed_TE, float("-inf"))


def _worst(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    return _close(scores_TE, -_group_sums(scores_TE, n_group, 2), topk_group)


def _inverted(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    closed_TE = _close(scores_TE, _group_sums(scores_TE, n_group, 2), topk_group).isinf()
    return scores_TE.masked_fill(~closed_TE, float("-inf"))


def _truth_values(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    return ~_close(scores_TE, _group_sums(scores_TE, n_group, 2), topk_group).isinf()


def _best_experts(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    best_TK = scores_TE.topk(topk_group * (scores_TE.shape[-1] // n_group), dim=-1).indices
    nothing_TE = torch.full_like(scores_TE, float("-inf"))
    return nothing_TE.scatter(-1, best_TK, scores_TE.gather(-1, best_TK))


def _open_alone(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    open_TJ = _group_sums(scores_TE, n_group, 2).topk(topk_group, dim=-1).indices
    groups_TGS = scores_TE.unflatten(-1, (n_group, -1))
    return groups_TGS.take_along_dim(open_TJ[..., None], dim=-2).flatten(-2)


def _not_flattened(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    closed_TE = _close(scores_TE, _group_sums(scores_TE, n_group, 2), topk_group)
    return closed_TE.unflatten(-1, (n_group, -1))


def _mask_of_zeros(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
    return _close(scores_TE, _group_sums(scores_TE, n_group, 2), topk_group) - scores_TE


def _judged_by(best: int):
    """Groups judged by the sum of their `best` largest scores; 0 means all of them."""

    def close(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
        many = best or scores_TE.shape[-1] // n_group
        return _close(scores_TE, _group_sums(scores_TE, n_group, many), topk_group)

    return close


def _filled_with(fill: float):
    def close(scores_TE: Tensor, n_group: int, topk_group: int) -> Tensor:
        return _close(scores_TE, _group_sums(scores_TE, n_group, 2), topk_group, fill)

    return close


LIMIT_TO_GROUPS = (
    WrongAnswer(
        "closed with 0",
        _filled_with(0.0),
        "Closed groups get 0. Scores with a bias can be negative, and then a closed 0 wins: a "
        "real bug of DeepSeek-V3's first code. Minus infinity never wins.",
    ),
    WrongAnswer(
        "closed with a large negative number",
        _filled_with(-1e9),
        "Closed groups get a negative number: a guess at how low scores can be, which 16 bits or a "
        "later sum may undo. float('-inf') needs no guess.",
        also=tuple(map(_filled_with, (-1.0, -100.0, -1e3, -1e4, -1e5, -1e6, -1e8, -1e10))),
    ),
    WrongAnswer(
        "judged by the best expert",
        _judged_by(1),
        "The groups are judged by their best expert, as DeepSeek-V2 does. Here it is the sum of "
        "the two best.",
    ),
    WrongAnswer(
        "judged by all experts",
        _judged_by(0),
        "The groups are judged by all their experts. A group with two excellent and many poor "
        "ones is worth visiting: the sum of the two best.",
    ),
    WrongAnswer(
        "every G-th expert together",
        _interleaved,
        "Your groups hold every G-th expert. A device holds neighbours: group 0 is experts 0 to "
        "E / G - 1. unflatten to (n_group, -1), not to (-1, n_group).",
    ),
    WrongAnswer(
        "the same groups for all tokens",
        _same_for_all,
        "The groups are judged over all tokens together. Each token chooses its own.",
    ),
    WrongAnswer(
        "open and closed exchanged",
        _inverted,
        "The best groups are closed and the others open. Fill where a group is NOT among the best.",
        also=(_worst,),
    ),
    WrongAnswer(
        "best experts, not best groups",
        _best_experts,
        "You keep the best experts wherever they are. Whole groups are open or closed: judge the "
        "groups first.",
    ),
    WrongAnswer(
        "the open groups alone",
        _open_alone,
        "Only the open groups came back, so expert numbers no longer fit. Keep all E places, with "
        "minus infinity in the closed ones.",
    ),
    WrongAnswer(
        "not flattened",
        _not_flattened,
        "The result still has a dimension for the groups: .flatten(-2) brings it back to (T, E).",
    ),
    WrongAnswer(
        "mask without the scores",
        _mask_of_zeros,
        "This is a mask of 0 and minus infinity. Add it to the scores, or fill the scores.",
    ),
    WrongAnswer(
        "truth values",
        _truth_values,
        "The mask came back. Return the scores, with minus infinity in the closed groups.",
    ),
    WrongAnswer(
        "in place",
        _in_place,
        "The scores that were handed in are changed, and the weights are still to be taken from "
        "them. masked_fill, without the underscore, makes new ones.",
    ),
)
