"""The fast way through the experts: `experts_fast`, chosen by device."""

from torch import Tensor

from course_utils.moe.experts import experts_grouped, experts_sorted


def experts_fast(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    w_gate_EDF: Tensor,
    w_up_EDF: Tensor,
    w_down_EFD: Tensor,
    identity: bool = True,
) -> Tensor:
    """The layer's default: grouped products on CUDA, sorted blocks elsewhere."""
    stacked = (w_gate_EDF, w_up_EDF, w_down_EFD)
    if x_TD.is_cuda:
        return experts_grouped(x_TD, experts_TK, weights_TK, *stacked, identity=identity)
    return experts_sorted(x_TD, experts_TK, weights_TK, *stacked)
