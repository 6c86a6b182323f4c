"""Keys and values in blocks: what attention reads and writes when sequences share one memory.

The memory of a layer is `num_blocks * block_size` slots, one for each token. A sequence's block
table says which slots are its own: token t lies in slot `table[t // block_size] * block_size +
t % block_size`. A step of the engine computes some tokens of several sequences, laid one behind the
other as if they were one text (T tokens); only attention must keep them apart. It asks its cache,
here a `PagedBatch`: that writes the new tokens into their slots, gathers each sequence's own, and
calls the layer's attention for all sequences with one new token together, and for every longer
chunk alone.

Gathering copies what attention reads, except where a sequence that is read alone has slots one
behind the other; kernels for GPUs read the slots in place. Works for every attention that keeps
rows of all tokens (grouped-query, latent); a window or a state is refused.

Source: Kwon et al. 2023 (PagedAttention), section 4.1; Yu et al. 2022 (Orca), section 4.2,
selective batching.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.attention.stores import Layout, Tokens


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `start + count - 1` of a sequence whose blocks are those of `table`."""

    table: Sequence[int]
    start: int
    count: int


def slot_numbers(table: Sequence[int], tokens: int, block_size: int) -> Tensor:
    """(S,) slots of a sequence's first S = `tokens` tokens; its blocks are those of `table`."""
    position_S = torch.arange(tokens)
    blocks_S = torch.tensor(table, dtype=torch.long)[position_S // block_size]
    return blocks_S * block_size + position_S % block_size


class PagedCache:
    """The slots of every layer, in tensors (slots, ...) made from the layers' layouts.

    `slots` is the course's `slot_numbers`, or the learner's.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        slots: Callable = slot_numbers,
    ):
        for number, layout in enumerate(layouts):
            if not isinstance(layout, Tokens) or layout.window is not None:
                kind = "a window" if isinstance(layout, Tokens) else "a state"
                raise ValueError(
                    f"layer {number} keeps {kind}: blocks hold rows of all tokens; use a model "
                    "with full or latent attention, or `generate`"
                )
        self.num_blocks, self.block_size = num_blocks, block_size
        self.slots = slots
        self.layers = [
            [
                torch.zeros(num_blocks * block_size, *shape, dtype=dtype, device=device)
                for shape in layout.shapes.values()
            ]
            for layout in layouts
        ]

    def bytes(self) -> int:
        """Bytes of all slots."""
        return sum(kept.numel() * kept.element_size() for layer in self.layers for kept in layer)

    def bytes_per_token(self) -> int:
        """Bytes of one slot of every layer."""
        return self.bytes() // (self.num_blocks * self.block_size)


class PagedBatch:
    """What a model needs of a cache, for one step: the new tokens of several sequences as one text.

    `positions_T` are the tokens' places in their own sequences.
    """

    def __init__(self, cache: PagedCache, spans: Sequence[Span]):
        self.cache, self.device = cache, cache.layers[0][0].device
        slots = [
            cache.slots(span.table, span.start + span.count, cache.block_size) for span in spans
        ]
        new = [own[span.start :] for own, span in zip(slots, spans, strict=True)]
        places = [torch.arange(span.start, span.start + span.count) for span in spans]
        self.new_T = torch.cat(new).to(self.device)
        self.positions_T = torch.cat(places).to(self.device)
        ends = torch.tensor([span.count for span in spans]).cumsum(0).tolist()
        placed = list(zip(spans, slots, ends, strict=True))
        self.chunks = [
            (slice(end - span.count, end), self._lying(own))
            for span, own, end in placed
            if span.count > 1
        ]
        singles = [end - 1 for span, _, end in placed if span.count == 1]
        self.singles = torch.tensor(singles, device=self.device)
        if singles:
            self._pad([own for span, own, _ in placed if span.count == 1])

    def _pad(self, slots: list[Tensor]) -> None:
        """Slots (B, S) of the sequences with one new token, and which are real (B, 1, 1, S)."""
        lengths_B = torch.tensor([len(own) for own in slots])
        padded_BS = torch.nn.utils.rnn.pad_sequence(slots, batch_first=True)
        real_BS = torch.arange(padded_BS.shape[1]) < lengths_B[:, None]
        alone = len(slots) == 1
        self.padded_BS = self._lying(slots[0]) if alone else padded_BS.to(self.device)
        self.mask = None if bool(real_BS.all()) else real_BS[:, None, None].to(self.device)

    def attend(
        self, layer: int, attend: Callable[..., Tensor], q_1HTd: Tensor, new: Sequence[Tensor]
    ) -> Tensor:
        """Store the layer's new tokens; (1, H, T, V) of `attend(q, *kept, mask)` by sequence.

        `new` are tensors (1, ..., T, d), `kept` what the cache has of a sequence, (B, ..., S, d).
        """
        for kept, added in zip(self.cache.layers[layer], new, strict=True):
            kept.index_copy_(0, self.new_T, added[0].movedim(-2, 0))
        if not self.chunks:  # one token of each sequence: the tokens are the batch
            return self._decode(layer, attend, q_1HTd)
        out = [
            attend(q_1HTd[:, :, rows], *self._gather(layer, slots), None)
            for rows, slots in self.chunks
        ]
        out_1HTV = q_1HTd.new_empty(*q_1HTd.shape[:3], out[0].shape[-1])
        for (rows, _), part_1HtV in zip(self.chunks, out, strict=True):
            out_1HTV[:, :, rows] = part_1HtV
        if len(self.singles):
            single_1HBd = q_1HTd.index_select(2, self.singles)
            out_1HTV.index_copy_(2, self.singles, self._decode(layer, attend, single_1HBd))
        return out_1HTV

    def _decode(self, layer: int, attend: Callable[..., Tensor], q_1HBd: Tensor) -> Tensor:
        """(1, H, B, V) for the sequences with one new token, all at once."""
        q_BH1d = q_1HBd[0].transpose(0, 1)[:, :, None]
        out_BH1V = attend(q_BH1d, *self._gather(layer, self.padded_BS), self.mask)
        return out_BH1V[:, :, 0].transpose(0, 1)[None]

    def _lying(self, slots_S: Tensor) -> Tensor | slice:
        """A sequence's slots: a slice if they lie one behind the other, otherwise (1, S)."""
        first, last = int(slots_S[0]), int(slots_S[-1])
        if last - first + 1 == len(slots_S) and bool((slots_S.diff() == 1).all()):
            return slice(first, last + 1)
        return slots_S[None].to(self.device)

    def _gather(self, layer: int, slots: Tensor | slice) -> list[Tensor]:
        """(B, ..., S, d) of everything that the layer keeps; of a slice, a view."""
        if isinstance(slots, slice):
            return [kept[slots][None].movedim(1, -2) for kept in self.cache.layers[layer]]
        return [
            kept.index_select(0, slots.view(-1)).unflatten(0, slots.shape).movedim(1, -2)
            for kept in self.cache.layers[layer]
        ]
