"""Wrong answers to the exercises of chapter 03 on bringing tokens to experts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.moe import sort_by_expert
from course_utils.moe.experts import expert

# ---- the loop over experts


def _every(x, experts, weights, gate, up, down) -> Tensor:
    """Every expert for every token, weight 0 where it was not chosen."""
    mix = torch.zeros(len(x), len(gate), dtype=weights.dtype).scatter_add(1, experts, weights)
    hidden = F.silu(torch.einsum("td,edf->tef", x, gate)) * torch.einsum("td,edf->tef", x, up)
    return torch.einsum("tef,efd,te->td", hidden, down, mix)


def _every_in_a_loop(x, experts, weights, gate, up, down) -> Tensor:
    y = torch.zeros_like(x)
    for e in range(len(gate)):
        share = (weights * (experts == e)).sum(1, keepdim=True)
        y = y + share * expert(x, gate[e], up[e], down[e])
    return y


def _loop(
    x,
    experts,
    weights,
    gate,
    up,
    down,
    *,
    weigh=None,
    before=None,
    put="add",
    act=expert,
    skip=True,
):
    """The right loop with one part changed."""
    weigh = weigh or (lambda w, tokens, place, e: w[tokens, place, None])
    y = torch.zeros_like(x)
    for e in range(len(gate)):
        tokens, place = torch.where(experts == e)
        if skip and not len(tokens):
            continue
        weight = weigh(weights, tokens, place, e)
        rows = x[tokens] if before is None else before(x[tokens], weight)
        out = act(rows, gate[e], up[e], down[e])
        out = out if before else weight * out
        y = y.index_add(0, tokens, out) if put == "add" else y.index_put((tokens,), out)
    return y


def _changed(**parts):
    def answer(x, experts, weights, gate, up, down) -> Tensor:
        return _loop(x, experts, weights, gate, up, down, **parts)

    return answer


def _by_slot(x, experts, weights, gate, up, down) -> Tensor:
    """Slot by slot, the last slot overwriting the others."""
    y = torch.zeros_like(x)
    for j in range(experts.shape[1]):
        for t in range(len(x)):
            e = experts[t, j]
            y = y.index_put(
                (torch.tensor([t]),), weights[t, j] * expert(x[t : t + 1], gate[e], up[e], down[e])
            )
    return y


def _first_alone(x, experts, weights, gate, up, down) -> Tensor:
    return _loop(x, experts[:, :1], weights[:, :1], gate, up, down)


def _renormalised(x, experts, weights, gate, up, down) -> Tensor:
    return _loop(x, experts, weights / weights.sum(1, keepdim=True), gate, up, down)


def _softmax_again(x, experts, weights, gate, up, down) -> Tensor:
    return _loop(x, experts, weights.softmax(-1), gate, up, down)


def _float32(x, experts, weights, gate, up, down) -> Tensor:
    return _loop(x, experts, weights, gate, up, down).float()


def _float32_sum(x, experts, weights, gate, up, down) -> Tensor:
    """The loop with `index_add` into a float32 sum: it raises where the tokens are float64."""
    y = torch.zeros(x.shape)
    return y.index_add(0, torch.arange(len(x)), _loop(x, experts, weights, gate, up, down))


def _float32_sum_in_place(x, experts, weights, gate, up, down) -> Tensor:
    y = torch.zeros(x.shape)
    return y.index_add_(0, torch.arange(len(x)), _loop(x, experts, weights, gate, up, down))


def _float32_put(x, experts, weights, gate, up, down) -> Tensor:
    y = torch.zeros(x.shape)
    y[torch.arange(len(x))] += _loop(x, experts, weights, gate, up, down)
    return y


def _detached(x, experts, weights, gate, up, down) -> Tensor:
    return _loop(x, experts, weights.detach(), gate, up, down)


def _mean(x, experts, weights, gate, up, down) -> Tensor:
    return _loop(x, experts, weights, gate, up, down) / experts.shape[1]


def _residual(x, experts, weights, gate, up, down) -> Tensor:
    return x + _loop(x, experts, weights, gate, up, down)


EXPERTS_LOOP = (
    WrongAnswer(
        "every expert for every token",
        _every,
        "The values are right, and every expert was computed for every token: that is the "
        "snippet's first mistake. Give each expert only the tokens that chose it: "
        "torch.where(experts_TK == e).",
        also=(_every_in_a_loop,),
    ),
    WrongAnswer(
        "no weights",
        _changed(weigh=lambda w, tokens, place, e: torch.ones(len(tokens), 1, dtype=w.dtype)),
        "The outputs are added up without the router's weights. Without them the router gets no "
        "gradient, and never learns.",
    ),
    WrongAnswer(
        "the weight of the first choice",
        _changed(weigh=lambda w, tokens, place, e: w[tokens, :1]),
        "Every output gets the weight of its token's first choice. torch.where gives two things: "
        "the token, and the place among its k where the expert stands. Use both.",
    ),
    WrongAnswer(
        "the sum of the weights",
        _changed(weigh=lambda w, tokens, place, e: w[tokens].sum(1, keepdim=True)),
        "Every output is multiplied by all of the token's weights together. Each expert has one: "
        "weights_TK[token, place].",
    ),
    WrongAnswer(
        "weights by the expert's number",
        _changed(weigh=lambda w, tokens, place, e: w[tokens, e, None]),
        "The second index of weights_TK is the place among the k choices, not the number of the "
        "expert. torch.where(experts_TK == e) gives both indices.",
        also=(_changed(weigh=lambda w, tokens, place, e: w[tokens, e].unsqueeze(-1)),),
    ),
    WrongAnswer(
        "weights without a second dimension",
        _changed(weigh=lambda w, tokens, place, e: w[tokens, place]),
        "weights_TK[tokens, place] has shape (n,), which does not line up with outputs of (n, D). "
        "weights_TK[tokens, place, None] has shape (n, 1), one weight for each row.",
        also=(_changed(weigh=lambda w, tokens, place, e: w[tokens, place], skip=False),),
    ),
    WrongAnswer(
        "all weights of the token",
        _changed(weigh=lambda w, tokens, place, e: w[tokens]),
        "weights_TK[tokens] are all k weights of a token, (n, k). One belongs to this expert: "
        "weights_TK[tokens, place, None].",
        also=(_changed(weigh=lambda w, tokens, place, e: w[tokens], skip=False),),
    ),
    WrongAnswer(
        "overwritten",
        _changed(put="put"),
        "A later expert overwrites what an earlier one wrote. A token's k outputs are added up: "
        "index_add, or += .",
        also=(_by_slot,),
    ),
    WrongAnswer(
        "weighted before the expert",
        _changed(before=lambda rows, weight: rows * weight),
        "You scale what goes INTO the expert. An expert is not linear, so that is another model "
        "(Llama 4's). The weight belongs to what comes out.",
    ),
    WrongAnswer(
        "the first choice alone",
        _first_alone,
        "Only the first choice of each token is computed. There are k, the columns of experts_TK.",
    ),
    WrongAnswer(
        "weights divided again",
        _renormalised,
        "You divide the weights by their sum. The router has decided about that, and some "
        "routers (DeepSeek-V3) scale them on purpose: use them as they are.",
    ),
    WrongAnswer(
        "softmax of the weights",
        _softmax_again,
        "The weights have been through a softmax. Another one makes them nearly equal: use them "
        "as they are.",
    ),
    WrongAnswer(
        "mean over the choices",
        _mean,
        "You divide by k. The weights say how much each output counts; the sum is the result.",
    ),
    WrongAnswer(
        "gate and up changed places",
        _changed(act=lambda x, gate, up, down: expert(x, up, gate, down)),
        "gate and up have changed places: silu belongs to the gate.",
    ),
    WrongAnswer(
        "no gate",
        _changed(act=lambda x, gate, up, down: F.silu(x @ gate) @ down),
        "The up projection is missing: silu(gate) * up, and then down.",
    ),
    WrongAnswer(
        "no activation",
        _changed(act=lambda x, gate, up, down: (x @ gate * (x @ up)) @ down),
        "silu is missing: silu(gate) * up, and then down.",
    ),
    WrongAnswer(
        "with the residual",
        _residual,
        "You add the tokens themselves. The decoder layer does that, outside of the experts.",
    ),
    WrongAnswer(
        "always 32 bits",
        _float32,
        "The result is float32 whatever comes in. torch.zeros_like(x_TD) has the dtype of the "
        "tokens.",
        also=(_float32_sum, _float32_sum_in_place, _float32_put),
    ),
    WrongAnswer(
        "weights as plain numbers",
        _detached,
        "The values are right, and no gradient reaches the weights: float(), .item() and "
        "detach() cut it off, and the router never learns.",
    ),
)


# ---- sorting by expert


def _sorted_with(function):
    """The right order, with something else than the ends."""

    def answer(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
        order, ends = sort_by_expert(experts, num_experts)
        return order, function(experts, ends)

    return answer


def _counts(experts: Tensor, ends: Tensor) -> Tensor:
    return experts.flatten().bincount(minlength=len(ends))[: len(ends)]


def _ordered_by(function):
    """The right ends, with another order."""

    def answer(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
        return function(experts), sort_by_expert(experts, num_experts)[1]

    return answer


SORT_BY_EXPERT = (
    WrongAnswer(
        "counts instead of ends",
        _sorted_with(_counts),
        "These are the sizes of the blocks. The place where a block ends is the sum of all sizes "
        "up to it: cumsum.",
    ),
    WrongAnswer(
        "starts instead of ends",
        _sorted_with(lambda experts, ends: ends - _counts(experts, ends)),
        "These are the places where the blocks begin. Asked for is where they end: the first "
        "number is the size of the first block.",
    ),
    WrongAnswer(
        "starts and ends",
        _sorted_with(lambda experts, ends: torch.cat([ends.new_zeros(1), ends])),
        "There is a 0 in front. Asked for are the E ends alone: that the first block begins at 0 "
        "nobody has to say.",
    ),
    WrongAnswer(
        "last place instead of the end",
        _sorted_with(lambda experts, ends: ends - 1),
        "You give the last place of each block. As in Python's slices, the end is one further: "
        "rows[start:end].",
    ),
    WrongAnswer(
        "no room for unused experts",
        _sorted_with(lambda experts, ends: experts.flatten().bincount().cumsum(0)),
        "The last experts have no end, because nobody chose them: bincount stops at the largest "
        "number that it sees. minlength=num_experts gives each its place.",
    ),
    WrongAnswer(
        "unused experts left out",
        _sorted_with(lambda experts, ends: experts.unique(return_counts=True)[1].cumsum(0)),
        "unique knows only the experts that were chosen. One that nobody chose has an empty block "
        "and still needs an end: bincount with minlength.",
    ),
    WrongAnswer(
        "tokens instead of pairs",
        _ordered_by(lambda experts: experts.flatten().argsort(stable=True) // experts.shape[1]),
        "You return the tokens. Asked for are the pairs; their tokens are order_S // k, but the "
        "weights need the pair.",
    ),
    WrongAnswer(
        "the experts instead of the order",
        _ordered_by(lambda experts: experts.flatten().sort(stable=True).values),
        "These are the sorted numbers of the experts. Asked for is where they came from: argsort.",
    ),
    WrongAnswer(
        "column by column",
        _ordered_by(lambda experts: experts.T.flatten().argsort(stable=True)),
        "You number the pairs column by column. Pair s = t * k + j: row by row, as flatten gives "
        "them.",
    ),
    WrongAnswer(
        "the way back",
        _ordered_by(lambda experts: experts.flatten().argsort(stable=True).argsort()),
        "This is the inverse: for each pair the place to which it goes. Asked for is, for each "
        "place, the pair that comes there.",
    ),
    WrongAnswer(
        "largest first",
        _ordered_by(lambda experts: experts.flatten().argsort(descending=True, stable=True)),
        "The block of the last expert stands first. Expert 0 begins.",
    ),
    WrongAnswer(
        "not flattened",
        _ordered_by(lambda experts: experts.argsort(dim=-1, stable=True)),
        "You sort each token's k experts by themselves. All pairs go into one row first: "
        "experts_TK.flatten().",
    ),
    WrongAnswer(
        "sorted by token",
        _ordered_by(lambda experts: torch.arange(experts.numel())),
        "The pairs stand as they came. Sort them by their expert.",
    ),
)
