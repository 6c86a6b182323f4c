"""The exercises of chapter 10: divergences, means over tokens, parts of a batch, packed logits.

The wrong answers stand in the files `_c10_*mistakes.py` beside this one.
"""

import random

import torch
from torch import Tensor, nn

from course_utils.distillation import (
    add_gradient,
    distillation_loss,
    forward_kl,
    generalized_jsd,
    token_mean,
    top_k_kl,
)
from course_utils.exercises import _c10_batch_mistakes as batch_mistakes
from course_utils.exercises import _c10_mistakes as mistakes
from course_utils.exercises.spec import Case, ExerciseSpec


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


def _pair(g: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Logits of a student and of a teacher that is surer."""
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g) * 2


def _plain_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """A divergence for the loss to call."""
    student, teacher = ((z / temperature).log_softmax(-1) for z in (student, teacher))
    return (teacher.exp() * (teacher - student)).sum(-1)


LARGE = torch.tensor([[200.0, -200, 0]]), torch.tensor([[-200.0, 200, 0]])


# ---- forward KL


def _kl_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    same = torch.randn(1, 3, generator=g)
    return [
        Case(_pair(g, 1, 3), "one position, three tokens, temperature 1"),
        Case((same, same + 1), "a student that equals its teacher: 0"),
        Case((*_pair(g, 1, 3), 2.0), "temperature 2"),
        Case((*_pair(g, 2, 3, 5), 4.0), "a batch (2, 3, 5), temperature 4"),
        Case(LARGE, "logits of 200 and -200; exp(200) is infinite in float32"),
    ]


FORWARD_KL = ExerciseSpec(
    name="c10.forward_kl",
    title="Forward KL with temperature",
    why="It is the loss of distillation; with its arguments swapped it teaches something else.",
    reference=forward_kl,
    cases=_kl_cases,
    wrong_answers=mistakes.FORWARD_KL,
    hints=(
        "Divide both sides' logits by the temperature, then take log_softmax of each.",
        "KL(p, q) is the sum of p (log p - log q). Which side is p, the one that is looked up to?",
        "(teacher.exp() * (teacher - student)).sum(dim=-1), both of them logarithms",
    ),
)


# ---- the loss


def _loss_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    settings = ((1.0, 1.0, None), (2.0, 1.0, None), (1.0, 0.3, None), (3.0, 0.7, None))
    for temperature, alpha, normalizer in (*settings, (2.0, 0.4, 11)):
        labels = torch.randint(5, (2, 4), generator=g)
        labels[0, 2:] = -100
        says = f"temperature {temperature}, alpha {alpha}, two labels of eight are -100"
        given = {"divergence": _plain_kl, "normalizer": normalizer}
        cases.append(Case((*_pair(g, 2, 4, 5), labels, temperature, alpha), says, given))
    return cases


DISTILLATION_LOSS = ExerciseSpec(
    name="c10.distillation_loss",
    title="The loss with T squared",
    why="Without T^2 the labels outweigh the teacher sixteen times at temperature 4.",
    reference=distillation_loss,
    cases=_loss_cases,
    wrong_answers=mistakes.DISTILLATION_LOSS,
    hints=(
        "Two values per position: the divergence, and the cross-entropy with the label.",
        "token_mean(values, labels, normalizer) leaves out -100 for both. F.cross_entropy wants "
        "the vocabulary second: student_logits_BTV.mT, with reduction='none'.",
        "alpha * temperature**2 * (mean divergence) + (1 - alpha) * (mean cross-entropy)",
    ),
)


# ---- mean over tokens


def _mean_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for B, T, ignored in ((1, 2, 0), (1, 3, 1), (2, 4, 3), (3, 6, 4)):
        labels = torch.randint(9, (B, T), generator=g)
        labels[-1, T - min(ignored, T - 1) :] = -100 if ignored else labels[-1, -1]
        values = torch.rand(B, T, generator=g) + 0.5
        cases.append(Case((values, labels), f"{B} x {T} positions, of which {ignored} are -100"))
    cases.append(Case((values, labels, 40), "a part of a batch with 40 judged tokens"))
    nothing = torch.full((1, 2), -100)
    return [*cases, Case((values[:1, :2], nothing), "no position is judged: 0")]


TOKEN_MEAN = ExerciseSpec(
    name="c10.token_mean",
    title="Mean over judged tokens",
    why="A wrong mean lets padding or the way a batch is cut decide what is learned.",
    reference=token_mean,
    cases=_mean_cases,
    wrong_answers=batch_mistakes.TOKEN_MEAN,
    hints=(
        "One sum over all judged positions of the batch, one division.",
        "judged_BT = labels_BT != -100; torch.where(judged_BT, values_BT, 0).sum()",
        "Divide by normalizer if it is given, else by judged_BT.sum(), but at least by 1.",
    ),
)


# ---- generalised JSD


def _jsd_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    settings = ((0.5, 1.0), (0.0, 1.0), (1.0, 1.0), (0.1, 1.0), (0.7, 2.0))
    return [
        *(
            Case((*_pair(g, 2, 4), beta, T), f"beta {beta}, temperature {T}")
            for beta, T in settings
        ),
        Case((*_pair(g, 2, 3, 5), 0.3, 1.0), "a batch (2, 3, 5), beta 0.3"),
    ]


GENERALIZED_JSD = ExerciseSpec(
    name="c10.generalized_jsd",
    title="Between forward and reverse KL",
    why="One number chooses between covering the teacher and keeping to what it finds likely.",
    reference=generalized_jsd,
    cases=_jsd_cases,
    wrong_answers=mistakes.GENERALIZED_JSD,
    hints=(
        "beta 0 and 1 first: there it is forward_kl and reverse_kl by convention.",
        "The log of the mixture: torch.logaddexp(teacher + log(beta), student + log(1 - beta)).",
        "beta * KL(teacher, mixture) + (1 - beta) * KL(student, mixture)",
    ),
)


# ---- a part of a batch


class _Table(nn.Module):
    """The smallest language model: logits by the last token alone."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(5, 5, generator=generator))

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


def _sum_loss(student: Tensor, teacher: Tensor, labels: Tensor, normalizer=None) -> Tensor:
    """A loss for the step to call: forward KL over judged tokens."""
    judged = labels != -100
    count = judged.sum() if normalizer is None else normalizer
    return _plain_kl(student, teacher)[judged].sum() / count


def _step_cases(rng: random.Random) -> list[Case]:
    cases = []
    for B, T, count in ((1, 2, 5), (2, 3, 12), (3, 5, 40)):
        seed = rng.getrandbits(31)

        def make(B=B, T=T, count=count, seed=seed) -> tuple:
            g = torch.Generator().manual_seed(seed)
            student, teacher = _Table(seed % 1000), _Table(seed % 1000 + 1)
            student.table.grad = torch.ones(5, 5)  # what earlier parts left
            ids, labels = torch.randint(5, (2, B, T), generator=g)
            return student, teacher, ids, labels, count, _sum_loss

        cases.append(Case(says=f"{B} x {T} tokens of a batch of {count}", make=make))
    return cases


def _seen(result, args: tuple):
    """The value, whether it holds a graph, and both sides' gradients."""
    held = bool(getattr(result, "requires_grad", False))
    value = result.detach() if isinstance(result, Tensor) else result
    return value, held, args[0].table.grad, args[1].table.grad is None


ADD_GRADIENT = ExerciseSpec(
    name="c10.add_gradient",
    title="A part of a batch",
    why="A large batch in small parts must give the same gradient, and the teacher none.",
    reference=add_gradient,
    cases=_step_cases,
    wrong_answers=batch_mistakes.ADD_GRADIENT,
    hints=(
        "Three steps: the teacher's logits, the loss, its backward pass.",
        "The teacher runs under torch.no_grad(). backward() adds to the gradients that are there.",
        "value = loss(student(ids_BT), teacher_logits_BTV, labels_BT, normalizer=normalizer); "
        "value.backward(); return value.detach()",
    ),
    observe=_seen,
)


# ---- packed logits


def _packed_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for shape, k in (((1, 4), 1), ((2, 6), 2), ((2, 3, 8), 3)):
        student, teacher = _pair(g, *shape)
        logs = teacher.log_softmax(-1)
        top, ids = logs.topk(k, dim=-1)
        rest = logs.scatter(-1, ids, -torch.inf).logsumexp(-1)
        cases.append(Case((student, ids, top, rest), f"logits {shape}, the teacher's top {k}"))
    return cases


TOP_K_KL = ExerciseSpec(
    name="c10.top_k_kl",
    title="Divergence of packed logits",
    why="All logits of a text weigh thousands of times the text; a few and the rest do not.",
    reference=top_k_kl,
    cases=_packed_cases,
    wrong_answers=batch_mistakes.TOP_K_KL,
    hints=(
        "There are k + 1 outcomes: each kept token, and any other.",
        "student_BTV.gather(-1, ids_BTK) are the kept ones; .scatter(-1, ids_BTK, -torch.inf)"
        ".logsumexp(-1) is the log of the student's mass on all others.",
        "(log_probs.exp() * (log_probs - student_kept)).sum(-1) + rest.exp() * (rest - own_rest)",
    ),
)

EXERCISES = [
    FORWARD_KL,
    DISTILLATION_LOSS,
    TOKEN_MEAN,
    GENERALIZED_JSD,
    ADD_GRADIENT,
    TOP_K_KL,
]
