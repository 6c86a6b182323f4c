"""Quantization-aware training (QAT): forward with rounded weights, the optimizer has full ones.

Rounding has the gradient zero almost everywhere, so nothing could learn through it. The straight-
through estimator treats it as the identity on the way back: the gradient of the rounded weight is
given to the full one, as it is. A full weight that is pushed long enough crosses into the next
code. After training, `bake` leaves the rounded weights: nothing is lost in the last step, because
the model was trained with exactly those.

`QuantizationAware(model, recipe)` wraps any model. The recipe says which weights are rounded, and
by what: {"*.mlp.experts.*": partial(fake_affine, args=QuantizationArgs(4, True, "group", 32))} is
Kimi K2 Thinking's, INT4 for the experts alone.

Left out: learned scales (LSQ, Esser et al. 2020), rounded activations, and a schedule that begins
to round late. Sources: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic
Neurons", section 4; Jacob et al. 2018, section 3; Moonshot AI 2025, Kimi K2 Thinking model card,
"Native INT4 Quantization".
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.quantization.affine import choose_qparams, split_groups
from course_utils.quantization.schemes import QuantizationArgs
from course_utils.quantization.ternary import round_ternary

Rounding = Callable[[Tensor], Tensor]  # a weight (..., O, I) to its rounded self, with a gradient
STACKED_INPUTS_FIRST = ("_EDF", "_EFD")  # the course's experts are stored (E, inputs, outputs)


def straight_through(weight_OI: Tensor, scale: Tensor, q_min: Tensor, q_max: Tensor) -> Tensor:
    """round(weight / scale), clamped to the codes q_min to q_max, times scale; with a gradient.

    The gradient passes the rounding unchanged, and is zero where the clamp holds a code: there a
    small change of the weight changes nothing. All arguments broadcast to the weight (..., O, I).
    """
    scaled_OI = weight_OI / scale
    codes_OI = scaled_OI + (scaled_OI.round() - scaled_OI).detach()
    return codes_OI.clamp(q_min, q_max) * scale


def fake_affine(weight_OI: Tensor, args: QuantizationArgs) -> Tensor:
    """`fake_quantize` with a straight-through gradient; the scale is chosen anew at every step."""
    scale_OS, zero_point_OS = choose_qparams(weight_OI.detach(), args)
    limits = [limit - zero_point_OS[..., None].float() for limit in (args.q_min, args.q_max)]
    groups_OSG = split_groups(weight_OI, args)
    return straight_through(groups_OSG, scale_OS[..., None], *limits).flatten(-2)


def fake_ternary(weight_OI: Tensor) -> Tensor:
    """`round_ternary` with BitNet's gradient: that of the identity, beyond the clamp as well.

    A quarter of the weights of a bell curve lie beyond it. They would never move again. What is
    added is exactly zero, so the values are the rounded ones to the last bit.
    """
    return round_ternary(weight_OI.detach()) + (weight_OI - weight_OI.detach())


class QuantizationAware(nn.Module):
    """A model whose forward pass uses rounded weights; its parameters are the full ones.

    recipe: roundings by pattern of a weight's name (`*` for anything); the first that fits counts.
    Raises ValueError when a pattern fits no weight.
    """

    def __init__(self, model: nn.Module, recipe: Mapping[str, Rounding]):
        super().__init__()
        self.model = model
        self.roundings = matching(model, recipe)

    def rounded(self) -> dict[str, Tensor]:
        """The rounded weights by name, in the graph of the full ones."""
        weights = dict(self.model.named_parameters())
        return {
            name: _inputs_last(name, rounding(_inputs_last(name, weights[name])))
            for name, rounding in self.roundings.items()
        }

    def forward(self, *inputs, **options) -> Tensor:
        return functional_call(self.model, self.rounded(), inputs, options)

    @torch.no_grad()
    def bake(self) -> nn.Module:
        """The model itself, its weights replaced by the rounded ones, ready to be packed."""
        weights = dict(self.model.named_parameters())
        for name, rounded in self.rounded().items():
            weights[name].copy_(rounded)
        return self.model


def matching(model: nn.Module, recipe: Mapping[str, Rounding]) -> dict[str, Rounding]:
    """The rounding of every weight that a pattern fits, by name. ValueError for idle patterns."""
    found, used = {}, set()
    for name, weight in model.named_parameters():
        pattern = next((p for p in recipe if fnmatchcase(name, p)), None)
        if pattern is not None and weight.dim() > 1:
            found[name] = recipe[pattern]
            used.add(pattern)
    if idle := [pattern for pattern in recipe if pattern not in used]:
        raise ValueError(
            f"pattern {idle[0]!r} fits no weight of this model: weights are named like "
            f"{next(iter(dict(model.named_parameters())))!r}"
        )
    return found


def _inputs_last(name: str, weight: Tensor) -> Tensor:
    """A weight with its inputs as columns: scales belong to rows of inputs. Its own inverse."""
    return weight.mT if name.endswith(STACKED_INPUTS_FIRST) else weight
