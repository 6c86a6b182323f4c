"""2:4 sparsity: of every four neighbouring inputs of an output, two weights stay.

The pattern is regular, so it can be stored and computed without searching: two values of four, and
for each its place among the four, two bits. Packed here for real: half of the values, and a byte
for every two groups of four. NVIDIA's tensor cores since Ampere (2020) read this form and skip the
zeros, at up to twice the rate of products; this CPU has no such unit, so `Packed24` unpacks before
it multiplies. It saves bytes, and no time.

Left out: the order in which the hardware wants the indices, and the choice of which four inputs
stand together (channel permutation). Source: Mishra et al. 2021, "Accelerating Sparse Deep Neural
Networks", sections 2 and 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def two_four_mask(scores_FD: Tensor) -> Tensor:
    """True for the two highest scores of every four neighbouring inputs (last dimension).

    Of equal scores the earlier one stays. Raises ValueError when D is not a multiple of 4.
    """
    if scores_FD.shape[-1] % 4:
        raise ValueError(f"{scores_FD.shape[-1]} inputs: 2:4 needs a multiple of 4")
    fours = scores_FD.unflatten(-1, (-1, 4))
    best = fours.argsort(dim=-1, descending=True, stable=True)[..., :2]
    return torch.zeros_like(fours, dtype=torch.bool).scatter(-1, best, True).flatten(-2)


@dataclass(frozen=True)
class Packed24:
    """A 2:4 matrix of shape (F, D): values (F, D/2), and their places, two groups of four a byte.

    Of a group the two places, from 0 to 3, take two bits each, the first in the lowest bits.
    """

    values: Tensor
    indices: Tensor  # uint8 (F, ceil(D/8))
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.values.nbytes + self.indices.nbytes

    def unpack(self) -> Tensor:
        """The matrix (F, D) with its zeros."""
        groups = self.shape[1] // 4
        bits = torch.stack([self.indices & 15, self.indices >> 4], dim=-1).flatten(1)[:, :groups]
        places = torch.stack([bits & 3, bits >> 2], dim=-1).long()
        dense = self.values.new_zeros(self.shape[0], groups, 4)
        return dense.scatter_(-1, places, self.values.unflatten(1, (groups, 2))).flatten(1)

    def matmul(self, x_TD: Tensor) -> Tensor:
        """x times the transpose of the matrix, (T, F): unpacked first, so never faster here."""
        return x_TD @ self.unpack().T


def pack_2_4(weight_FD: Tensor, mask_FD: Tensor) -> Packed24:
    """The kept weights of a 2:4 mask in packed form.

    Raises ValueError when a group of four does not keep exactly two.
    """
    F, D = weight_FD.shape
    if mask_FD.shape != weight_FD.shape or D % 4:
        raise ValueError(
            f"weight {(F, D)} and mask {tuple(mask_FD.shape)}: they must be alike, D a multiple "
            "of 4"
        )
    fours = mask_FD.unflatten(1, (-1, 4))
    if not bool((fours.sum(-1) == 2).all()):
        raise ValueError("a group of four does not keep two: make the mask with two_four_mask")
    places = fours.int().argsort(dim=-1, descending=True, stable=True)[..., :2]
    values = weight_FD.unflatten(1, (-1, 4)).gather(-1, places).flatten(1)
    bits = (places[..., 0] | places[..., 1] << 2).to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, bits.shape[1] % 2)).unflatten(1, (-1, 2))
    return Packed24(values.contiguous(), bits[..., 0] | bits[..., 1] << 4, (F, D))
