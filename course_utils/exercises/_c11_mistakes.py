"""Wrong answers of chapter 11: labels of completions, the on-policy loss, sampled reverse KL."""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

IGNORED = -100


def _labels(
    ids: Tensor,
    prompt: int,
    end_id: int,
    *,
    first: int | None = None,
    shift: int = 1,
    learn_end: bool = True,
    after_end: bool = False,
) -> Tensor:
    """Labels with one rule changed; `first` is the first judged position."""
    labels = torch.full_like(ids, IGNORED)
    labels[:, : ids.shape[1] - shift] = ids[:, shift:]
    labels[:, : (prompt - shift if first is None else first)] = IGNORED
    ended = (ids == end_id).cumsum(1) - (ids[:, :prompt] == end_id).sum(1, keepdim=True) > 0
    ended[:, :prompt] = False
    moved = torch.zeros_like(ended)  # positions whose label lies after the first end
    before = ended.roll(1, 1)
    before[:, 0] = False
    moved[:, : ids.shape[1] - shift] = before[:, shift:]
    if not after_end:
        labels[moved] = IGNORED
    if not learn_end:
        labels[labels == end_id] = IGNORED
    return labels


COMPLETION_LABELS = (
    WrongAnswer(
        "not shifted",
        lambda ids, prompt, end_id: _labels(ids, prompt, end_id, shift=0),
        "Your labels are the ids at their own positions. Position t predicts token t + 1. (The "
        "models of transformers shift inside, so there both would be shifted.)",
    ),
    WrongAnswer(
        "prompt counted",
        lambda ids, prompt, end_id: _labels(ids, prompt, end_id, first=0),
        "The prompt's tokens are judged too. Nobody asks the student to write questions, and here "
        "they are most of the text.",
    ),
    WrongAnswer(
        "first token left out",
        lambda ids, prompt, end_id: _labels(ids, prompt, end_id, first=prompt),
        "The first token of the completion is never judged: it is predicted at the LAST position "
        "of the prompt, prompt - 1, so that one counts.",
    ),
    WrongAnswer(
        "the end not judged",
        lambda ids, prompt, end_id: _labels(ids, prompt, end_id, learn_end=False),
        "The end token is left out. A student that is never judged on it does not learn to stop.",
    ),
    WrongAnswer(
        "padding counted",
        lambda ids, prompt, end_id: _labels(ids, prompt, end_id, after_end=True),
        "What stands after the first end is judged. It is padding: short completions would be "
        "judged mostly on it.",
    ),
)


def _mistaken(
    *,
    teacher_grad: bool = False,
    student_grad: bool = True,
    drawn_by: int = 0,
    swap: bool = False,
    prompt_judged: bool = False,
    see_padding: bool = False,
    draw_grad: bool = False,
    own_divergence: bool = False,
):
    """A whole wrong loss."""

    def loss(student, teacher, prompt, mask, draw, end_id, divergence=None):
        with torch.set_grad_enabled(draw_grad):
            new = draw((student, teacher)[drawn_by], prompt, mask)
        ids, mask = torch.cat([prompt, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
        mask = torch.ones_like(mask) if see_padding else mask
        with torch.set_grad_enabled(teacher_grad):
            targets = teacher(ids, attention_mask=mask)
        with torch.set_grad_enabled(student_grad):
            own = student(ids, attention_mask=mask)
        if own_divergence:
            divergence = _forward_kl
        values = divergence(targets, own) if swap else divergence(own, targets)
        first = 0 if prompt_judged else None
        judged = _labels(ids, prompt.shape[1], end_id, first=first) != IGNORED
        return values[judged].sum() / judged.sum()

    return loss


def _forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


ON_POLICY_LOSS = (
    WrongAnswer(
        "the teacher writes",
        _mistaken(drawn_by=1),
        "The teacher draws the texts. Reverse KL is a mean over the STUDENT's texts: drawn by the "
        "teacher it is another loss, and the student never meets its own mistakes.",
    ),
    WrongAnswer(
        "teacher with gradients",
        _mistaken(teacher_grad=True),
        "The teacher gets gradients: memory and time for nothing. Call it under torch.no_grad().",
    ),
    WrongAnswer(
        "student without gradients",
        _mistaken(student_grad=False),
        "The loss has no graph to the student, so backward() has nothing to do. Only the drawing "
        "and the teacher belong under torch.no_grad().",
    ),
    WrongAnswer(
        "student and teacher swapped",
        _mistaken(swap=True),
        "The divergence wants the student's logits first. Swapped, reverse KL becomes forward KL.",
    ),
    WrongAnswer(
        "prompt counted",
        _mistaken(prompt_judged=True),
        "The positions inside the prompt are judged too. completion_labels(...) leaves them out.",
    ),
    WrongAnswer(
        "padding seen",
        _mistaken(see_padding=True),
        "Both models attend to the padding on the left. Pass attention_mask on: the mask you got, "
        "with ones for the new tokens.",
    ),
    WrongAnswer(
        "drawn with a graph",
        _mistaken(draw_grad=True),
        "draw is called with gradients switched on. Nothing flows through drawn ids, but the graph "
        "of every step of the sampling is built and thrown away. Use torch.no_grad().",
    ),
    WrongAnswer(
        "divergence not used",
        _mistaken(own_divergence=True),
        "You always take forward KL. Pass the argument `divergence` on.",
    ),
)


def _mean(values: Tensor, labels: Tensor) -> Tensor:
    judged = labels != IGNORED
    return torch.where(judged, values, 0).sum() / judged.sum().clamp(min=1)


def _plain_mean(student, teacher, labels):
    return _mean(student - teacher.detach(), labels)


def _reward_as_loss(student, teacher, labels):
    return _mean((teacher - student).detach() * student, labels)


def _not_detached(student, teacher, labels):
    return _mean((student - teacher.detach()) * student, labels)


def _weighted_again(student, teacher, labels):
    return _mean(student.exp() * (student - teacher.detach()), labels)


def _third_estimator(student, teacher, labels):
    ratio = teacher.detach() - student
    return _mean(ratio.exp() - ratio - 1, labels)


def _padding(student, teacher, labels):
    return ((student - teacher).detach() * student).mean()


def _teachers(student, teacher, labels):
    return _mean(-teacher.detach().exp() * student, labels)


SAMPLED_REVERSE_KL = (
    WrongAnswer(
        "the log-ratio as a loss",
        _plain_mean,
        "The mean log-ratio estimates the VALUE of reverse KL. As a loss its gradient is that of "
        "log p(token), which is zero on average over the student's own draws: it teaches nothing.",
    ),
    WrongAnswer(
        "sign flipped",
        _reward_as_loss,
        "teacher - student is the reward, and a loss is minimised: this makes tokens likelier that "
        "the teacher dislikes. The penalty is student - teacher.",
    ),
    WrongAnswer(
        "penalty with gradient",
        _not_detached,
        "The penalty has a gradient too, which adds the penalty once more and log p(token). Take "
        "(student - teacher).detach() as a fixed number.",
    ),
    WrongAnswer(
        "weighted by its probability again",
        _weighted_again,
        "You weight by the student's probability. The tokens were DRAWN with it, so that weight is "
        "counted twice; and the gradient of the penalty is not wanted.",
    ),
    WrongAnswer(
        "a good estimate of the value as a loss",
        _third_estimator,
        "exp(r) - r - 1 is a good estimate of reverse KL's value (never negative, less noise). "
        "Its gradient is another one: on average that of FORWARD KL.",
    ),
    WrongAnswer(
        "padding counted",
        _padding,
        "The mean runs over all positions, also those with the label -100. Use token_mean.",
    ),
    WrongAnswer(
        "the teacher's probability as reward",
        _teachers,
        "You reward with the teacher's probability alone. The student then puts everything on the "
        "likeliest token; the log-ratio is what keeps it spread as the teacher is.",
    ),
)
