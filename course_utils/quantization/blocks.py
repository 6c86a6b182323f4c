"""Blocks of neighbouring numbers in a row, or of rows and columns, that share a scale."""

import torch.nn.functional as F
from torch import Tensor

from course_utils.quantization.affine import check_finite


def into_blocks(weight_OI: Tensor, size: int, name: str = "weight") -> Tensor:
    """The weight (..., O, I) seen as (..., O, I / size, size).

    Raises ValueError when `size` does not divide I, or when a number is not finite.
    """
    if weight_OI.shape[-1] % size:
        raise ValueError(
            f"{name} has rows of {weight_OI.shape[-1]}: blocks of {size} do not divide them; "
            "take a size that does, or leave this weight in 16 bits"
        )
    check_finite(weight_OI, name)
    return weight_OI.unflatten(-1, (-1, size))


def into_tiles(weight_OI: Tensor, size: tuple[int, int], name: str = "weight") -> Tensor:
    """The weight (O, I) as tiles (ceil(O / rows), rows, ceil(I / columns), columns), a copy.

    Tiles that reach over the edge are filled with zeros, which change no largest value.
    """
    check_finite(weight_OI, name)
    rows, columns = size
    height, width = weight_OI.shape
    padded = F.pad(weight_OI, (0, -width % columns, 0, -height % rows))
    return padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))


def from_tiles(tiles: Tensor, shape: tuple[int, int]) -> Tensor:
    """Back to (O, I): the inverse of `into_tiles`."""
    return tiles.flatten(2, 3).flatten(0, 1)[: shape[0], : shape[1]]
