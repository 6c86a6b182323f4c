"""The best product of two thin matrices for a matrix: its singular value decomposition, cut off.

W = U S V^T, with the singular values in S from large to small. Keeping the first r of them gives
the matrix of rank r that is nearest to W, in the sum of squared differences; what is lost is the
sum of the squared singular values that are left out.

Source: Eckart and Young 1936. Left out: weighing directions by how often inputs lie in them.
"""

import torch
from torch import Tensor


def low_rank_factors(weight_CD: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """up (C, rank) and down (rank, D), whose product is nearest to the weight (C, D).

    The singular values go to `up`, so that the rows of `down` are orthonormal.
    """
    u_CM, s_M, vh_MD = torch.linalg.svd(weight_CD, full_matrices=False)
    return u_CM[:, :rank] * s_M[:rank], vh_MD[:rank]
