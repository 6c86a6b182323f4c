"""Windows of token ids for training and evaluation.

Training draws windows anywhere in the stream, so that a batch mixes the domains in proportion to
their size; a seeded generator makes the draw the same on every machine. Evaluation walks through a
held-out array window by window from its start, without overlap, so that two models are asked the
same questions. Left out: packing with attention cut at document ends; windows here may span two.
"""

import numpy as np
import torch
from torch import Tensor


def as_ids(ids: np.ndarray) -> Tensor:
    """The array of ids as an int64 tensor."""
    return torch.from_numpy(ids.astype(np.int64))


def draw_windows(stream_N: Tensor, batch: int, length: int, generator: torch.Generator) -> Tensor:
    """`batch` windows of `length` ids from random places: (B, T). ValueError if it is too short."""
    _check(stream_N, length)
    starts = torch.randint(len(stream_N) - length + 1, (batch,), generator=generator)
    places_BT = starts[:, None] + torch.arange(length)
    return stream_N[places_BT.to(stream_N.device)]


def first_windows(stream_N: Tensor, count: int, length: int) -> Tensor:
    """The first `count` windows (or as many as there are), side by side: (B, T)."""
    _check(stream_N, length)
    count = min(count, len(stream_N) // length)
    return stream_N[: count * length].view(count, length)


def _check(stream_N: Tensor, length: int) -> None:
    if len(stream_N) < length or length < 2:
        raise ValueError(
            f"windows of {length} ids from {len(stream_N)} ids: a window needs at least 2, "
            "and no more than there are"
        )
