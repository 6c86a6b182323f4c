"""What a pruned matrix takes in memory: with its zeros, as a list of what is left, or packed.

A list needs the place of every number it keeps. In CSR (compressed sparse rows) that is a column
of 4 bytes a number and a pointer of 4 bytes a row: in 32 bits a matrix shrinks when more than half
of it is zero, in 16 bits when more than two thirds are.

Left out: formats with one place for a block of numbers, and bitmaps.
"""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from course_utils.models import DecoderLM
from course_utils.pruning.weights import prunable


def to_csr(weight_FD: Tensor) -> Tensor:
    """The matrix as CSR with 32-bit columns and pointers, zeros left out."""
    places = weight_FD.nonzero()
    counts_F = places[:, 0].bincount(minlength=len(weight_FD))
    crow = torch.cat([counts_F.new_zeros(1), counts_F.cumsum(0)]).int()
    parts = crow, places[:, 1].int(), weight_FD[weight_FD != 0]
    with warnings.catch_warnings():  # PyTorch says that CSR is in beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(*parts, weight_FD.shape, check_invariants=True)


def csr_bytes(sparse: Tensor) -> int:
    """Bytes of a CSR tensor: its numbers, their columns, and a pointer a row."""
    return sum(
        part.nbytes for part in (sparse.values(), sparse.col_indices(), sparse.crow_indices())
    )


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors keep alive, shared storage once: a view keeps all that it was cut from."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights and buffers, a tied table once."""
    return storage_bytes([*model.parameters(), *model.buffers()])


def csr_model_bytes(model: DecoderLM) -> int:
    """Bytes of a model whose prunable matrices are stored as CSR where that is smaller."""
    total = model_bytes(model)
    for weight in prunable(model).values():
        for matrix in weight.flatten(0, -3) if weight.dim() > 2 else [weight]:
            total -= max(0, matrix.numel() * matrix.element_size() - csr_bytes(to_csr(matrix)))
    return total
