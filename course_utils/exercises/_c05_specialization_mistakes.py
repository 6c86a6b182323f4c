"""Wrong answers to the exercises of chapter 05 about specialisation: divergence and its control."""

import math

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.moe import routing_divergence

# ---- Jensen-Shannon divergence


def _entropy(shares: Tensor) -> Tensor:
    return torch.special.entr(shares).sum(-1) / math.log(2)


def _js(p: Tensor, q: Tensor) -> Tensor:
    """The right answer, in bits."""
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence in bits; infinite where q is 0 and p is not."""
    return torch.xlogy(p, p).sub(torch.xlogy(p, q)).sum(-1) / math.log(2)


def _unguarded(p: Tensor, q: Tensor) -> Tensor:
    """By definition, with log(0) wherever an expert got nothing."""
    m = (p + q) / 2
    return ((p * (p / m).log2()).sum(-1) + (q * (q / m).log2()).sum(-1)) / 2


JENSEN_SHANNON = (
    WrongAnswer(
        "nats",
        lambda p, q: _js(p, q) * math.log(2),
        "This is in nats: two distributions with nothing in common give 0.693. In bits they give "
        "1: divide by ln 2, or use log2.",
    ),
    WrongAnswer(
        "Kullback-Leibler",
        _kl,
        "This is the Kullback-Leibler divergence from q. It is infinite as soon as q leaves out an "
        "expert that p uses, and differs when p and q change places. Compare both with the middle, "
        "(p + q) / 2.",
        also=(lambda p, q: _kl(q, p),),
    ),
    WrongAnswer(
        "symmetric Kullback-Leibler",
        lambda p, q: (_kl(p, q) + _kl(q, p)) / 2,
        "You compare p with q and q with p: symmetric, and infinite where one of them is 0. "
        "Compare each with the middle (p + q) / 2: then nothing is divided by zero.",
        also=(lambda p, q: _kl(p, q) + _kl(q, p),),
    ),
    WrongAnswer(
        "the sum, not the mean",
        lambda p, q: 2 * _js(p, q),
        "Twice too much: take the MEAN of the two divergences from the middle. Then the largest "
        "value is 1 bit.",
    ),
    WrongAnswer(
        "the distance",
        lambda p, q: _js(p, q).clamp(min=0).sqrt(),
        "This is the square root, the Jensen-Shannon distance, which scipy's `jensenshannon` "
        "returns. The divergence is its square.",
    ),
    WrongAnswer(
        "zero times minus infinity",
        _unguarded,
        "An expert without tokens gives 0 * log(0) = NaN. Its term is 0: torch.xlogy(p, p) and "
        "torch.special.entr(p) know that.",
    ),
    WrongAnswer(
        "one middle entropy too many",
        lambda p, q: _entropy(p + q) - (_entropy(p) + _entropy(q)) / 2,
        "The middle is (p + q) / 2. p + q sums to 2 and is no distribution.",
    ),
    WrongAnswer(
        "the wrong way round",
        lambda p, q: -_js(p, q),
        "The sign is wrong: a mixture is at least as uncertain as its parts, so the entropy of the "
        "middle comes first.",
    ),
    WrongAnswer(
        "entropies added, not averaged",
        lambda p, q: _entropy((p + q) / 2) - _entropy(p) - _entropy(q),
        "You subtract both entropies in full, and equal distributions give a negative number. "
        "Subtract their mean.",
    ),
    WrongAnswer(
        "from the middle",
        lambda p, q: (_kl((p + q) / 2, p) + _kl((p + q) / 2, q)) / 2,
        "The middle and the parts have changed places: this is infinite where p or q is 0. Measure "
        "how far p and q are from the middle, not the middle from them.",
    ),
    WrongAnswer(
        "divided by log E",
        lambda p, q: _js(p, q) * math.log(2) / math.log(p.shape[-1]),
        "You divide by ln E, as for a load entropy. Bits do not depend on the number of experts: "
        "divide by ln 2.",
    ),
    WrongAnswer(
        "summed over everything",
        lambda p, q: _js(p, q).sum(),
        "Several pairs of distributions became one number. Sum over the experts, the last "
        "dimension, alone.",
        also=(lambda p, q: _js(p, q).mean(),),
    ),
    WrongAnswer(
        "total variation",
        lambda p, q: (p - q).abs().sum(-1) / 2,
        "This is half the sum of the differences, the total variation. It is 0 and 1 where the "
        "divergence is, and differs in between.",
    ),
)


# ---- the control


def _measure(experts: Tensor, labels: Tensor, E: int) -> float:
    return routing_divergence(experts, labels, E)


def _tokens_of(order: Tensor, length: int) -> Tensor:
    """A permutation of single tokens, made of a permutation of blocks."""
    block = length // len(order)
    return (order[None] + len(order) * torch.arange(block)[:, None]).flatten()


def _cumulative(experts: Tensor, labels: Tensor, E: int, orders: Tensor) -> list[float]:
    found = []
    for order in orders:
        labels = labels.view(len(order), -1)[order].flatten()
        found.append(_measure(experts, labels, E))
    return found


CONTROL_DIVERGENCES = (
    WrongAnswer(
        "routing permuted as well",
        lambda experts, labels, E, orders: [_measure(experts, labels, E)] * len(orders),
        "Every row gives the measured divergence. Either routing and labels were permuted "
        "together, or the labels were renamed and those of a kind stayed together. Move the labels "
        "to other tokens, and leave the routing where it is.",
    ),
    WrongAnswer(
        "single tokens",
        lambda experts, labels, E, orders: [
            _measure(experts, labels[_tokens_of(order, len(labels))], E) for order in orders
        ],
        "Blocks are torn apart: you permute across them. Neighbouring tokens are alike, so this "
        "control comes out too small. labels_N.view(P, -1) has one block a row.",
        also=(
            lambda experts, labels, E, orders: [
                _measure(experts, labels.view(-1, orders.shape[1])[:, order].flatten(), E)
                for order in orders
            ],
            lambda experts, labels, E, orders: [
                _measure(experts, labels.view(len(order), -1)[order].T.flatten(), E)
                for order in orders
            ],
        ),
    ),
    WrongAnswer(
        "the inverse order",
        lambda experts, labels, E, orders: [
            _measure(experts, labels.view(len(order), -1)[order.argsort()].flatten(), E)
            for order in orders
        ],
        "Block i goes to place order[i]; asked for was that it comes from there: "
        "blocks_PB[order_P]. (Or you permuted the routing in place of the labels.) As a control it "
        "is as good, with other numbers.",
    ),
    WrongAnswer(
        "tokens in place of blocks",
        lambda experts, labels, E, orders: [
            _measure(experts, labels[order], E) for order in orders
        ],
        "order_P has one entry for each BLOCK, and you index single labels with it, so only P of "
        "them are left. Give labels_N one block a row first: labels_N.view(P, -1).",
    ),
    WrongAnswer(
        "one permutation after the other",
        _cumulative,
        "The second order is applied to labels that the first has permuted already. Start every "
        "row from the labels as they were given.",
    ),
    WrongAnswer(
        "the mean alone",
        lambda experts, labels, E, orders: (
            sum(
                _measure(experts, labels.view(len(order), -1)[order].flatten(), E)
                for order in orders
            )
            / len(orders)
        ),
        "One number came back. The control is a list, one divergence for each row: its spread says "
        "how far chance alone goes.",
    ),
    WrongAnswer(
        "only the first order",
        lambda experts, labels, E, orders: [
            _measure(experts, labels.view(orders.shape[1], -1)[orders[0]].flatten(), E)
        ],
        "Only one permutation is used. orders_SP has S rows, and each is one draw of chance.",
    ),
    WrongAnswer(
        "beyond the measured",
        lambda experts, labels, E, orders: [
            _measure(experts, labels, E)
            - _measure(experts, labels.view(len(order), -1)[order].flatten(), E)
            for order in orders
        ],
        "You return what is left after the control is subtracted. Return the control itself; the "
        "comparison comes afterwards.",
    ),
)
