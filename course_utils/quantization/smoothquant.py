"""SmoothQuant: move the size of outlier channels from the inputs into the weights.

x W^T does not change when input channel j is divided by s_j and weight column j multiplied by it.
With s_j = amax|x_j|^alpha / amax|w_j|^(1 - alpha) both sides share the difficulty; at alpha 0.5
they have the same largest magnitude in every channel. The division costs nothing when it is folded
into what made the channel, the weight of the norm before: so it is done for query, key and value,
and for gate and up. No norm makes what goes into the output and down projections: it stays as it
is, as in the paper.

Left out: the search for alpha layer by layer, and norms that experts read.
Source: Xiao et al. 2023, "SmoothQuant", equations 3 and 4, section 4.2.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from course_utils.attention import GroupedQueryAttention
from course_utils.layers import MLP
from course_utils.models.blocks import DecoderLayer
from course_utils.quantization.calibration import InputStats

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


def norm_readers(model: nn.Module) -> Iterator[tuple[Tensor, dict[str, nn.Linear]]]:
    """(weight of a norm, its readers by name) for both norms of every layer of a decoder.

    Raises ValueError for layers that are not grouped-query attention and one MLP.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, DecoderLayer):
            continue
        for part, kind in ((layer.self_attn, GroupedQueryAttention), (layer.mlp, MLP)):
            if not isinstance(part, kind):
                raise ValueError(
                    f"{name} has a {type(part).__name__}: scales are folded into the norms of "
                    "dense layers only (grouped-query attention and one MLP)"
                )
        for norm, place, readers in (
            (layer.input_layernorm, "self_attn", ("q_proj", "k_proj", "v_proj")),
            (layer.post_attention_layernorm, "mlp", ("gate_proj", "up_proj")),
        ):
            part = getattr(layer, place)
            yield norm.weight, {f"{name}.{place}.{one}": getattr(part, one) for one in readers}


@torch.no_grad()
def smooth_model(
    model: nn.Module, stats: Mapping[str, InputStats], alpha: float = 0.5
) -> nn.Module:
    """Smooth the inputs of query, key, value, gate and up, in place; returns the model.

    stats: from `calibration.collect`. Until something is rounded the model computes the same.
    """
    for norm_I, readers in norm_readers(model):
        amax_I = stats[next(iter(readers))].amax_I
        weights_OI = [part.weight for part in readers.values()]
        fold(norm_I, weights_OI, smoothing_scale(amax_I, torch.cat(weights_OI), alpha))
    return model
