"""Wrong answers to the exercise on the loss in chapter 02."""

import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer


def _flat(logits: Tensor, ids: Tensor, **options) -> Tensor:
    """The right loss, or another reduction of it."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), **options)


def _picked(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    """The loss from log-probabilities (B, T, V) at all positions."""
    return -log_probabilities[:, :-1].gather(-1, ids[:, 1:, None]).mean()


def _log_sum_exp(logits: Tensor, ids: Tensor) -> Tensor:
    return _picked(logits - logits.exp().sum(-1, keepdim=True).log(), ids)


def _log_of_ratio(logits: Tensor, ids: Tensor) -> Tensor:
    return _picked((logits.exp() / logits.exp().sum(-1, keepdim=True)).log(), ids)


def _reshaped(logits: Tensor, ids: Tensor) -> Tensor:
    batch, tokens, vocabulary = logits[:, :-1].shape
    return F.cross_entropy(logits[:, :-1].reshape(batch, vocabulary, tokens), ids[:, 1:])


NEXT_TOKEN_LOSS = (
    WrongAnswer(
        "no shift",
        lambda logits, ids: F.cross_entropy(logits.flatten(0, 1), ids.flatten()),
        "The logits at position t are compared with token t, which the model has just read. "
        "It would learn to copy. Compare them with token t + 1.",
    ),
    WrongAnswer(
        "shifted backwards",
        lambda logits, ids: F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten()),
        "Shifted the wrong way: the model is asked for the token BEFORE. Drop the last logits "
        "and the first ids.",
    ),
    WrongAnswer(
        "rolled around",
        lambda logits, ids: F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten()),
        "The last position is asked for the first token of the sequence (roll wraps around). "
        "Nobody knows the token after the last: leave that position out.",
    ),
    WrongAnswer(
        "flattened before the shift",
        lambda logits, ids: F.cross_entropy(logits.flatten(0, 1)[:-1], ids.flatten()[1:]),
        "You join the sequences first and shift then, so the end of one sequence is asked for the "
        "beginning of the next. Shift along dimension 1 first, then flatten.",
    ),
    WrongAnswer(
        "sum",
        lambda logits, ids: _flat(logits, ids, reduction="sum"),
        "This is the sum over all predictions. The mean does not change with the batch size, "
        "so that one learning rate fits all.",
    ),
    WrongAnswer(
        "divided by all positions",
        lambda logits, ids: _flat(logits, ids, reduction="sum") / ids.numel(),
        "The sum is divided by B * T, and only B * (T - 1) predictions are in it: the last "
        "position of each sequence has no answer.",
    ),
    WrongAnswer(
        "no mean",
        lambda logits, ids: _flat(logits, ids, reduction="none"),
        "One loss for each position came back. Training needs a single number: the mean.",
        also=(lambda logits, ids: _flat(logits, ids, reduction="none").view(len(ids), -1),),
    ),
    WrongAnswer(
        "softmax twice",
        lambda logits, ids: _flat(logits.softmax(-1), ids),
        "F.cross_entropy takes logits and applies the softmax itself: yours is applied twice.",
    ),
    WrongAnswer(
        "classes not on dimension 1",
        lambda logits, ids: F.cross_entropy(logits[:, :-1], ids[:, 1:]),
        "F.cross_entropy looks for the vocabulary on dimension 1, and yours is on the last. "
        "Flatten batch and positions to (N, V) and (N,), or transpose(1, 2) the logits.",
    ),
    WrongAnswer(
        "reshaped instead of transposed",
        _reshaped,
        "reshape and view keep the order of the numbers in memory, so the scores of different "
        "positions are mixed up. To bring the vocabulary to dimension 1: transpose(1, 2).",
    ),
    WrongAnswer(
        "view of a slice",
        lambda logits, ids: F.cross_entropy(
            logits[:, :-1].view(-1, logits.shape[-1]), ids[:, 1:].reshape(-1)
        ),
        "A slice such as logits[:, :-1] leaves gaps in memory, and view cannot join it. "
        "reshape and flatten copy where they must.",
    ),
    WrongAnswer(
        "log of the softmax",
        lambda logits, ids: _picked(logits.softmax(-1).log(), ids),
        "A very small probability is rounded to 0, and log(0) is -infinity: the loss is infinite "
        "where it should be large. F.log_softmax and F.cross_entropy never form that probability.",
    ),
    WrongAnswer(
        "exp without the maximum",
        _log_sum_exp,
        "exp of a large logit is infinite: float32 ends at exp(88.7). torch.logsumexp, "
        "F.log_softmax and F.cross_entropy subtract the largest logit first.",
        also=(_log_of_ratio,),
    ),
)
