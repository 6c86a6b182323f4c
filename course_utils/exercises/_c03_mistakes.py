"""Wrong answers to the exercises of chapter 03 on routing, capacity and cost."""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.moe import beyond_capacity

# ---- top-k routing


def _chosen(logits: Tensor, k: int, scores: Tensor, norm: bool = True) -> tuple[Tensor, Tensor]:
    """Experts by the largest logits, weights gathered from scores."""
    experts = logits.topk(k, dim=-1).indices
    weights = scores.gather(-1, experts)
    return experts, weights / weights.sum(-1, keepdim=True) if norm else weights


def _softmax_over(dim: int):
    def route(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores = logits.softmax(dim)
        return _chosen(scores, k, scores)

    return route


def _all_over_dimension_1(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, experts = logits.topk(k, dim=1)
    return experts, values.softmax(1)


def _top_k_over_tokens(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    weights, experts = logits.softmax(-1).topk(k, dim=0)
    return experts, weights / weights.sum(0, keepdim=True)


def _masked_with_zero(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, experts = logits.topk(k, dim=-1)
    masked = torch.zeros_like(logits).scatter(-1, experts, values)
    return experts, masked.softmax(-1).gather(-1, experts)


def _all_weights(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, experts = logits.topk(k, dim=-1)
    hidden = torch.full_like(logits, float("-inf")).scatter(-1, experts, values)
    return experts, hidden.softmax(-1)


def _no_keepdim(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    weights, experts = logits.softmax(-1).topk(k, dim=-1)
    return experts, weights / weights.sum(-1)


def _by_number(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    experts = logits.topk(k, dim=-1).indices.sort(-1).values
    return experts, logits.gather(-1, experts).softmax(-1)


def _over_everything(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    weights, experts = logits.softmax(-1).topk(k, dim=-1)
    return experts, weights / weights.sum()


def _exp(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, experts = logits.topk(k, dim=-1)
    return experts, values.exp() / values.exp().sum(-1, keepdim=True)


def _exp_of_all(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    scores = logits.exp() / logits.exp().sum(-1, keepdim=True)
    weights, experts = scores.topk(k, dim=-1)
    return experts, weights / weights.sum(-1, keepdim=True)


ROUTE_TOP_K = (
    WrongAnswer(
        "not renormalised",
        lambda logits, k: _chosen(logits, k, logits.softmax(-1), norm=False),
        "The weights are probabilities among ALL experts, so the k that are left sum to less than "
        "1, and the output shrinks. Divide them by their sum.",
    ),
    WrongAnswer(
        "softmax over the tokens",
        _softmax_over(-2),
        "Your softmax runs over the tokens: they compete for an expert. The experts compete for a "
        "token: softmax over the last dimension.",
        also=(
            _softmax_over(0),
            lambda logits, k: (logits.topk(k).indices, logits.topk(k).values.softmax(0)),
            lambda logits, k: (logits.topk(k).indices, logits.topk(k).values.softmax(-2)),
        ),
    ),
    WrongAnswer(
        "over dimension 1",
        _softmax_over(1),
        "You count the dimension from the front. With a batch in front, dimension 1 holds the "
        "tokens: the experts are always the last dimension, -1.",
        also=(
            _all_over_dimension_1,
            lambda logits, k: (logits.topk(k).indices, logits.topk(k).values.softmax(1)),
        ),
    ),
    WrongAnswer(
        "top-k over the tokens",
        _top_k_over_tokens,
        "topk runs over the tokens, so each expert chooses k tokens. That is another router "
        "(expert choice); here each token chooses k experts: dim=-1.",
    ),
    WrongAnswer(
        "softmax twice",
        lambda logits, k: _chosen(logits, k, logits.softmax(-1).exp()),
        "A softmax of probabilities is nearly flat, because they differ by less than 1. Take the "
        "softmax once: of the logits, over the k chosen or over all with a division afterwards.",
    ),
    WrongAnswer(
        "logits as weights",
        lambda logits, k: _chosen(logits, k, logits),
        "You divide logits by their sum. Logits can be negative, so can these weights. "
        "Take the softmax.",
    ),
    WrongAnswer(
        "plain logits",
        lambda logits, k: _chosen(logits, k, logits, norm=False),
        "The weights are still logits. Their softmax makes them positive with sum 1.",
    ),
    WrongAnswer(
        "sigmoid",
        lambda logits, k: _chosen(logits, k, logits.sigmoid()),
        "This is DeepSeek-V3's rule (chapter 04): sigmoids divided by their sum. Here the weights "
        "are a softmax.",
    ),
    WrongAnswer(
        "sigmoid, not renormalised",
        lambda logits, k: _chosen(logits, k, logits.sigmoid(), norm=False),
        "A sigmoid scores each expert by itself, so the weights do not sum to 1. "
        "Here they are a softmax over the chosen experts.",
    ),
    WrongAnswer(
        "zeros in place of the others",
        _masked_with_zero,
        "A logit of 0 is not nothing: exp(0) = 1, so the experts that were not chosen still take "
        "their part of the softmax. Leave them out, or set them to -infinity.",
    ),
    WrongAnswer(
        "weights of all experts",
        _all_weights,
        "There is a weight for each of the E experts. Return only those of the k chosen, in the "
        "order of the indices: shape (T, k).",
    ),
    WrongAnswer(
        "changed places",
        lambda logits, k: _chosen(logits, k, logits.softmax(-1))[::-1],
        "The two results have changed places: first the numbers of the experts, then the weights. "
        "torch.topk returns them the other way round.",
        also=(lambda logits, k: tuple(logits.softmax(-1).topk(k)),),
    ),
    WrongAnswer(
        "the worst k",
        lambda logits, k: (
            logits.topk(k, dim=-1, largest=False).indices,
            logits.topk(k, dim=-1, largest=False).values.softmax(-1),
        ),
        "These are the experts with the smallest logits. The router's logits say how well an "
        "expert suits: take the largest.",
        also=(
            lambda logits, k: (
                logits.argsort(-1)[..., :k],
                logits.sort(-1).values[..., :k].softmax(-1),
            ),
        ),
    ),
    WrongAnswer(
        "not best first",
        _by_number,
        "The right experts, and not in the order that torch.topk gives: best first.",
        also=(
            lambda logits, k: (
                logits.argsort(-1)[..., -k:],
                logits.sort(-1).values[..., -k:].softmax(-1),
            ),
        ),
    ),
    WrongAnswer(
        "one sum for all tokens",
        _over_everything,
        "The weights of all tokens together sum to 1. Divide each token by its own sum: "
        "sum(-1, keepdim=True).",
    ),
    WrongAnswer(
        "no keepdim",
        _no_keepdim,
        "sum(-1) has lost the last dimension, and (T,) does not line up with (T, k). "
        "keepdim=True leaves (T, 1).",
    ),
    WrongAnswer(
        "no gradient",
        lambda logits, k: _chosen(logits, k, logits.detach().softmax(-1)),
        "No gradient reaches the logits, so the router never learns. The numbers of the experts "
        "have none; it comes through the weights alone.",
    ),
    WrongAnswer(
        "always 32 bits",
        lambda logits, k: _chosen(logits, k, logits.float().softmax(-1)),
        "The weights are float32 whatever comes in. Leave the dtype as it is: softmax keeps it, "
        "and torch.zeros needs to be told, dtype=logits_TE.dtype.",
        also=(
            lambda logits, k: (logits.topk(k).indices, logits.float().topk(k).values.softmax(-1)),
            lambda logits, k: (logits.topk(k).indices, logits.topk(k).values.softmax(-1).float()),
        ),
    ),
    WrongAnswer(
        "exp without the maximum",
        _exp,
        "exp of a large logit is infinite: float32 ends at exp(88.7). softmax subtracts the "
        "largest logit first.",
        also=(_exp_of_all,),
    ),
)


# ---- capacity


def _kept(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    return ~beyond_capacity(experts, num_experts, capacity)


def _first_choices_first(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    turned = experts.T.contiguous()
    return beyond_capacity(turned, num_experts, capacity).T.contiguous()


def _overfull(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    return (experts.flatten().bincount(minlength=num_experts) > capacity)[experts]


def _earliest(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    turned = beyond_capacity(experts.flatten().flip(0)[:, None], num_experts, capacity)
    return turned.flatten().flip(0).view_as(experts)


def _each_choice_alone(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    columns = [beyond_capacity(column[:, None], num_experts, capacity) for column in experts.T]
    return torch.cat(columns, dim=1) if columns else torch.zeros_like(experts, dtype=torch.bool)


def _positions(experts: Tensor, num_experts: int, capacity: int) -> Tensor:
    places = F.one_hot(experts.flatten(), num_experts).cumsum(0)
    return places.gather(1, experts.flatten()[:, None]).view_as(experts)


BEYOND_CAPACITY = (
    WrongAnswer(
        "off by one",
        lambda experts, num_experts, capacity: beyond_capacity(
            experts, num_experts, max(0, capacity - 1)
        ),
        "You drop one pair too many: an expert takes `capacity` pairs, and the next one is late.",
    ),
    WrongAnswer(
        "one too many",
        lambda experts, num_experts, capacity: beyond_capacity(experts, num_experts, capacity + 1),
        "An expert gets one pair more than its capacity. Count the pairs BEFORE this one: from "
        "`capacity` on it is late.",
    ),
    WrongAnswer(
        "kept and dropped confused",
        _kept,
        "True stands where a pair is kept. It should stand where it is dropped.",
    ),
    WrongAnswer(
        "first choices first",
        _first_choices_first,
        "Your queue takes the first choices of all tokens before any second choice. GShard does "
        "that; here the queue goes token by token, all k choices of one before the next token.",
    ),
    WrongAnswer(
        "everything of a full expert",
        _overfull,
        "An expert that is over its capacity loses all of its pairs. It keeps the first "
        "`capacity` of them.",
    ),
    WrongAnswer(
        "drops the first",
        _earliest,
        "The earliest pairs are dropped and the latest kept. Who comes first is served.",
    ),
    WrongAnswer(
        "each choice has its own queue",
        _each_choice_alone,
        "First and second choices are counted apart, so an expert may get k times its capacity. "
        "All choices stand in one queue.",
    ),
    WrongAnswer(
        "the whole token",
        lambda experts, num_experts, capacity: (
            beyond_capacity(experts, num_experts, capacity)
            .any(1, keepdim=True)
            .expand_as(experts)
            .clone()
        ),
        "When one of its pairs is late, all of a token are dropped. Its other experts still have "
        "room: drop the late pair alone.",
    ),
    WrongAnswer(
        "one queue for all experts",
        lambda experts, num_experts, capacity: (
            torch.arange(experts.numel()).view_as(experts) >= capacity
        ),
        "You count the pairs of all experts together. Each expert has a queue of its own.",
    ),
    WrongAnswer(
        "places instead of late pairs",
        _positions,
        "These are the places in the queue. Compare them with the capacity: True where it is "
        "exceeded.",
    ),
)


# ---- what a layer costs


def _cost(D: int, E: int, k: int, width: int, shared: int = 0, **changes: int):
    """The right answer with some parts changed."""
    expert = changes.get("matrices", 3) * D * width + changes.get("biases", 0)
    router = changes.get("router", D * E)
    active_router = changes.get("active_router", router)
    total = router + (E + changes.get("shared_total", shared)) * expert
    active = active_router + (k + changes.get("shared_active", shared)) * expert
    return total, active, changes.get("operations", 2) * (active - changes.get("not_counted", 0))


MOE_LAYER_COST = (
    WrongAnswer(
        "no router",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, router=0),
        "The router is missing: hidden_size numbers for each routed expert, and every token uses "
        "all of them.",
    ),
    WrongAnswer(
        "router of the chosen alone",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, active_router=D * k),
        "A token uses the whole router: without the logits of all experts there is nothing to "
        "choose from.",
    ),
    WrongAnswer(
        "router not active",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, active_router=0),
        "The router is in the total and not in the active parameters. Every token goes through it.",
    ),
    WrongAnswer(
        "router for shared experts",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, router=D * (E + s)),
        "The router has a column for each ROUTED expert. Shared experts are always on, so nobody "
        "has to choose them.",
    ),
    WrongAnswer(
        "the router's operations forgotten",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, not_counted=D * E),
        "The router is in your parameters and not in your FLOPs. Its product with the token is "
        "computed like any other.",
    ),
    WrongAnswer(
        "a bias in the router",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, router=D * E + E),
        "Your router has a bias for each expert. Here it is one matrix, without a bias.",
    ),
    WrongAnswer(
        "biases in the experts",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, biases=2 * F + D),
        "Your experts have biases. Here they have none: three matrices each, and nothing else.",
    ),
    WrongAnswer(
        "two matrices",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, matrices=2),
        "An expert is a SwiGLU with three matrices: gate, up and down.",
    ),
    WrongAnswer(
        "one matrix",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, matrices=1),
        "One matrix is the snippet's linear expert. A SwiGLU has three: gate, up and down.",
    ),
    WrongAnswer(
        "shared experts forgotten",
        lambda D, E, k, F, s=0: _cost(D, E, k, F),
        "The shared experts are missing. They come on top of the routed ones: E + shared are "
        "stored, k + shared are used by a token.",
    ),
    WrongAnswer(
        "shared experts not active",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, shared_active=0),
        "Shared experts are in your total and not in the active parameters. They are on for every "
        "token.",
    ),
    WrongAnswer(
        "one operation a weight",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, operations=1),
        "A weight costs a token two operations: a multiplication and an addition.",
    ),
    WrongAnswer(
        "six operations a weight",
        lambda D, E, k, F, s=0: _cost(D, E, k, F, s, operations=6),
        "Six operations a weight is forward and backward pass together. One token forwards costs "
        "two.",
    ),
    WrongAnswer(
        "operations of all experts",
        lambda D, E, k, F, s=0: (*_cost(D, E, k, F, s)[:2], 2 * _cost(D, E, k, F, s)[0]),
        "Your FLOPs are those of the total: what a layer costs that computes every expert. A "
        "token goes through the active ones alone.",
    ),
)
