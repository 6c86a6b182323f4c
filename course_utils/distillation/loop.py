"""The one loop of distillation: a student learns from a teacher, several, or a cache of logits.

    state = distill(student, teacher, stream_N, config)                     # forward KL, T = 1
    loss = partial(distillation_loss, temperature=2.0, alpha=0.5)           # softened, half labels
    state = distill(student, [one, other], stream_N, config, loss=loss)     # mean of two teachers
    loss = partial(distillation_loss, divergence=packed_kl)
    state = distill(student, cache, None, config, loss=loss)                # the teacher is gone

Each step draws a batch as `training.train` does, from the same seed the same windows; so a student
on labels alone (`train`) and a distilled one see the same text. The teacher runs without gradients
and in eval mode. A teacher of the student's own shape makes the student "born again" (Furlanello et
al. 2018): nothing changes in the loop. Several teachers are averaged in probabilities.

Left out: the student's own samples (`distillation.on_policy`); attention cut at document ends.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.data.batches import draw_windows
from course_utils.distillation.cache import LogitCache
from course_utils.distillation.losses import IGNORED, distillation_loss, next_labels
from course_utils.distillation.vocabulary import check_same_vocabulary
from course_utils.training import TrainingConfig, TrainingState, learning_rate

Teacher = nn.Module | Sequence[nn.Module] | LogitCache


def mean_of_teachers(teachers: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """One teacher whose probabilities are the mean of the others', as log-probabilities."""

    def together(ids_BT: Tensor) -> Tensor:
        each = torch.stack([teacher(ids_BT).log_softmax(dim=-1) for teacher in teachers])
        return each.logsumexp(dim=0) - math.log(len(teachers))

    return together


def add_gradient(
    student: Callable[[Tensor], Tensor],
    teacher: Callable[[Tensor], Tensor],
    ids_BT: Tensor,
    labels_BT: Tensor,
    normalizer: int | Tensor,
    loss: Callable[..., Tensor] = distillation_loss,
) -> Tensor:
    """Add to the student's gradients what a part of a batch brings; returns its share of the loss.

    `normalizer` is the number of judged tokens of the whole batch, so that the parts add up to it.
    `loss` is called with (student_logits, teacher_logits, labels, normalizer=...).
    """
    with torch.no_grad():
        teacher_logits_BTV = teacher(ids_BT)
    value = loss(student(ids_BT), teacher_logits_BTV, labels_BT, normalizer=normalizer)
    value.backward()
    return value.detach()


def distill(
    student: nn.Module,
    teacher: Teacher,
    stream_N: Tensor | None,
    config: TrainingConfig,
    *,
    loss: Callable[..., Tensor] = distillation_loss,
    add_gradient: Callable[..., Tensor] = add_gradient,
    micro_batches: int = 1,
    after_step: Sequence[Callable[[nn.Module], None]] = (),
    state: TrainingState | None = None,
    until: int | None = None,
    progress: bool = True,
) -> TrainingState:
    """Train `student` on the teacher's distributions; returns the state with the losses.

    Batches are windows of `stream_N`, or rows of a cache (then stream_N is None and the length is
    the cache's). Each is taken in `micro_batches` parts, whose gradients add up. A `loss` that is a
    module (`features.FeatureLoss`) is trained along. `state`, `until` and `after_step` are as in
    `training.train`. Raises ValueError for another vocabulary, and when the loss is no number.
    """
    draw, parts_of = _source(student, teacher, stream_N, config)
    trained = nn.ModuleList([student, loss]) if isinstance(loss, nn.Module) else student
    state = state or TrainingState(trained, config)
    student.train()
    steps = range(state.step, config.steps if until is None else min(config.steps, until))
    for step in tqdm(steps, desc="distilling", unit="step", disable=not progress, leave=False):
        chosen = draw(state.generator)
        value = 0.0
        for ids_BT, targets, normalizer in parts_of(chosen, micro_batches):
            labels_BT = next_labels(ids_BT)
            value += float(add_gradient(student, targets, ids_BT, labels_BT, normalizer, loss))
        if not math.isfinite(value):
            raise ValueError(f"the loss at step {step} is {value}: lower peak_learning_rate")
        _descend(state, config, step)
        state.losses.append(value)
        for look in after_step:
            look(student)
    student.eval()
    return state


def _source(student: nn.Module, teacher: Teacher, stream_N: Tensor | None, config: TrainingConfig):
    """Two functions: draw(generator) chooses a batch, parts_of(batch, parts) yields for each part
    (ids, what gives the teacher's side for these ids, the number of judged tokens of the batch)."""
    device = next(student.parameters()).device
    if isinstance(teacher, LogitCache):
        return _cached(teacher, config, device)
    teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    if stream_N is None or not teachers:
        raise ValueError("a live teacher needs a text to read: give stream_N and a teacher")
    for one in teachers:
        check_same_vocabulary(student, one)
        one.eval()
    live = teachers[0] if len(teachers) == 1 else mean_of_teachers(teachers)
    stream_N = stream_N.to(device)

    def draw(generator: torch.Generator) -> Tensor:
        return draw_windows(stream_N, config.batch, config.length, generator)

    def parts_of(ids_BT: Tensor, parts: int):
        judged = int((next_labels(ids_BT) != IGNORED).sum())
        yield from ((part_BT, live, judged) for part_BT in ids_BT.chunk(parts))

    return draw, parts_of


def _cached(cache: LogitCache, config: TrainingConfig, device: torch.device):
    """As `_source`, with rows of a cache in place of windows of a text."""

    def draw(generator: torch.Generator) -> Tensor:
        return torch.randint(len(cache.ids_NT), (config.batch,), generator=generator)

    def parts_of(rows_B: Tensor, parts: int):
        judged = len(rows_B) * (cache.ids_NT.shape[1] - 1)
        for part_B in rows_B.chunk(parts):
            ids_BT, packed = cache.rows(part_B, device)
            yield ids_BT, lambda _, packed=packed: packed, judged

    return draw, parts_of


def _descend(state: TrainingState, config: TrainingConfig, step: int) -> None:
    """Clip the gradient, take a step of the optimizer at the step's rate, forget the gradient."""
    nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
