"""How a weight is written in few bits: the number of bits, and which weights share a scale.

A quantized weight is a small integer (its code) times a scale. Symmetric codes lie around 0;
asymmetric ones start at 0 and have a zero point, the code that means 0. The `strategy` says how
many weights share a scale: those of the whole matrix ("tensor"), of one output row ("channel"), or
of `group_size` neighbouring inputs of a row ("group"). Scales are stored too, and counted.

The words are those of compressed-tensors (`QuantizationArgs`), the layout that vLLM loads.
Left out: blocks over rows and columns (FP8 has them), scales per token (they are for activations).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

WIDTHS = (2, 3, 4, 5, 6, 8)
STRATEGIES = ("tensor", "channel", "group")


@dataclass(frozen=True)
class QuantizationArgs:
    """One way to write a weight matrix. Raises ValueError for what no matrix can have."""

    num_bits: int = 8
    symmetric: bool = True
    strategy: str = "channel"
    group_size: int | None = None

    def __post_init__(self):
        if self.num_bits not in WIDTHS:
            raise ValueError(f"num_bits is {self.num_bits}: choose one of {WIDTHS}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}: choose one of {STRATEGIES}")
        if self.strategy == "group" and (self.group_size is None or self.group_size < 1):
            raise ValueError(
                f"group_size is {self.group_size}: strategy 'group' needs a number of inputs, "
                "such as 32 or 128"
            )
        if self.strategy != "group" and self.group_size is not None:
            raise ValueError(
                f"group_size is {self.group_size} with strategy {self.strategy!r}: only strategy "
                "'group' has groups; leave it out or choose strategy='group'"
            )

    @property
    def q_min(self) -> int:
        """The smallest code."""
        return -(2 ** (self.num_bits - 1)) if self.symmetric else 0

    @property
    def q_max(self) -> int:
        """The largest code."""
        return self.q_min + 2**self.num_bits - 1

    def scales_per_row(self, columns: int) -> int:
        """S: how many scales one row of that many inputs has.

        Raises ValueError when groups do not divide the row.
        """
        if self.strategy != "group":
            return 1
        if columns % self.group_size:
            fitting = [g for g in (16, 32, 64, 96, 128) if columns % g == 0]
            raise ValueError(
                f"group_size {self.group_size} does not divide the {columns} inputs of a row: "
                f"choose a divisor{f', such as {fitting}' if fitting else ''}"
            )
        return columns // self.group_size

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the scales of weights (..., O, I): (..., O, S), or (..., 1, 1) for "tensor"."""
        *stack, rows, columns = shape
        rows = 1 if self.strategy == "tensor" else rows
        return (*stack, rows, self.scales_per_row(columns))

    def bits_per_weight(
        self, shape: Sequence[int], scale_bits: int = 16, zero_bits: int | None = None
    ) -> float:
        """Bits that a weight of this shape (..., O, I) takes, scales and zero points counted.

        Rows end on whole bytes. zero_bits: bits of a zero point; by default num_bits if there are
        any (asymmetric), else none.
        """
        if zero_bits is None:
            zero_bits = 0 if self.symmetric else self.num_bits
        code_bits = prod(shape[:-1]) * 8 * ceil(shape[-1] * self.num_bits / 8)
        return (code_bits + prod(self.scale_shape(shape)) * (scale_bits + zero_bits)) / prod(shape)
