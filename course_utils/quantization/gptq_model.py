"""GPTQ of a whole model in one pass: each matrix is rounded when its inputs arrive.

All calibration text goes through the model as one batch. A hook before each linear layer holds all
of its inputs: it computes H, rounds the weight, and lets the layer go on with the rounded weight.
So every matrix is calibrated on what the rounded matrices before it give (the authors' "true
sequential"), every product is computed once, and the cost is one forward pass besides the rounding
itself. Neighbours that read the same input (query, key and value; gate and up) share H and its
factor. Experts are rounded one by one, each by the tokens that reach it.

Left out: moving layers between disk and memory, which models larger than memory need; the
embedding, the head and routers, which stay as they are.
Source: Frantar et al. 2023, "GPTQ", section 3.3 (layer by layer, inputs from the quantized part).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from course_utils.moe.layer import Experts
from course_utils.quantization.calibration import (
    expert_inputs,
    expert_layers,
    input_stats,
    linear_layers,
)
from course_utils.quantization.gptq import Codes, gptq, inverse_cholesky, round_blocks
from course_utils.quantization.packed import PackedWeight
from course_utils.quantization.schemes import QuantizationArgs

Scheme = Callable[[str, int], QuantizationArgs | None]


def grouped(num_bits: int, most: int = 128, symmetric: bool = False) -> Scheme:
    """A scheme (name, columns) -> args: groups of the largest divisor of the row up to `most`.

    The usual 128 divides neither 192 nor 576, the widths of the course's models: there it is 96.
    """

    def scheme(name: str, columns: int) -> QuantizationArgs:
        size = max(g for g in range(1, min(most, columns) + 1) if columns % g == 0)
        return QuantizationArgs(num_bits, symmetric, "group", size)

    return scheme


@torch.no_grad()
def gptq_model(
    model: nn.Module,
    ids_BT: Tensor,
    scheme: Scheme,
    *,
    damp: float = 0.01,
    act_order: bool = False,
    search: bool = False,
    round_weights: Callable = round_blocks,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, Codes]:
    """Round the linear layers and experts of a `DecoderLM` in place, calibrated on ids (B, T).

    scheme: (name, columns) -> QuantizationArgs, or None to leave a layer. The weights become what
    the codes stand for; the codes come back by weight name. `done` is called after each layer.
    Raises ValueError, naming the layer, for inputs that are infinite or NaN.
    """
    codes: dict[str, Codes] = {}
    shared: dict[str, Tensor] = {}  # H and its factor, for the next layer with the same input
    settings = {"damp": damp, "act_order": act_order, "search": search}
    settings["round_weights"] = round_weights

    def round_linear(name: str, part: nn.Linear, x: Tensor) -> None:
        if (args := scheme(name, part.in_features)) is None:
            return
        if shared.get("x") is not x:
            hessian_II = input_stats(x, f"the input of {name}").hessian_II
            factor_II = None if act_order else inverse_cholesky(hessian_II, damp)
            shared.update(x=x, hessian_II=hessian_II, upper_II=factor_II)
        given = {"hessian_II": shared["hessian_II"], "upper_II": shared["upper_II"]}
        found = gptq(part.weight, args=args, **given, **settings)
        part.weight.copy_(found.dequantize())
        codes[f"{name}.weight"] = found
        done(name)

    def round_stack(name: str, part: Experts, x_TD: Tensor, experts_TK: Tensor) -> None:
        codes.update(gptq_experts(name, part, x_TD, experts_TK, scheme, **settings))
        done(name)

    with _hooked(model, round_linear, round_stack):
        model.hidden(ids_BT)
    return codes


def gptq_experts(
    name: str, part: Experts, x_TD: Tensor, experts_TK: Tensor, scheme: Scheme, **settings
) -> dict[str, Codes]:
    """Round one stack of experts in place, each by the tokens that reach it.

    The codes of the E experts come back stacked, (E, O, I), by the name of the stacked weight. An
    expert without a token is rounded to nearest: its H is the identity.
    """
    stacks = {key: [] for key in ("w_gate_EDF", "w_up_EDF", "w_down_EFD")}

    def round_one(key: str, e: int, hessian_II: Tensor) -> None:
        weight_IO = getattr(part, key)[e]
        if (args := scheme(f"{name}.{key}", len(weight_IO))) is not None:
            stacks[key].append(gptq(weight_IO.T, hessian_II, args, **settings))
            weight_IO.copy_(stacks[key][-1].dequantize().T)

    for e, x_ND, _ in expert_inputs(part, x_TD, experts_TK):
        hessian_DD = _hessian(x_ND)
        round_one("w_gate_EDF", e, hessian_DD)
        round_one("w_up_EDF", e, hessian_DD)
    for e, _, hidden_NF in expert_inputs(part, x_TD, experts_TK):
        round_one("w_down_EFD", e, _hessian(hidden_NF))
    return {f"{name}.{key}": stack(found) for key, found in stacks.items() if found}


def pack_codes(codes: Mapping[str, Codes]) -> dict[str, PackedWeight]:
    """The codes as packed weights, by the names that `install_weights` takes.

    Their scales are rounded to bfloat16, which moves a weight by a five-hundredth at most.
    """
    places = {"w_gate_EDF": "gate", "w_up_EDF": "up", "w_down_EFD": "down"}
    packed = {}
    for name, one in codes.items():
        layer, _, key = name.rpartition(".")
        parts = (one.codes_OI, one.scale_OS, one.zero_point_OS, one.args)
        packed[f"{layer}.{places[key]}" if key in places else layer] = PackedWeight.from_codes(
            *parts
        )
    return packed


def stack(found: list[Codes]) -> Codes:
    """Codes of several matrices of one shape as one, with a leading dimension."""
    parts = ([getattr(one, key) for one in found] for key in _TENSORS)
    return Codes(*(torch.stack(part) for part in parts), found[0].args)


_TENSORS = ("codes_OI", "scale_OS", "zero_point_OS")


def _hessian(x_TI: Tensor) -> Tensor:
    return input_stats(x_TI).hessian_II if len(x_TI) else torch.eye(x_TI.shape[1])


@contextmanager
def _hooked(model: nn.Module, on_linear: Callable, on_experts: Callable) -> Iterator[None]:
    """Call the functions with each layer's name, itself and its inputs, before it runs."""

    def hook(function: Callable, name: str, count: int) -> Callable:
        return lambda part, args: function(name, part, *args[:count])

    places = [(on_linear, 1, linear_layers(model)), (on_experts, 2, expert_layers(model))]
    handles = [
        part.register_forward_pre_hook(hook(function, name, count))
        for function, count, parts in places
        for name, part in parts.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
