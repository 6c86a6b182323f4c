"""A quantized weight as it is kept: packed codes, 16-bit scales, and zero points if there are any.

The scales are rounded to their 16 bits BEFORE codes are chosen, so that codes and scales fit
together: rounding them afterwards would move every weight of the row. bfloat16 is the default, the
type that packed kernels read; it has the range of float32, so no scale becomes 0.

`tensors` gives what is written to a file: `weight_packed`, `weight_scale`, `weight_zero_point`. The
names are compressed-tensors'; their bytes are joined to int32 there (`formats`).

Left out: packed zero points (one byte each here), and scales that are quantized again (Q4_K).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from course_utils.quantization.affine import check_finite, choose_qparams, dequantize, quantize
from course_utils.quantization.packing import pack, packed_columns, unpack
from course_utils.quantization.schemes import QuantizationArgs

PARTS = ("weight_packed", "weight_scale", "weight_zero_point")


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight (..., O, I) in few bits. zero_point (..., O, S) is uint8, None if symmetric."""

    packed: Tensor
    scale: Tensor
    zero_point: Tensor | None
    args: QuantizationArgs
    shape: tuple[int, ...]

    @classmethod
    def quantize(
        cls,
        weight_OI: Tensor,
        args: QuantizationArgs,
        *,
        scale_dtype: torch.dtype = torch.bfloat16,
        symmetric_range: str = "full",
        name: str = "weight",
    ) -> "PackedWeight":
        """Round a weight (..., O, I) to the nearest codes. ValueError for infinities and NaN, with
        `name` in it, and for groups that do not divide the row."""
        check_finite(weight_OI, name)
        scale_OS, zero_OS = choose_qparams(weight_OI, args, symmetric_range=symmetric_range)
        scale_OS = scale_OS.to(scale_dtype)
        check_finite(1 / scale_OS, f"1 / scale of {name}")
        codes_OI = quantize(weight_OI, scale_OS, zero_OS, args)
        return cls.from_codes(codes_OI, scale_OS, zero_OS, args, scale_dtype=scale_dtype)

    @classmethod
    def from_codes(
        cls,
        codes_OI: Tensor,
        scale_OS: Tensor,
        zero_point_OS: Tensor,
        args: QuantizationArgs,
        *,
        scale_dtype: torch.dtype = torch.bfloat16,
    ) -> "PackedWeight":
        """Pack codes that something else has chosen (GPTQ, AWQ). ValueError for misfit scales.

        Choose such codes for scales that already have `scale_dtype`; others are rounded here.
        """
        shape, wanted = tuple(codes_OI.shape), args.scale_shape(codes_OI.shape)
        if tuple(scale_OS.shape) != wanted:
            raise ValueError(
                f"scales have shape {tuple(scale_OS.shape)}: codes of {shape} with {args} need "
                f"{wanted}"
            )
        zero = None if args.symmetric else zero_point_OS.to(torch.uint8)
        packed = pack(codes_OI.to(torch.int8 if args.symmetric else torch.uint8), args.num_bits)
        return cls(packed, scale_OS.to(scale_dtype), zero, args, shape)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], args: QuantizationArgs, columns: int
    ) -> "PackedWeight":
        """The weight that `tensors()` gave. ValueError when parts are missing or do not fit."""
        needed = PARTS[:2] if args.symmetric else PARTS
        if missing := [part for part in needed if part not in tensors]:
            raise ValueError(
                f"the quantized weight lacks {', '.join(missing)}: it has {[*tensors]}"
            )
        packed, scale = tensors["weight_packed"], tensors["weight_scale"]
        shape = (*packed.shape[:-1], columns)
        found = (packed.shape[-1], tuple(scale.shape))
        if found != (packed_columns(columns, args.num_bits), args.scale_shape(shape)):
            raise ValueError(
                f"weight_packed {tuple(packed.shape)} and weight_scale {found[1]} are no weight of "
                f"{columns} columns with {args}: file and config do not belong together"
            )
        return cls(packed, scale, tensors.get("weight_zero_point"), args, shape)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is kept, by its name in a file."""
        parts = zip(PARTS, (self.packed, self.scale, self.zero_point), strict=True)
        return {name: part for name, part in parts if part is not None}

    def codes(self) -> Tensor:
        """The codes (..., O, I), one a byte: int8 if symmetric, else uint8."""
        signed = self.args.symmetric
        return unpack(self.packed, self.args.num_bits, self.shape[-1], signed=signed)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (..., O, I) that codes and scales stand for."""
        zero_OS = torch.zeros_like(self.scale) if self.zero_point is None else self.zero_point
        return dequantize(self.codes(), self.scale, zero_OS, self.args).to(dtype)

    def nbytes(self) -> int:
        """Bytes of all tensors, scales and zero points counted: those in memory and on disk."""
        return sum(part.nbytes for part in self.tensors().values())

    def bits_per_weight(self) -> float:
        """Bits that a weight takes, measured on the tensors."""
        return self.nbytes() * 8 / prod(self.shape)

    def rows(self, ids: Tensor) -> "PackedWeight":
        """Those rows of a matrix, still packed, as an embedding looks them up."""
        scale, zero = self.scale, self.zero_point
        if self.args.strategy != "tensor":
            scale, zero = scale[ids], None if zero is None else zero[ids]
        return replace(
            self,
            packed=self.packed[ids],
            scale=scale,
            zero_point=zero,
            shape=(len(ids), *self.shape[1:]),
        )

    def matrix(self, number: int) -> "PackedWeight":
        """One matrix (O, I) of a stack, such as one expert's; its tensors are views."""
        part = self.map(lambda tensor: tensor[number])
        return replace(part, shape=self.shape[1:])

    @classmethod
    def stack(cls, matrices: Sequence["PackedWeight"]) -> "PackedWeight":
        """Matrices of one shape and scheme as a stack (E, O, I)."""
        parts = [weight.tensors() for weight in matrices]
        tensors = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        return cls.from_tensors(tensors, matrices[0].args, matrices[0].shape[-1])

    def map(self, function: Callable[[Tensor], Tensor]) -> "PackedWeight":
        """The same weight with every tensor replaced, such as moved to a device."""
        zero = None if self.zero_point is None else function(self.zero_point)
        return replace(
            self, packed=function(self.packed), scale=function(self.scale), zero_point=zero
        )
