"""Linear maps whose weights lie in memory in the order in which the CPU's kernel reads them.

A matrix stored row by row suits a product with one row of input, and not one with a few, where a
kernel keeps several columns of the result in registers and jumps from row to row. oneDNN, which
comes with PyTorch, can be asked to lay a weight out in blocks once, and multiplies from there: the
same numbers, in the same 32 bits, sooner for 2 rows and more (`course bench serving`).
`torch.compile` does the same with the weights of a frozen model.

A packed layer is for running: it has no gradient of its weight and nothing to save. Left out: what
oneDNN is not built for (other processors, other types than float32): there nothing changes.
"""

import torch
from torch import Tensor, nn

from course_utils.layers.linear import Linear

ROWS = 8  # of input that the layout is made for; it was the best for 1 to 256 on our machines


def can_pack(weight: Tensor) -> bool:
    """Is oneDNN there, for this weight?"""
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and torch.backends.mkldnn.is_available()


class PackedLinear(nn.Module):
    """x (..., I) times the transposed weight, plus the bias: (..., O)."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), False)

    @property
    def weight(self) -> Tensor:
        """The weight (O, I), row by row again, copied at each call."""
        return self.packed.to_dense()

    def forward(self, x_TI: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x_TI, self.packed, self.bias, "none", [], "")


def pack_weights(model: nn.Module, apart: tuple[str, ...] = ("kv_b_proj",)) -> nn.Module:
    """Pack every `Linear` of the model that allows it, in place; returns the model.

    Layers named in `apart` stay as they are: latent attention reads that weight itself. A head that
    shares its weight with the embedding gets a packed copy of its own.
    """
    for module in model.modules():
        for name, child in list(module.named_children()):
            if type(child) is Linear and name not in apart and can_pack(child.weight):
                setattr(module, name, PackedLinear(child))
    return model
