"""Healing: a short training after pruning, with the uncut model as teacher.

A cut model has lost its balance, not its knowledge; a little training repairs much of the damage.
Minitron's recipe uses no labels: the student matches the distribution of the model that it was cut
from (forward KL of the logits). A teacher's forward pass costs compute, though, so a fair
comparison with healing on data alone gives that side more steps: `steps_at_equal_compute`.

Left out: matching hidden states, which Minitron found to help only after large cuts in depth.
Source: Muralidharan et al. 2024 (Minitron), section 3.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from course_utils.accounting.flops import training_flops_per_token
from course_utils.accounting.ledger import course_spec
from course_utils.distillation import distill
from course_utils.models import DecoderLM
from course_utils.training import TrainingConfig, TrainingState


def heal(
    pruned: DecoderLM, whole: DecoderLM, stream_N: Tensor, config: TrainingConfig, **options
) -> TrainingState:
    """Train the pruned model on the whole model's distributions; `options` go to `distill`."""
    return distill(pruned, whole, stream_N, config, **options)


def healing_flops(pruned: Mapping[str, Any], whole: Mapping[str, Any] | None, length: int) -> float:
    """Operations a token: the student forward and backward, and the teacher forward if there is
    one. Both are configs of course models; training costs three forward passes."""
    own = training_flops_per_token(course_spec(pruned), length)
    return own + (training_flops_per_token(course_spec(whole), length) / 3 if whole else 0.0)


def steps_at_equal_compute(
    steps: int, pruned: Mapping[str, Any], whole: Mapping[str, Any], length: int
) -> int:
    """Steps on data alone that cost as much as `steps` of distillation with batches alike."""
    return round(steps * healing_flops(pruned, whole, length) / healing_flops(pruned, None, length))
