"""SmoothQuant: move the size of outlier channels from the inputs into the weights.

x W^T does not change when input channel j is divided by s_j and weight column j multiplied by it.
With s_j = amax|x_j|^alpha / amax|w_j|^(1 - alpha) both sides share the difficulty; at alpha 0.5
they have the same largest magnitude in every channel. The division costs nothing when it is folded
into what made the channel: the weight of the norm before.

Left out: the search for alpha layer by layer, and inputs that no norm makes.
Source: Xiao et al. 2023, "SmoothQuant", equations 3 and 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = torch.finfo(torch.float32).eps


def smoothing_scale(amax_I: Tensor, weight_OI: Tensor, alpha: float = 0.5) -> Tensor:
    """s (I,): divide the inputs by it and multiply the weight's columns.

    amax (I,): largest magnitude of each input channel. Several weights that read the same input are
    stacked along O. alpha 0 leaves the work to the inputs, 1 to the weights.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: choose 0 to 1, such as 0.5")
    weight_amax_I = weight_OI.abs().amax(0)
    return (amax_I + SMALLEST) ** alpha / (weight_amax_I + SMALLEST) ** (1 - alpha)


@torch.no_grad()
def fold(norm_I: Tensor, weights_OI: Sequence[Tensor], scale_I: Tensor) -> None:
    """Divide the norm's weight by s and multiply the columns of its readers by it, in place.

    All readers of the norm must be given, also those that are not quantized (a router).
    """
    norm_I.div_(scale_I)
    for weight_OI in weights_OI:
        weight_OI.mul_(scale_I)
