"""Learning from the inside of the teacher: hidden states and attention maps, beside the logits.

- Hidden states: the student's token vectors after a layer, put through a learned projection to the
  teacher's width, should equal the teacher's after its own layer (mean squared error). The
  projection is trained along and thrown away.
- Attention: the weights with which each token reads earlier ones should be the teacher's (KL per
  query). Heads need not match in number: both sides are averaged over their heads first.

`FeatureLoss` is a loss for `distill` that adds the first to any other loss. Left out: pairs of
layers found by search; MiniLM's relations between values.

Sources: Romero et al. 2015, "FitNets", equation 3; Jiao et al. 2020, "TinyBERT", section 3.1; Wang
et al. 2020, "MiniLM", section 3.1.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.distillation.losses import distillation_loss, token_mean
from course_utils.models import DecoderLM


def hidden_loss(student_BTS: Tensor, teacher_BTD: Tensor, projection_DS: Tensor) -> Tensor:
    """Squared error of projected student vectors, mean over the channels: (B, T, S) to (B, T).

    projection (D, S) leads from the student's width S to the teacher's D, as nn.Linear keeps it.
    """
    return (F.linear(student_BTS, projection_DS) - teacher_BTD).pow(2).mean(dim=-1)


def attention_map_loss(student_BHTT: Tensor, teacher_BHTT: Tensor) -> Tensor:
    """KL(teacher, student) of attention weights, each averaged over its heads: to (B, T), in nats.

    Weights (B, H, T, T) add up to 1 over the last dimension; H may differ. A weight of 0, as above
    the diagonal, counts as 0 on the teacher's side.
    """
    student_BTT, teacher_BTT = student_BHTT.mean(dim=1), teacher_BHTT.mean(dim=1)
    log_ratio_BTT = teacher_BTT.clamp(min=1e-12).log() - student_BTT.clamp(min=1e-12).log()
    return (teacher_BTT * log_ratio_BTT).sum(dim=-1)


class FeatureLoss(nn.Module):
    """`loss` plus `weight` times the mean of `hidden_loss` over pairs of layers.

    `pairs` are (student layer, teacher layer), from 0. The vectors are caught by hooks in the
    models' own forward passes, so nothing is computed twice; `close()` takes the hooks away.
    """

    def __init__(
        self,
        student: DecoderLM,
        teacher: DecoderLM,
        pairs: Sequence[tuple[int, int]],
        weight: float = 1.0,
        loss: Callable[..., Tensor] = distillation_loss,
        seed: int = 0,
    ):
        super().__init__()
        self.weight, self.loss, self.caught = weight, loss, {}
        S, D = student.config.hidden_size, teacher.config.hidden_size
        generator = torch.Generator().manual_seed(seed)
        device = student.lm_head.weight.device
        start_PDS = torch.randn(len(pairs), D, S, generator=generator) * S**-0.5
        self.projections_PDS = nn.Parameter(start_PDS.to(device))
        self.hooks = []
        for number, (own, other) in enumerate(pairs):
            for side, model, layer in (("student", student, own), ("teacher", teacher, other)):
                self._catch(model, layer, (side, number))

    def _catch(self, model: DecoderLM, layer: int, key: tuple[str, int]) -> None:
        count = len(model.model.layers)
        if not 0 <= layer < count:
            raise ValueError(f"the {key[0]} has no layer {layer}: there are 0 to {count - 1}")

        def keep(_, __, output: Tensor) -> None:
            self.caught[key] = output

        self.hooks.append(model.model.layers[layer].register_forward_hook(keep))

    def forward(
        self, student_logits_BTV: Tensor, teacher_logits, labels_BT: Tensor, normalizer=None
    ) -> Tensor:
        """As the loss inside, after both models have run."""
        total = self.loss(student_logits_BTV, teacher_logits, labels_BT, normalizer=normalizer)
        for number, projection_DS in enumerate(self.projections_PDS):
            pair = self.caught["student", number], self.caught["teacher", number]
            values_BT = hidden_loss(*pair, projection_DS)
            share = self.weight / len(self.projections_PDS)
            total = total + share * token_mean(values_BT, labels_BT, normalizer)
        return total

    def close(self) -> None:
        """Take the hooks out of both models."""
        for hook in self.hooks:
            hook.remove()
