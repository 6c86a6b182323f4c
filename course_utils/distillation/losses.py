"""The losses of distillation: how far a student's next-token distribution is from a teacher's.

Three divergences, each in nats at every position. With p the teacher's distribution, q the
student's, both at temperature T (logits divided by T before the softmax):

- forward KL, sum of p ln(p / q): the student must cover whatever the teacher finds possible;
- reverse KL, sum of q ln(q / p): the student must not say what the teacher finds impossible;
- generalised Jensen-Shannon: both against the mixture m = beta p + (1 - beta) q, weighted
  beta KL(p, m) + (1 - beta) KL(q, m). It tends to 0 with beta; divided by beta, to forward KL.

`distillation_loss` takes the mean over tokens, multiplies by T^2 and mixes in the cross-entropy of
the labels if asked. Gradients through a softmax at temperature T shrink like 1 / T^2: the factor
keeps the weight of the two parts. Libraries differ: TRL's and torchtune's losses have no T^2.

Every mean is a sum divided by a count of tokens, and the count can be given (`normalizer`). So
padding does not count, and several small batches add up to the gradient of one large batch.

Left out: distances that are no divergence of distributions (mean squared error of logits). Logits
must be finite: a teacher's -inf has no logarithm to compare.

Sources: Hinton et al. 2015, section 2 (temperature, T^2); Agarwal et al. 2024, "On-Policy
Distillation of Language Models", section 2 and equation 1 (generalised JSD).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label of a position that is not judged: padding, prompt, the last one


def forward_kl(
    student_logits_BTV: Tensor, teacher_logits_BTV: Tensor, temperature: float = 1.0
) -> Tensor:
    """KL(teacher, student) at every position, in nats, both softened: (..., V) to (...).

    Without the factor T^2. Source: Hinton et al. 2015, section 2.
    """
    student_BTV = (student_logits_BTV / temperature).log_softmax(dim=-1)
    teacher_BTV = (teacher_logits_BTV / temperature).log_softmax(dim=-1)
    return (teacher_BTV.exp() * (teacher_BTV - student_BTV)).sum(dim=-1)


def reverse_kl(
    student_logits_BTV: Tensor, teacher_logits_BTV: Tensor, temperature: float = 1.0
) -> Tensor:
    """KL(student, teacher) at every position, in nats, both softened: (..., V) to (...).

    Source: Gu et al. 2024, "MiniLLM", section 2.1.
    """
    student_BTV = (student_logits_BTV / temperature).log_softmax(dim=-1)
    teacher_BTV = (teacher_logits_BTV / temperature).log_softmax(dim=-1)
    return (student_BTV.exp() * (student_BTV - teacher_BTV)).sum(dim=-1)


def generalized_jsd(
    student_logits_BTV: Tensor,
    teacher_logits_BTV: Tensor,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """Jensen-Shannon divergence with weight `beta` on the teacher: (..., V) to (...), in nats.

    By convention beta 0 is forward KL and beta 1 reverse KL, as in TRL, though the formula itself
    tends to 0 at both ends. Source: Agarwal et al. 2024, equation 1.
    """
    if beta == 0:
        return forward_kl(student_logits_BTV, teacher_logits_BTV, temperature)
    if beta == 1:
        return reverse_kl(student_logits_BTV, teacher_logits_BTV, temperature)
    student_BTV = (student_logits_BTV / temperature).log_softmax(dim=-1)
    teacher_BTV = (teacher_logits_BTV / temperature).log_softmax(dim=-1)
    parts = teacher_BTV + math.log(beta), student_BTV + math.log(1 - beta)
    mixture_BTV = torch.logaddexp(*parts)
    kl_teacher_BT = (teacher_BTV.exp() * (teacher_BTV - mixture_BTV)).sum(dim=-1)
    kl_student_BT = (student_BTV.exp() * (student_BTV - mixture_BTV)).sum(dim=-1)
    return beta * kl_teacher_BT + (1 - beta) * kl_student_BT


def next_labels(ids_BT: Tensor) -> Tensor:
    """The label of each position of a text, the id that follows; the last one is ignored."""
    return F.pad(ids_BT[:, 1:], (0, 1), value=IGNORED)


def token_mean(
    values_BT: Tensor, labels_BT: Tensor, normalizer: "int | Tensor | None" = None
) -> Tensor:
    """Mean of `values` over the positions whose label is not -100, a scalar; 0 if there is none.

    With `normalizer`, the sum over these positions divided by it: give the number of judged
    positions of the whole batch when `values` is a part of it.
    """
    judged_BT = labels_BT != IGNORED
    count = judged_BT.sum() if normalizer is None else torch.as_tensor(normalizer)
    return torch.where(judged_BT, values_BT, 0).sum() / count.clamp(min=1)


def distillation_loss(
    student_logits_BTV: Tensor,
    teacher_logits_BTV: Tensor,
    labels_BT: Tensor,
    temperature: float = 1.0,
    alpha: float = 1.0,
    divergence: Callable[..., Tensor] = forward_kl,
    normalizer: "int | Tensor | None" = None,
) -> Tensor:
    """alpha T^2 divergence + (1 - alpha) cross-entropy with the labels, mean over tokens.

    Shapes: logits (B, T, V), labels (B, T), of which -100 is ignored in both parts; `next_labels`
    makes them from ids. The cross-entropy is at temperature 1. `divergence` is called with
    (student, teacher, temperature=...). Source: Hinton et al. 2015, section 2.
    """
    soft_BT = divergence(student_logits_BTV, teacher_logits_BTV, temperature=temperature)
    loss = alpha * temperature**2 * token_mean(soft_BT, labels_BT, normalizer)
    if alpha == 1:
        return loss
    hard_BT = F.cross_entropy(student_logits_BTV.mT, labels_BT, reduction="none")
    return loss + (1 - alpha) * token_mean(hard_BT, labels_BT, normalizer)
