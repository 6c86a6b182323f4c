"""Bytes of a model's weights when they are stored in a format, scales included.

A format has bits for each weight and a scale for each block. What is stored how is a recipe: a
function from a weight (and its layer) to a format. Norms, biases and the router keep 16 bits in all
of them, as in published files.

    bf16     2 bytes a weight
    FP8      1 byte, and 4 for each block of 128 x 128
    MXFP4    4 bits, and 1 byte for each 32 along a row: 17 bytes for 32 weights
    INT4     4 bits, and 2 bytes (a scale) for each group of 128 along a row; zero points optional
    mixed    by layer: FastDeploy's WINT2 has 2-bit experts, 4-bit ones in early layers, 8 elsewhere

Left out: headers and padding of files. Sources: DeepSeek-V3 README_WEIGHTS.md; OCP MX specification
1.0; gpt-oss model card; FastDeploy documentation of WINT2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, prod

from course_utils.accounting.conventions import is_quantized_in_fp8
from course_utils.accounting.spec import ModelSpec
from course_utils.accounting.tensors import MTP, ROUTED, Weight


@dataclass(frozen=True)
class Format:
    """Bits for each weight, and `extra_bits` (scale, zero point) for each (rows, columns) block."""

    name: str
    bits: float
    block: tuple[int, int] | None = None
    extra_bits: int = 0

    def bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of one tensor of that shape, (outputs, inputs)."""
        bits = prod(shape) * self.bits
        if self.block and len(shape) > 1:
            rows, columns = self.block
            bits += ceil(shape[0] / rows) * ceil(prod(shape[1:]) / columns) * self.extra_bits
        return ceil(bits / 8)


BF16 = Format("bf16", 16)
FP8 = Format("FP8 blocks", 8, (128, 128), 32)
MXFP4 = Format("MXFP4", 4, (1, 32), 8)
INT4 = Format("INT4 groups of 128", 4, (1, 128), 16)
INT4_ZERO = Format("INT4 groups of 128, zero points", 4, (1, 128), 20)
W8, W4, W2 = Format("8 bits", 8), Format("4 bits", 4), Format("2 bits", 2)

Recipe = Callable[[Weight, int | None], Format]


def all_bf16(weight: Weight, layer: int | None) -> Format:
    """Everything in bf16."""
    return BF16


def fp8_blocks(weight: Weight, layer: int | None) -> Format:
    """DeepSeek-V3's checkpoint: matrices of attention and feed-forward in FP8, the rest bf16."""
    return FP8 if is_quantized_in_fp8(weight) else BF16


def mxfp4_experts(weight: Weight, layer: int | None) -> Format:
    """gpt-oss: the matrices of routed experts in MXFP4, the rest bf16."""
    return MXFP4 if weight.part == ROUTED and weight.product else BF16


def int4_groups(weight: Weight, layer: int | None) -> Format:
    """Weight-only 4 bits, as GPTQ and AWQ files store matrices."""
    return INT4 if is_quantized_in_fp8(weight) else BF16


def wint2(weight: Weight, layer: int | None) -> Format:
    """FastDeploy's recipe for ERNIE-4.5-300B: experts of layers 3 to 6 in 4 bits, then in 2."""
    if weight.part == ROUTED and layer is not None:
        return W4 if layer <= 6 else W2
    return W8


RECIPES: Mapping[str, Recipe] = {
    "bf16": all_bf16,
    "fp8": fp8_blocks,
    "mxfp4": mxfp4_experts,
    "int4": int4_groups,
    "wint2": wint2,
}


def stored_bytes(spec: ModelSpec, recipe: str | Recipe = "bf16", mtp: bool = False) -> int:
    """Bytes of all weights under a recipe, given by name or as a function.

    mtp adds the MTP modules, with the tables that they store once more.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"unknown recipe {recipe!r}: choose from {', '.join(RECIPES)}")
        recipe = RECIPES[recipe]
    total = sum(_bytes(weight, recipe, None) for weight in spec.tables)
    for index, layer in enumerate(spec.layers):
        total += _layer_bytes(layer, index, spec, recipe)
    return total + (_mtp_bytes(spec, recipe) if mtp else 0)


def _layer_bytes(layer, index: int, spec: ModelSpec, recipe: Recipe) -> int:
    weights = next(weights for other, _, weights in spec.groups if other is layer)
    return sum(_bytes(weight, recipe, index) for weight in weights)


def _mtp_bytes(spec: ModelSpec, recipe: Recipe) -> int:
    total = sum(_bytes(weight, recipe, None) * times for weight, times in spec.mtp_weights)
    if spec.mtp and spec.mtp.stores_tables:
        table = Weight("embed_tokens", MTP, (spec.vocab_size, spec.hidden_size), product=False)
        total += 2 * spec.mtp.modules * _bytes(table, recipe, None)
    return total


def _bytes(weight: Weight, recipe: Recipe, layer: int | None) -> int:
    if weight.name == "e_score_correction_bias":
        return 4 * weight.total  # kept in float32 by all publishers
    return recipe(weight, layer).bytes(weight.shape) * weight.copies


def bits_per_weight(spec: ModelSpec, recipe: str | Recipe) -> float:
    """Bits for each parameter, scales and unquantized parts included."""
    return 8 * stored_bytes(spec, recipe) / spec.count().total
