"""How a packed weight is multiplied: PyTorch's CPU kernels, and which of them takes which weight.

A kernel reads the weight as it is stored and turns codes into numbers in registers, so that few
bytes travel from memory. That wins where each weight is used for few rows: decoding. With many rows
(prefill) arithmetic is the limit, and a plain product of dequantized weights is faster.

- `Int8` (`torch._weight_int8pack_mm`): symmetric 8 bits, a scale per row.
- `Int4` (`torch._weight_int4pack_mm_for_cpu`): 4 bits in groups of 32, 64, 128 or 256; a row's only
  scale is repeated for groups of it. Keeps two 16-bit numbers a group.
- `DynamicInt8` (`quantized::linear_dynamic`): int8 weights AND activations, which are rounded at
  each call, every row by a scale of its own: one shared by all rows is ruined by outliers (chapter
  14). Faster where the CPU multiplies int8 (VNNI), less exact, so only used when asked for.
- `Dequantize`: unpack the weight, then multiply. Fits everything, and reads more than it saves.

`Int8` and `Int4` are fast with bfloat16 activations and ten times slower with float32 ones
(PyTorch 2.13): they convert around the product, and the rest of the model stays in its own dtype.
Each object holds one weight in its kernel's layout, and nothing besides. Left out: kernels for
groups of int8, for 2, 3, 5 and 6 bits, and for GPUs (PyTorch has none: `Dequantize`).
"""

import warnings
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.quantization.packed import PackedWeight
from course_utils.quantization.schemes import QuantizationArgs

INT4_GROUPS = (256, 128, 64, 32)
FEW_ROWS = 12  # up to here `Int8` beats dequantize-then-multiply on our machines: `bench quant`


class Kernel(Protocol):
    """A weight (O, I), ready to be multiplied."""

    name: str
    activations: torch.dtype  # that it is fast with, and that `product` takes and gives
    args: QuantizationArgs
    shape: tuple[int, int]
    device: torch.device

    @staticmethod
    def misfit(weight: PackedWeight) -> str:
        """Why this kernel cannot take the weight; "" if it can."""

    def product(self, x_TI: Tensor) -> Tensor:
        """x times the transposed weight, (T, O): the bare call, x in the kernel's dtype."""

    def __call__(self, x_TI: Tensor) -> Tensor:
        """The product in the dtype of x, by the faster way for that many rows."""

    def packed_weight(self) -> PackedWeight:
        """The weight as it is stored; made anew where the kernel's layout is another."""

    def nbytes(self) -> int:
        """Bytes that the kernel keeps in memory."""


class Int8:
    """Symmetric 8 bits, a scale per row, bfloat16 activations while rows are few."""

    name = "int8"
    activations = torch.bfloat16

    @staticmethod
    def misfit(weight: PackedWeight) -> str:
        if weight.args != QuantizationArgs(8):
            return "it takes 8 symmetric bits with one scale per channel"
        return _bfloat16_on_cpu(weight)

    def __init__(self, weight: PackedWeight):
        self.args, self.shape, self.device = weight.args, weight.shape, weight.packed.device
        self.codes_OI, self.scale_O = weight.codes(), weight.scale.flatten()

    def product(self, x_TI: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x_TI, self.codes_OI, self.scale_O)

    def __call__(self, x_TI: Tensor) -> Tensor:
        if x_TI.shape[0] <= FEW_ROWS:
            return self.product(x_TI.to(torch.bfloat16)).to(x_TI.dtype)
        dtype = many_rows_dtype(x_TI)
        y_TO = F.linear(x_TI.to(dtype), self.codes_OI.to(dtype)).to(x_TI.dtype)
        return y_TO * self.scale_O.to(x_TI.dtype)

    def rows(self, ids: Tensor) -> Tensor:
        """Those rows of the weight, float32: what an embedding looks up."""
        return self.codes_OI[ids] * self.scale_O[ids].float()[:, None]

    def packed_weight(self) -> PackedWeight:
        scale_O1 = self.scale_O[:, None]
        zeros = torch.zeros_like(scale_O1)
        return PackedWeight.from_codes(self.codes_OI, scale_O1, zeros, QuantizationArgs(8))

    def nbytes(self) -> int:
        return self.codes_OI.nbytes + self.scale_O.nbytes


class Int4:
    """4 bits in groups, bfloat16 activations. Its codes lie in an order that depends on the CPU."""

    name = "int4"
    activations = torch.bfloat16

    @staticmethod
    def misfit(weight: PackedWeight) -> str:
        (rows, columns), args = weight.shape, weight.args
        if args.num_bits != 4 or args.strategy == "tensor":
            return "it takes 4 bits with scales per channel or group"
        if args.strategy == "group" and args.group_size not in INT4_GROUPS:
            return f"it takes groups of {INT4_GROUPS}, not of {args.group_size}"
        if rows % 16 or columns % 32:
            return f"it takes multiples of 16 rows and 32 columns, not {rows} x {columns}"
        return _bfloat16_on_cpu(weight)

    def __init__(self, weight: PackedWeight):
        self.args, self.shape, self.device = weight.args, weight.shape, weight.packed.device
        self.group = self.args.group_size or next(g for g in INT4_GROUPS if not self.shape[1] % g)
        offset = 8 if self.args.symmetric else 0
        codes_OI = (weight.codes().to(torch.int32) + offset).contiguous()
        self.codes = torch._convert_weight_to_int4pack_for_cpu(codes_OI, 1)
        # the kernel computes (code - 8) * scale + zero
        scale_OS = weight.scale
        zero_OS = torch.zeros_like(scale_OS)
        if weight.zero_point is not None:
            zero_OS = (8 - weight.zero_point.float()) * scale_OS
        pairs_SO2 = torch.stack([scale_OS, zero_OS.to(scale_OS)], dim=-1).transpose(0, 1)
        repeats = self.shape[1] // self.group // len(pairs_SO2)
        self.scale_zero_SO2 = pairs_SO2.repeat(repeats, 1, 1).contiguous()

    def product(self, x_TI: Tensor) -> Tensor:
        scales = self.scale_zero_SO2
        return torch._weight_int4pack_mm_for_cpu(x_TI, self.codes, self.group, scales)

    def __call__(self, x_TI: Tensor) -> Tensor:
        return self.product(x_TI.to(torch.bfloat16)).to(x_TI.dtype)

    def packed_weight(self) -> PackedWeight:
        """The codes are read back by a product with the identity matrix: exact, in any layout."""
        plain_SO2 = torch.zeros_like(self.scale_zero_SO2)
        plain_SO2[..., 0] = 1
        one_II = torch.eye(self.shape[1], dtype=torch.bfloat16)
        product = torch._weight_int4pack_mm_for_cpu(one_II, self.codes, self.group, plain_SO2)
        own_SO2 = self.scale_zero_SO2[: self.args.scales_per_row(self.shape[1])]
        scale_OS, zero_OS = own_SO2.transpose(0, 1).unbind(-1)
        zero_point_OS = (8 - zero_OS.float() / scale_OS.float()).round()
        codes_OI = product.T.float() + (0 if self.args.symmetric else 8)
        return PackedWeight.from_codes(codes_OI, scale_OS, zero_point_OS, self.args)

    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale_zero_SO2.nbytes


class DynamicInt8:
    """Int8 weights times activations rounded to 8 bits at each call, float32 in and out."""

    name = "dynamic_int8"
    activations = torch.float32

    @staticmethod
    def misfit(weight: PackedWeight) -> str:
        return Int8.misfit(weight)

    def __init__(self, weight: PackedWeight):
        self.args, self.shape, self.device = weight.args, weight.shape, weight.packed.device
        scale_O, zeros_O = weight.scale.flatten().double(), torch.zeros(weight.shape[0]).long()
        codes_OI = weight.codes()
        with warnings.catch_warnings():  # PyTorch 2.13 announces the end of quantized tensors
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
            quantized = torch._make_per_channel_quantized_tensor(codes_OI, scale_O, zeros_O, 0)
        self.operand = torch.ops.quantized.linear_prepack(quantized, None)
        self.bytes = codes_OI.nbytes + scale_O.nbytes
        self.seven_bits = not torch.cpu._is_vnni_supported()  # older CPUs add two products in 16

    def product(self, x_TI: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x_TI, self.operand, self.seven_bits)

    def __call__(self, x_TI: Tensor) -> Tensor:
        if x_TI.shape[0] <= FEW_ROWS:
            return torch.cat([self.product(row) for row in x_TI.float().split(1)]).to(x_TI.dtype)
        return Int8(self.packed_weight())(x_TI)

    def packed_weight(self) -> PackedWeight:
        quantized, _ = torch.ops.quantized.linear_unpack(self.operand)
        scale_O1 = quantized.q_per_channel_scales()[:, None]
        zeros = torch.zeros_like(scale_O1)
        return PackedWeight.from_codes(quantized.int_repr(), scale_O1, zeros, QuantizationArgs(8))

    def nbytes(self) -> int:
        return self.bytes


class Dequantize:
    """Unpack, then multiply in the dtype of x: for every weight, on every device."""

    name = "dequantize"
    activations = torch.float32

    @staticmethod
    def misfit(weight: PackedWeight) -> str:
        return ""

    def __init__(self, weight: PackedWeight):
        self.args, self.shape, self.device = weight.args, weight.shape, weight.packed.device
        self.weight = weight

    def product(self, x_TI: Tensor) -> Tensor:
        return F.linear(x_TI, self.weight.dequantize(x_TI.dtype))

    def __call__(self, x_TI: Tensor) -> Tensor:
        return self.product(x_TI)

    def rows(self, ids: Tensor) -> Tensor:
        """Those rows of the weight, float32; only they are unpacked."""
        return self.weight.rows(ids).dequantize()

    def packed_weight(self) -> PackedWeight:
        return self.weight

    def nbytes(self) -> int:
        return self.weight.nbytes()


KERNELS = {kernel.name: kernel for kernel in (Int8, Int4, DynamicInt8, Dequantize)}
AUTOMATIC = (Int8, Int4, Dequantize)  # in this order


def choose_kernel(weight: PackedWeight, name: str | None = None) -> Kernel:
    """The weight in the layout of the kernel `name`, or of the fastest that takes it.

    Raises ValueError when that kernel is unknown or does not take the weight, saying why.
    """
    if name is None:
        return next(kernel for kernel in AUTOMATIC if not kernel.misfit(weight))(weight)
    if name not in KERNELS:
        raise ValueError(f"unknown kernel {name!r}: there are {', '.join(KERNELS)}")
    if why := KERNELS[name].misfit(weight):
        raise ValueError(f"kernel {name!r} does not fit: {why}, and this weight is {weight.args}")
    return KERNELS[name](weight)


def misfits(weight: PackedWeight) -> dict[str, str]:
    """Why each kernel that is chosen automatically was passed over, by its name."""
    reasons = {kernel.name: kernel.misfit(weight) for kernel in AUTOMATIC}
    return {name: why for name, why in reasons.items() if why}


def many_rows_dtype(x_TI: Tensor) -> torch.dtype:
    """The dtype of plain products of many rows: bfloat16 where the CPU multiplies it, else x's."""
    fast = x_TI.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else x_TI.dtype


def _bfloat16_on_cpu(weight: PackedWeight) -> str:
    if weight.packed.device.type != "cpu":
        return "it runs on CPUs only"
    if weight.scale.dtype != torch.bfloat16:
        return f"it reads bfloat16 scales, not {weight.scale.dtype}"
    return ""
