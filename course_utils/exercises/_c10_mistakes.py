"""Wrong answers of chapter 10: divergences, and the loss that is made of them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer


def _logs(student: Tensor, teacher: Tensor, T: float = 1.0) -> tuple[Tensor, Tensor]:
    """The right log-probabilities of both sides."""
    return (student / T).log_softmax(-1), (teacher / T).log_softmax(-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p, q) from logarithms."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _swapped(student, teacher, temperature=1.0):
    student, teacher = _logs(student, teacher, temperature)
    return _kl(student, teacher)


def _softmax_twice(student, teacher, temperature=1.0):
    student, teacher = ((z / temperature).softmax(-1) for z in (student, teacher))
    return _kl(*(z.log_softmax(-1) for z in (teacher, student)))


def _twice_softened(student, teacher, temperature=1.0):
    student, teacher = _logs(student, teacher, temperature)
    return _kl(*reversed(_logs(student, teacher, temperature)))


def _mean_over_vocabulary(student, teacher, temperature=1.0):
    student, teacher = _logs(student, teacher, temperature)
    return _kl(teacher, student) / student.shape[-1]


def _cross_entropy_alone(student, teacher, temperature=1.0):
    student, teacher = _logs(student, teacher, temperature)
    return -(teacher.exp() * student).sum(-1)


def _one_side_softened(student, teacher, temperature=1.0):
    return _kl(_logs(student, teacher)[1], _logs(student, teacher, temperature)[0])


def _overflowing(student, teacher, temperature=1.0):
    p, q = ((z / temperature).exp() for z in (teacher, student))
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    return (p * (p / q).log()).sum(-1)


def _log_of_softmax(student, teacher, temperature=1.0):
    p, q = ((z / temperature).softmax(-1) for z in (teacher, student))
    return (p * (p.log() - q.log())).sum(-1)


FORWARD_KL = (
    WrongAnswer(
        "arguments swapped",
        _swapped,
        "This is KL(student, teacher), the reverse one: you weight by the student's probabilities. "
        "Forward KL weights by the teacher's. F.kl_div swaps its arguments too: first what is "
        "learned, as logarithms, then the target.",
    ),
    WrongAnswer(
        "softmax of a softmax",
        _softmax_twice,
        "The softmax is taken twice: its result goes into another log_softmax, which nearly "
        "flattens it. (A log-softmax of a log-softmax changes nothing; of a softmax it does.)",
    ),
    WrongAnswer(
        "temperature applied twice",
        _twice_softened,
        "You take the log-softmax of a log-softmax and divide by the temperature both times, so "
        "the result is softened with T^2. Divide the logits once.",
    ),
    WrongAnswer(
        "mean over the vocabulary",
        _mean_over_vocabulary,
        "Your values are too small by the size of the vocabulary: a divergence is a SUM over the "
        "tokens that could come, as F.kl_div(reduction='mean') does not give it.",
    ),
    WrongAnswer(
        "cross-entropy against the teacher",
        _cross_entropy_alone,
        "This is the cross-entropy, -sum p log q. Its gradient is right, but it is not 0 when the "
        "student equals the teacher: the teacher's own term, sum p log p, is missing.",
    ),
    WrongAnswer(
        "only one side softened",
        _one_side_softened,
        "Only the student's logits are divided by the temperature. Then even a perfect student "
        "has a loss. Divide both.",
    ),
    WrongAnswer(
        "overflow",
        _overflowing,
        "With logits of 200 the exponential is infinite in float32, or the probability 0, and the "
        "result is not a number. Stay with logarithms: log_softmax is safe.",
        also=(_log_of_softmax,),
    ),
)


def _mean(values: Tensor, labels: Tensor, normalizer=None) -> Tensor:
    judged = labels != -100
    count = judged.sum() if normalizer is None else torch.as_tensor(normalizer)
    return values[judged].sum() / count.clamp(min=1)


def _hard(student: Tensor, labels: Tensor, normalizer=None, T: float = 1.0) -> Tensor:
    values = F.cross_entropy((student / T).transpose(-1, -2), labels, reduction="none")
    return _mean(values, labels, normalizer)


def _mixed(weigh_soft, weigh_hard, padding=False, normalizer_used=True, soften_hard=False):
    """A whole wrong loss, from the weights (functions of alpha and T) of its parts."""

    def loss(
        student,
        teacher,
        labels,
        temperature=1.0,
        alpha=1.0,
        divergence=None,
        normalizer=None,
    ):
        normalizer = normalizer if normalizer_used else None
        soft = divergence(student, teacher, temperature=temperature)
        soft = soft.mean() if padding else _mean(soft, labels, normalizer)
        hard = _hard(student, labels, normalizer, temperature if soften_hard else 1.0)
        return weigh_soft(alpha, temperature) * soft + weigh_hard(alpha, temperature) * hard

    return loss


def _right_soft(a: float, T: float) -> float:
    return a * T * T


def _right_hard(a: float, T: float) -> float:
    return 1 - a


DISTILLATION_LOSS = (
    WrongAnswer(
        "T squared missing",
        _mixed(lambda a, T: a, _right_hard),
        "The factor T^2 is missing. At temperature 4 the teacher's part then pulls with a "
        "sixteenth of its weight, and the labels decide.",
    ),
    WrongAnswer(
        "T in place of T squared",
        _mixed(lambda a, T: a * T, _right_hard),
        "You multiply by T. The gradient loses one factor 1/T in the softmax of the student and "
        "one because the difference of the two softened distributions shrinks: T squared.",
    ),
    WrongAnswer(
        "T squared on both parts",
        _mixed(_right_soft, lambda a, T: (1 - a) * T * T),
        "T^2 stands in front of everything. The labels are not softened, so their part needs no "
        "factor; multiplied by it, the two parts are out of balance as before.",
    ),
    WrongAnswer(
        "alpha on the wrong part",
        _mixed(lambda a, T: (1 - a) * T * T, lambda a, T: a),
        "alpha is the weight of the teacher's part here, 1 - alpha that of the labels. Some "
        "libraries have it the other way round, so read it from the docstring each time.",
    ),
    WrongAnswer(
        "labels softened too",
        _mixed(_right_soft, _right_hard, soften_hard=True),
        "The cross-entropy with the labels is taken at temperature T. It belongs to the model as "
        "it will be used, at temperature 1.",
    ),
    WrongAnswer(
        "padding counted",
        _mixed(_right_soft, _right_hard, padding=True),
        "The teacher's part is averaged over all positions, also those whose label is -100: "
        "padding is learned from, and the loss changes with its amount.",
    ),
    WrongAnswer(
        "normalizer unused",
        _mixed(_right_soft, _right_hard, normalizer_used=False),
        "normalizer is not passed on to token_mean, so parts of a batch do not add up to it.",
    ),
)


def _kls_without_mixture(student, teacher, beta=0.5, temperature=1.0):
    student, teacher = _logs(student, teacher, temperature)
    return beta * _kl(student, teacher) + (1 - beta) * _kl(teacher, student)


def _jsd(student, teacher, beta, weight, T) -> Tensor:
    """JSD with `beta` in the mixture and `weight` in the sum, at 0 < beta < 1."""
    student, teacher = _logs(student, teacher, T)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log(1 - beta))
    return weight * _kl(teacher, mixture) + (1 - weight) * _kl(student, mixture)


def _at_ends(student, teacher, beta, T):
    """Forward KL at 0, reverse KL at 1, None between."""
    student, teacher = _logs(student, teacher, T)
    ends = {0: _kl(teacher, student), 1: _kl(student, teacher)}
    return ends.get(beta)


def _with_ends(inside):
    """A wrong answer that is right at beta 0 and 1."""

    def loss(student, teacher, beta=0.5, temperature=1.0):
        end = _at_ends(student, teacher, beta, temperature)
        return inside(student, teacher, beta, temperature) if end is None else end

    return loss


def _mixed_logits(student, teacher, beta, T):
    student_logs, teacher_logs = _logs(student, teacher, T)
    mixture = ((beta * teacher + (1 - beta) * student) / T).log_softmax(-1)
    return beta * _kl(teacher_logs, mixture) + (1 - beta) * _kl(student_logs, mixture)


def _formula_alone(student, teacher, beta=0.5, temperature=1.0):
    if beta in (0, 1):
        return torch.zeros(student.shape[:-1])
    return _jsd(student, teacher, beta, beta, temperature)


def _unscaled_ends(student, teacher, beta=0.5, temperature=1.0):
    end = _at_ends(student, teacher, 1 - beta, temperature)
    return _jsd(student, teacher, beta, beta, temperature) if end is None else end


GENERALIZED_JSD = (
    WrongAnswer(
        "no mixture",
        _kls_without_mixture,
        "You mix the two KL divergences. Jensen-Shannon compares each side with the MIXTURE "
        "m = beta p + (1 - beta) q, which keeps it finite.",
    ),
    WrongAnswer(
        "weights swapped in the mixture",
        _with_ends(lambda s, t, beta, T: _jsd(s, t, 1 - beta, beta, T)),
        "beta stands with the teacher, in the mixture as in the sum: m = beta p + (1 - beta) q.",
    ),
    WrongAnswer(
        "weights swapped in the sum",
        _with_ends(lambda s, t, beta, T: _jsd(s, t, beta, 1 - beta, T)),
        "The sum is beta KL(teacher, m) + (1 - beta) KL(student, m): your weights are swapped.",
    ),
    WrongAnswer(
        "mixture of logits",
        _with_ends(_mixed_logits),
        "You mix logits. That is a geometric mean of the two distributions; the mixture adds "
        "probabilities: torch.logaddexp(teacher + log(beta), student + log(1 - beta)).",
    ),
    WrongAnswer(
        "zero at both ends",
        _formula_alone,
        "The formula is 0 at beta 0 and 1, and nothing would be learned. By convention beta 0 "
        "means forward KL, beta 1 reverse KL.",
    ),
    WrongAnswer(
        "ends swapped",
        _unscaled_ends,
        "beta 0 is forward KL, KL(teacher, student), and beta 1 reverse KL: yours are swapped.",
    ),
)
