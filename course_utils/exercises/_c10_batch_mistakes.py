"""Wrong answers of chapter 10: means over tokens, parts of a batch, packed logits."""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer


def _over_sequences(values, labels, normalizer=None):
    judged = labels != -100
    count = len(labels) if normalizer is None else normalizer
    return values[judged].sum() / count


def _mean_of_means(values, labels, normalizer=None):
    judged = labels != -100
    if normalizer is not None:
        return values[judged].sum() / normalizer
    sums = torch.where(judged, values, 0).sum(-1)
    return (sums / judged.sum(-1).clamp(min=1)).mean()


def _all_positions(values, labels, normalizer=None):
    return values.sum() / (values.numel() if normalizer is None else normalizer)


def _padding_in_the_count(values, labels, normalizer=None):
    count = values.numel() if normalizer is None else normalizer
    return values[labels != -100].sum() / count


def _own_count(values, labels, normalizer=None):
    judged = labels != -100
    return values[judged].sum() / judged.sum().clamp(min=1)


def _unguarded(values, labels, normalizer=None):
    judged = labels != -100
    return values[judged].sum() / (judged.sum() if normalizer is None else normalizer)


TOKEN_MEAN = (
    WrongAnswer(
        "mean over the batch, not the tokens",
        _over_sequences,
        "You divide by the number of sequences, so the loss grows with their length. "
        "(F.kl_div(reduction='batchmean') does the same on (B, T, V).) Divide by judged tokens.",
    ),
    WrongAnswer(
        "mean of means",
        _mean_of_means,
        "Each sequence's mean counts the same, so a token of a short sequence weighs more than "
        "one of a long sequence. Sum over everything, then divide once.",
    ),
    WrongAnswer(
        "padding counted",
        _all_positions,
        "Positions with label -100 are in the sum and in the count: leave them out of both.",
    ),
    WrongAnswer(
        "padding in the count",
        _padding_in_the_count,
        "The sum is right, the count is not: it includes positions with label -100, so the loss "
        "shrinks when a batch is padded.",
    ),
    WrongAnswer(
        "normalizer ignored",
        _own_count,
        "With normalizer given, divide by it and not by the part's own count. Otherwise the "
        "losses of parts do not add up to that of the batch.",
    ),
    WrongAnswer(
        "nothing to judge",
        _unguarded,
        "A part without any judged token divides 0 by 0. Divide by at least 1.",
    ),
)


def _step(
    teacher_grad=False, use_normalizer=True, clear=False, attached=False, scale=1.0, swap=False
):
    """A whole wrong answer."""

    def add(student, teacher, ids, labels, normalizer, loss):
        if clear:
            student.zero_grad()
        with torch.set_grad_enabled(teacher_grad):
            targets = teacher(ids)
        given = normalizer if use_normalizer else (labels != -100).sum()
        pair = (targets, student(ids)) if swap else (student(ids), targets)
        value = loss(*pair, labels, normalizer=given) * scale
        value.backward()
        return value if attached else value.detach()

    return add


def _no_backward(student, teacher, ids, labels, normalizer, loss):
    with torch.no_grad():
        return loss(student(ids), teacher(ids), labels, normalizer=normalizer)


ADD_GRADIENT = (
    WrongAnswer(
        "teacher with gradients",
        _step(teacher_grad=True),
        "The teacher gets gradients. It costs memory and time, and an optimizer that holds its "
        "weights would make the TEACHER follow the student. Run it under torch.no_grad().",
    ),
    WrongAnswer(
        "mean of each part",
        _step(use_normalizer=False),
        "The part is divided by its own count of tokens. Pass normalizer on to the loss, or the "
        "gradient depends on how the batch is cut.",
    ),
    WrongAnswer(
        "gradients cleared",
        _step(clear=True),
        "You clear the student's gradients first, so of all parts only the last one counts.",
    ),
    WrongAnswer(
        "graph kept",
        _step(attached=True),
        "The result still holds its graph, and with it all activations of the part. Return "
        "value.detach().",
    ),
    WrongAnswer(
        "no backward pass",
        _no_backward,
        "The loss is right, but nobody calls backward(): the student has no gradient.",
    ),
    WrongAnswer(
        "student and teacher swapped",
        _step(swap=True),
        "The loss wants the student's logits first, then the teacher's.",
    ),
)


def _parts(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    logs = logits.log_softmax(-1)
    return logs.gather(-1, ids), logs.scatter(-1, ids, -torch.inf).logsumexp(-1)


def _kept(logs: Tensor, student: Tensor) -> Tensor:
    return (logs.exp() * (logs - student)).sum(-1)


def _rest_dropped(logits, ids, logs, rest):
    return _kept(logs, _parts(logits, ids)[0])


def _renormalised(logits, ids, logs, rest):
    student = _parts(logits, ids)[0].log_softmax(-1)
    return _kept(logs.log_softmax(-1), student)


def _teacher_renormalised(logits, ids, logs, rest):
    return _kept(logs.log_softmax(-1), _parts(logits, ids)[0])


def _rest_unweighted(logits, ids, logs, rest):
    student, own_rest = _parts(logits, ids)
    return _kept(logs, student) + (rest - own_rest)


def _rest_as_mass(logits, ids, logs, rest):
    student, own_rest = _parts(logits, ids)
    return _kept(logs, student) + rest * (rest - own_rest)


def _from_own(logits, ids, logs, rest):
    own = logits.topk(ids.shape[-1], dim=-1).indices
    student, own_rest = _parts(logits, own)
    return _kept(logs, student) + rest.exp() * (rest - own_rest)


TOP_K_KL = (
    WrongAnswer(
        "left-over dropped",
        _rest_dropped,
        "The left-over mass is missing. The sum over the kept tokens alone is no divergence: it "
        "can be negative, and falls when the student takes all mass away from the tail.",
    ),
    WrongAnswer(
        "both renormalised",
        _renormalised,
        "Both sides are renormalised over the kept tokens, so the student may put any mass on the "
        "others unpunished. Compare k + 1 outcomes: the kept ones, and any other.",
    ),
    WrongAnswer(
        "teacher renormalised",
        _teacher_renormalised,
        "The teacher is renormalised over its top k: the student learns that all other tokens are "
        "impossible. The left-over mass is an outcome of its own.",
    ),
    WrongAnswer(
        "left-over without its weight",
        _rest_unweighted,
        "The left-over's logarithms are compared, but not weighted by its mass: rest_BT.exp() "
        "times the difference.",
    ),
    WrongAnswer(
        "logarithm taken for a mass",
        _rest_as_mass,
        "rest_BT is the LOGARITHM of the left-over mass. Its weight is rest_BT.exp().",
    ),
    WrongAnswer(
        "the student's own top k",
        _from_own,
        "You take the student's k likeliest tokens. Gather those that the teacher kept: ids_BTK.",
    ),
)
