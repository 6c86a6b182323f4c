"""A whole model in few bits: which layers, by name, and how many bits each.

A recipe maps patterns of module names ("*.mlp.*", "model.layers.0.*", "lm_head") to
`QuantizationArgs`, or to None for "leave alone"; the first pattern that fits decides, and what none
fits stays as it is. One `QuantizationArgs` alone stands for `{"*": args}`.

Quantized are linear layers, embeddings and the stacked experts of MoE layers. Norms, routers,
convolutions and biases are not: they are small, and models are sensitive to them. Where embedding
and head are one table, the pattern that fits "lm_head" decides for both.

`quantize_model` rounds to nearest. Methods that choose codes better (chapter 14) make the packed
weights themselves and hand them to `install_weights`.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import prod

from torch import Tensor, nn

from course_utils.moe.layer import Experts
from course_utils.quantization.kernels import Dequantize, choose_kernel, misfits
from course_utils.quantization.linear import (
    QuantizedEmbedding,
    QuantizedExperts,
    QuantizedLinear,
)
from course_utils.quantization.packed import PackedWeight
from course_utils.quantization.schemes import QuantizationArgs

Recipe = Mapping[str, QuantizationArgs | None]
EXPERT_PARTS = ("gate", "up", "down")
HEAD, TABLE = "lm_head", "model.embed_tokens"


def quantizable(model: nn.Module) -> dict[str, Tensor]:
    """Every weight that can be quantized, rows by columns, by module name.

    A layer of experts has three, `NAME.gate`, `NAME.up` and `NAME.down`, each a stack (E, O, I). A
    tied table appears once, as the head.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            stacks = (module.w_gate_EDF, module.w_up_EDF, module.w_down_EFD)
            parts = zip(EXPERT_PARTS, stacks, strict=True)
            found |= {f"{name}.{part}": stack.detach().mT for part, stack in parts}
        elif isinstance(module, nn.Linear | nn.Embedding):
            found[name] = module.weight.detach()
    if _tied(model):
        found.pop(TABLE)
    return found


def resolve(recipe: QuantizationArgs | Recipe, model: nn.Module) -> dict[str, QuantizationArgs]:
    """Which weight gets which scheme. ValueError for a pattern that fits no weight."""
    recipe = {"*": recipe} if isinstance(recipe, QuantizationArgs) else recipe
    names, chosen, used = quantizable(model), {}, set()
    for name in names:
        fitting = [pattern for pattern in recipe if fnmatchcase(name, pattern)]
        used.update(fitting)
        if fitting and recipe[fitting[0]] is not None:
            chosen[name] = recipe[fitting[0]]
    if unused := [pattern for pattern in recipe if pattern not in used]:
        raise ValueError(
            f"no weight of the model is called {unused[0]!r}: names are like "
            f"{', '.join([*names][:3])}, ..., {[*names][-1]}"
        )
    return chosen


def quantize_model(
    model: nn.Module, recipe: QuantizationArgs | Recipe, kernel: str | None = None
) -> nn.Module:
    """Replace the layers that the recipe names by quantized ones, in place; returns the model.

    kernel: the one that every layer is to use, by name; by default the fastest that fits each.
    Raises ValueError for patterns that fit nothing, weights that are not finite (by name), and
    schemes that do not fit a weight.
    """
    weights = quantizable(model)
    packed = {
        name: PackedWeight.quantize(weights[name], args, name=name)
        for name, args in resolve(recipe, model).items()
    }
    return install_weights(model, packed, kernel)


def install_weights(
    model: nn.Module, weights: Mapping[str, PackedWeight], kernel: str | None = None
) -> nn.Module:
    """Replace layers by packed weights of the names that `quantizable` gives, in place.

    Raises ValueError for unknown names, other shapes, and experts of which a part is missing.
    """
    known, tied = quantizable(model), _tied(model)
    for name, weight in weights.items():
        if name not in known or known[name].shape != weight.shape:
            shape = tuple(known[name].shape) if name in known else "no such weight"
            raise ValueError(f"{name}: {weight.shape} is to replace {shape}")
    for name, module in list(model.named_modules()):
        if isinstance(module, Experts):
            _install_experts(model, name, weights, kernel)
        elif name in weights:
            is_table = isinstance(module, nn.Embedding)
            bias = None if is_table else module.bias
            layer = QuantizedLinear(choose_kernel(weights[name], kernel), bias)
            model.set_submodule(name, QuantizedEmbedding(layer) if is_table else layer)
            if name == HEAD and tied:
                model.set_submodule(TABLE, QuantizedEmbedding(layer))
    return model


def _install_experts(
    model: nn.Module, name: str, weights: Mapping[str, PackedWeight], kernel: str | None
) -> None:
    parts = [f"{name}.{part}" for part in EXPERT_PARTS]
    if missing := [part for part in parts if part not in weights]:
        if len(missing) < len(parts):
            raise ValueError(f"{missing[0]} is missing: experts are quantized whole or not at all")
        return
    model.set_submodule(name, QuantizedExperts([weights[part] for part in parts], kernel))


def packed_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantized layers by name, an expert's as NAME.gate.3; a shared table is the head's."""
    named = model.named_modules(remove_duplicate=False)
    layers = {part: name for name, part in named if isinstance(part, QuantizedLinear)}
    return {name.removesuffix(".table"): layer for layer, name in layers.items()}


def packed_weights(model: nn.Module) -> dict[str, PackedWeight]:
    """The packed weights by the names that `install_weights` takes, experts stacked."""
    found: dict[str, PackedWeight] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedExperts):
            for part in EXPERT_PARTS:
                weights = [layer.kernel.packed_weight() for layer in getattr(module, part)]
                found[f"{name}.{part}"] = PackedWeight.stack(weights)
    for name, layer in _without_copies(model).items():
        if name.rpartition(".")[0] not in found:
            found[name] = layer.kernel.packed_weight()
    return found


def weight_bytes(model: nn.Module) -> int:
    """Bytes that the model's weights take in memory, packed or not; what is shared counts once."""
    packed = sum(layer.kernel.nbytes() for layer in packed_layers(model).values())
    tensors = {id(part): part for part in (*model.parameters(), *model.buffers())}
    return packed + sum(tensor.nbytes for tensor in tensors.values())


def count_weights(model: nn.Module) -> int:
    """Numbers in the model, packed or not; what is shared counts once.

    `DecoderLM.count_parameters` sees only those that are not quantized.
    """
    packed = sum(prod(layer.kernel.shape) for layer in _without_copies(model).values())
    tensors = {id(part): part for part in (*model.parameters(), *model.buffers())}
    return packed + sum(tensor.numel() for tensor in tensors.values())


def bits_per_weight(model: nn.Module) -> float:
    """Bits that a number of the model takes in memory on average, everything counted."""
    return weight_bytes(model) * 8 / count_weights(model)


def explain(model: nn.Module) -> list[dict]:
    """One row per quantized layer: name, shape, bits of a weight in memory, kernel, and why no
    faster one."""
    rows = []
    for name, layer in packed_layers(model).items():
        kernel, reasons = layer.kernel, {}
        if kernel.name == Dequantize.name:
            reasons = misfits(kernel.packed_weight())
        rows.append(
            {
                "name": name,
                "shape": kernel.shape,
                "num_bits": kernel.args.num_bits,
                "bits_per_weight": kernel.nbytes() * 8 / prod(kernel.shape),
                "kernel": kernel.name,
                "why": "; ".join(f"{other}: {why}" for other, why in reasons.items()),
            }
        )
    return rows


def _without_copies(model: nn.Module) -> dict[str, QuantizedLinear]:
    """`packed_layers` without the copy of a tied table that the head's kernel made necessary."""
    layers = packed_layers(model)
    head = next((name for name in layers if name.endswith(HEAD)), None)
    if head is not None and model.config.tie_word_embeddings:
        layers.pop(head.removesuffix(HEAD) + TABLE, None)
    return layers


def _tied(model: nn.Module) -> bool:
    modules = dict(model.named_modules())
    head, table = modules.get(HEAD), modules.get(TABLE)
    return isinstance(head, nn.Linear) and table is not None and head.weight is table.weight
