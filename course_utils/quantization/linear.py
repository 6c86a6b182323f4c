"""Linear layers, embeddings and experts that run from packed weights and hold nothing else.

A layer holds a kernel (`kernels.py`), which holds the weight. A tied embedding looks into the
head's kernel, so that the table is kept once; the layouts of `Int4` and `DynamicInt8` have no rows
to look up, so there the embedding keeps a packed table of its own.

`weight` gives what the codes stand for, in float32: for comparisons, for gradients of the input,
and for code that reads a weight without calling the layer (latent attention). It is computed anew
each time. `state_dict` holds the packed bytes. Left out: gradients of the weights (chapter 15).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.layers import swiglu
from course_utils.moe.experts import identity_part
from course_utils.quantization.kernels import Dequantize, Kernel, choose_kernel
from course_utils.quantization.packed import PackedWeight
from course_utils.quantization.schemes import QuantizationArgs


class QuantizedLinear(nn.Module):
    """x times the transposed weight, plus the bias; x (..., I), the result (..., O)."""

    def __init__(self, kernel: Kernel, bias_O: Tensor | None = None):
        super().__init__()
        self.kernel = kernel
        self.out_features, self.in_features = kernel.shape
        self.bias = None if bias_O is None else nn.Parameter(bias_O.detach(), requires_grad=False)

    @classmethod
    def quantize(
        cls, linear: nn.Linear, args: QuantizationArgs, kernel: str | None = None
    ) -> "QuantizedLinear":
        """The layer rounded to nearest. ValueError as `PackedWeight.quantize`, `choose_kernel`."""
        weight = PackedWeight.quantize(linear.weight.detach(), args)
        return cls(choose_kernel(weight, kernel), linear.bias)

    @property
    def weight(self) -> Tensor:
        """The weight (O, I) that the codes stand for, float32, computed at each call."""
        return self.kernel.packed_weight().dequantize()

    def forward(self, x_TI: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x_TI.requires_grad:  # kernels have no gradient
            return F.linear(x_TI, self.weight.to(x_TI.dtype), self.bias)
        if x_TI.dim() == 2:
            y_TO = self.kernel(x_TI)
        else:
            y_TO = self.kernel(x_TI.reshape(-1, self.in_features))
            y_TO = y_TO.view(*x_TI.shape[:-1], self.out_features)
        return y_TO if self.bias is None else y_TO + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, kernel={self.kernel.name}"

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self.kernel.packed_weight().tensors().items():
            destination[prefix + name] = tensor

    def _apply(self, fn: Callable, recurse: bool = True) -> "QuantizedLinear":
        super()._apply(fn, recurse)
        device = fn(torch.empty(0, device=self.kernel.device)).device
        if device != self.kernel.device:  # another device has other kernels
            weight = self.kernel.packed_weight().map(lambda tensor: tensor.to(device))
            self.kernel = choose_kernel(weight)
        return self


class QuantizedEmbedding(nn.Module):
    """Rows of the weight of a quantized layer, which may be the head's own; only those looked up
    are unpacked."""

    def __init__(self, table: QuantizedLinear):
        super().__init__()
        if not hasattr(table.kernel, "rows"):
            table = QuantizedLinear(Dequantize(table.kernel.packed_weight()))
        self.table = table

    @property
    def weight(self) -> Tensor:
        """The whole table (V, D), float32, computed at each call."""
        return self.table.weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.table.kernel.rows(ids_BT.flatten()).view(*ids_BT.shape, -1)


class QuantizedExperts(nn.Module):
    """The experts of an MoE layer: three packed matrices each, run one expert after another.

    Takes the place of `moe.Experts`. Weights are given as stacks (E, F, D), (E, F, D) and
    (E, D, F), rows by columns, so that the inputs of a product share scales.
    """

    def __init__(self, stacks: Sequence[PackedWeight], kernel: str | None = None):
        super().__init__()
        self.gate, self.up, self.down = (
            nn.ModuleList(
                QuantizedLinear(choose_kernel(stack.matrix(e), kernel))
                for e in range(stack.shape[0])
            )
            for stack in stacks
        )

    def forward(self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        y_TD = identity_part(x_TD, experts_TK, weights_TK, len(self.gate))
        for e in experts_TK.unique().tolist():
            if e < len(self.gate):
                tokens, place = torch.where(experts_TK == e)
                rows = x_TD[tokens]
                out = self.down[e](swiglu(self.gate[e](rows), self.up[e](rows)))
                y_TD = y_TD.index_add(0, tokens, weights_TK[tokens, place, None] * out)
        return y_TD
