"""All-to-all between the processes that share the experts, with gradients, and every byte counted.

In an all-to-all each rank (process) sends one block of rows to every rank and gets one from each.
Backward the same blocks travel the other way. Blocks may differ in size and be empty, so the ranks
first tell each other how many rows will come.

Source: `torch.distributed.all_to_all_single`, which gloo (CPU) and NCCL (GPUs) both have. Left out:
overlap of sending with computing, as DeepEP and DeepSeek-V3's DualPipe do.
"""

import math
from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor


class Wire:
    """One group of ranks (None: all). `sent` counts the bytes this rank sent to OTHER ranks.

    The keys of `sent` are what was sent ("dispatch", "combine", ...); with " backward" for the
    gradients of it. Every rank must make the same calls in the same order, also one that has
    nothing to send: the others wait for it.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group = group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.sent: Counter[str] = Counter()

    def announce(self, send_R: Tensor) -> list[int]:
        """Rows that each rank is going to send here, where `send_R` are those sent from here."""
        ones = [1] * self.ranks
        return self.move(send_R, ones, ones, "counts").tolist()

    def move(self, rows_N: Tensor, send: list[int], receive: list[int], name: str) -> Tensor:
        """Rows in order of the rank they go to, out; rows in order of the rank they came from, in.

        `send` and `receive` are the rows to and from each rank. Without gradient.
        """
        arrived = rows_N.new_empty(sum(receive), *rows_N.shape[1:])
        dist.all_to_all_single(arrived, rows_N.contiguous(), receive, send, group=self.group)
        others = sum(send) - send[self.rank]
        self.sent[name] += others * math.prod(rows_N.shape[1:]) * rows_N.element_size()
        return arrived

    def exchange(
        self, send: list[int], receive: list[int], **named_rows: Tensor
    ) -> tuple[Tensor, ...]:
        """`move` several tensors with equally many rows, with gradients."""
        return _Exchange.apply(self, send, receive, tuple(named_rows), *named_rows.values())


class _Exchange(torch.autograd.Function):
    """Gradients go back to where the rows came from, in one fixed order on every rank."""

    @staticmethod
    def forward(ctx, wire, send, receive, names, *tensors):
        ctx.wire, ctx.send, ctx.receive, ctx.names = wire, send, receive, names
        return tuple(
            wire.move(rows, send, receive, name) for rows, name in zip(tensors, names, strict=True)
        )

    @staticmethod
    def backward(ctx, *gradients):
        back = (
            ctx.wire.move(rows, ctx.receive, ctx.send, f"{name} backward")
            for rows, name in zip(gradients, ctx.names, strict=True)
        )
        return None, None, None, None, *back
