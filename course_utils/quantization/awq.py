"""AWQ: make the columns that meet large inputs larger before rounding, and undo it afterwards.

A weight's rounding error does not depend on its size within a group, so multiplying column j by
s_j > 1, rounding, and dividing by s_j makes its error s_j times smaller, as long as it does not set
the group's scale. Columns that meet large inputs deserve that. s_j is (mean |x_j|)^alpha, over
the geometric middle of its largest and smallest, and alpha is tried from 0 to 0.95: the one whose
output is nearest on the calibration inputs is kept. At alpha 0 nothing is scaled.

Undone, the scale belongs to what made the channel and costs nothing: `awq_model` folds it.
Left out: the search of clipped ranges (`scale_search` has one).
Source: Lin et al. 2024, "AWQ", section 3.2.
"""

from dataclasses import dataclass

from torch import Tensor

from course_utils.quantization.affine import fake_quantize
from course_utils.quantization.calibration import InputStats
from course_utils.quantization.gptq import output_error
from course_utils.quantization.schemes import QuantizationArgs

STEPS = 20  # values of alpha: 0, 1/20, ... 19/20


@dataclass(frozen=True)
class Scaling:
    """What the search found: alpha, the column scales (I,), and the output's relative error."""

    alpha: float
    scale_I: Tensor
    error: float


def awq_scale(mean_abs_I: Tensor, alpha: float) -> Tensor:
    """s (I,) of mean input magnitudes; the largest times the smallest is 1."""
    scale_I = (mean_abs_I**alpha).clamp(min=1e-4)
    return scale_I / (scale_I.max() * scale_I.min()).sqrt()


def scaled_quantize(weight_OI: Tensor, scale_I: Tensor, args: QuantizationArgs) -> Tensor:
    """What the weight is worth after rounding with its columns times s: round(W s) / s."""
    return fake_quantize(weight_OI * scale_I, args) / scale_I


def search_scaling(
    weight_OI: Tensor, stats: InputStats, args: QuantizationArgs, steps: int = STEPS
) -> Scaling:
    """The best of `steps` values of alpha by the output's error on the calibration inputs.

    Weights that read the same input are stacked along O, since they must share s.
    """
    best = None
    for step in range(steps):
        scale_I = awq_scale(stats.mean_abs_I, step / steps)
        rounded_OI = scaled_quantize(weight_OI, scale_I, args)
        error = output_error(weight_OI, rounded_OI, stats.hessian_II)
        if best is None or error < best.error:
            best = Scaling(step / steps, scale_I, error)
    return best
