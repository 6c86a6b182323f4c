"""Hadamard rotation: spread an outlier channel over all channels before rounding.

An orthogonal Q changes no product, since x W^T = (x Q)(W Q)^T, and a channel of x that is large
becomes a little in every channel of x Q. A Hadamard matrix has entries +1 and -1 alone, so every
channel spreads evenly; divided by sqrt(n) it is orthogonal. Sizes: 1, 2 and 12 times powers of two,
and products of these, which covers 576 = 12 * 12 * 4 and 1536 = 12 * 128. Order 12 is Paley's.

Left out: the fast transform (n log n additions), learned rotations (SpinQuant).
Source: Ashkboos et al. 2024, "QuaRot", section 3; Paley 1933 for order 12.
"""

import torch
from torch import Tensor


def paley() -> Tensor:
    """A Hadamard matrix of order 12, from the squares modulo 11."""
    squares = {i * i % 11 for i in range(1, 11)}
    signs = torch.tensor([0.0] + [1.0 if i in squares else -1.0 for i in range(1, 11)])
    places = (torch.arange(11)[:, None] - torch.arange(11)) % 11
    skew = torch.zeros(12, 12)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, signs[places]
    return skew + torch.eye(12)


def hadamard(n: int) -> Tensor:
    """A Hadamard matrix (n, n): entries +-1, rows orthogonal. ValueError for other sizes."""
    matrix, rest = torch.ones(1, 1), n
    while rest > 1 and rest % 12 == 0:
        matrix, rest = torch.kron(paley(), matrix), rest // 12
    while rest > 1 and rest % 2 == 0:
        matrix, rest = torch.kron(torch.tensor([[1.0, 1], [1, -1]]), matrix), rest // 2
    if rest != 1:
        raise ValueError(f"no Hadamard matrix of order {n} here: powers of 2, times 12s")
    return matrix


def rotation(n: int, seed: int | None = None) -> Tensor:
    """An orthogonal matrix (n, n): Hadamard over sqrt(n), with rows of random sign if seeded."""
    matrix = hadamard(n) / n**0.5
    if seed is None:
        return matrix
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(2, (n, 1), generator=generator) * 2 - 1) * matrix
