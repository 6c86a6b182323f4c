"""Scales that cut the range: a few weights are clamped, so that all others have finer steps.

`choose_qparams` lets the largest weight set the scale. At 2 and 3 bits that is far too wide: the
search tries ranges from all of it down to two fifths and keeps, group by group, the one with the
smallest squared error. Weighed by how large each input is (the diagonal of GPTQ's H), it minds the
weights that meet large inputs.

Source: the `mse` option of the GPTQ authors' code (quant.py); the weighing is AWQ's idea of what
matters. Left out: other powers of the error (the authors' code takes 2.4), and a finer grid.
"""

import torch
from torch import Tensor

from course_utils.quantization.affine import choose_qparams, split_groups
from course_utils.quantization.schemes import QuantizationArgs

SMALLEST, STEPS = 0.4, 25  # of the range, and how many ranges are tried


def search_qparams(
    weight_OI: Tensor, args: QuantizationArgs, importance_I: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """scale_OS and zero_point_OS, as `choose_qparams`, of the best of 25 ranges for each group.

    importance (I,): how much a squared error at each input counts, above 0. Strategies "channel"
    and "group". Raises ValueError as `choose_qparams`, and for strategy "tensor".
    """
    if args.strategy == "tensor":
        raise ValueError("one scale for a whole tensor is not searched: use 'channel' or 'group'")
    full_OS, zero_OS = choose_qparams(weight_OI, args)
    groups_OSG = split_groups(weight_OI.float(), args)
    if importance_I is None:
        importance_I = torch.ones_like(weight_OI[0], dtype=torch.float32)
    importance_SG = importance_I.float().view(groups_OSG.shape[1:])
    best_error_OS = torch.full_like(full_OS, torch.inf)
    best_scale_OS = full_OS.clone()
    for share in torch.linspace(1, SMALLEST, STEPS).tolist():
        scale_OS1, zero_OS1 = (full_OS * share)[..., None], zero_OS[..., None]
        codes_OSG = (groups_OSG / scale_OS1).round() + zero_OS1
        rounded_OSG = (codes_OSG.clamp(args.q_min, args.q_max) - zero_OS1) * scale_OS1
        error_OS = ((rounded_OSG - groups_OSG).square() * importance_SG).sum(-1)
        better_OS = error_OS < best_error_OS
        best_scale_OS = torch.where(better_OS, scale_OS1[..., 0], best_scale_OS)
        best_error_OS = torch.where(better_OS, error_OS, best_error_OS)
    return best_scale_OS, zero_OS
