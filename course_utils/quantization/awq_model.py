"""AWQ of a whole decoder: search the column scales, fold what undoes them, round.

Dividing the input channels by s must cost nothing, so it is folded into what makes them: into the
weight of the norm for query, key and value, which share s, and for gate and up; into the rows of
the up projection for down, because SwiGLU multiplies by what up gives. Rows have their own scales,
so a row of up divided by a number rounds to the same codes.

The output projection reads the values, which several query heads share: one channel of a value
would need several scales. It is rounded to nearest, as in the authors' code for such models.
Statistics are those of the model before rounding, as theirs.

Left out: clipped ranges, and layers of experts. Source: Lin et al. 2024, "AWQ", section 3.2.
"""

from collections.abc import Mapping

import torch
from torch import nn

from course_utils.layers import MLP
from course_utils.quantization.awq import search_scaling
from course_utils.quantization.calibration import InputStats, linear_layers
from course_utils.quantization.gptq import Codes, round_to_nearest
from course_utils.quantization.gptq_model import Scheme
from course_utils.quantization.smoothquant import fold, norm_readers


@torch.no_grad()
def awq_model(
    model: nn.Module, stats: Mapping[str, InputStats], scheme: Scheme
) -> dict[str, Codes]:
    """Scale and round the linear layers of a dense `DecoderLM` in place.

    stats: from `calibration.collect`, before anything is rounded. scheme: (name, columns) ->
    QuantizationArgs with a scale for each row at least. The codes come back by weight name; the
    norms have changed too. Raises ValueError for layers of experts.
    """
    for norm_I, readers in norm_readers(model):
        first = next(iter(readers))
        weights_OI = [part.weight for part in readers.values()]
        args = scheme(first, len(norm_I))
        found = search_scaling(torch.cat(weights_OI), stats[first], args)
        fold(norm_I, weights_OI, found.scale_I)
    for name, part in model.named_modules():
        if isinstance(part, MLP):
            down, args = (
                f"{name}.down_proj",
                scheme(f"{name}.down_proj", part.down_proj.in_features),
            )
            scale_I = search_scaling(part.down_proj.weight, stats[down], args).scale_I
            fold(part.up_proj.weight.T, [part.down_proj.weight], scale_I)
    codes = {}
    for name, part in linear_layers(model).items():
        found = round_to_nearest(part.weight, scheme(name, part.in_features))
        part.weight.copy_(found.dequantize())
        codes[f"{name}.weight"] = found
    return codes
