"""A cache in which every layer keeps what its kind of attention needs.

An attention module says what it keeps by `cache_layout()`; `stores` has the layouts and makes a
store of each. The cache hands what is new to a layer's store, counts the tokens, and goes back to
an earlier length where all stores can: rows of tokens can, a state and a full window cannot.

Left out: paging and sharing (chapter 16), and copies by which a state could go back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_utils.attention.stores import Layout, State, Tokens, elements, entries, store_of


class LayeredCache:
    """One store for every layer, made from the layers' layouts, and the number of tokens seen."""

    def __init__(
        self,
        layouts: Sequence[Layout],
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if min(batch, capacity, len(layouts)) < 1:
            raise ValueError(
                f"cache of {len(layouts)} layers, batch {batch}, capacity {capacity}: "
                "every size must be >= 1"
            )
        self.layouts = tuple(layouts)
        options = {"dtype": dtype, "device": device}
        self.stores = [store_of(layout)(layout, batch, capacity, **options) for layout in layouts]
        self.batch, self.capacity, self.length = batch, capacity, 0

    def update(self, layer: int, *new: Tensor) -> tuple[Tensor, ...]:
        """Give a layer's new tensors to its store, in the order of its layout; see the stores.

        Raises ValueError when tokens do not fit, or when the batch is not the cache's.
        """
        if new[0].shape[0] != self.batch:
            raise ValueError(
                f"a batch of {new[0].shape[0]} does not fit a cache made for {self.batch}: "
                "make one cache per batch"
            )
        if isinstance(self.layouts[layer], Tokens):
            end = self.length + new[0].shape[-2]
            if end > self.capacity:
                raise ValueError(
                    f"{end} tokens do not fit a cache of {self.capacity}: allocate it larger, "
                    "or generate fewer tokens"
                )
        return self.stores[layer].update(self.length, *new)

    def read(self, layer: int) -> tuple[Tensor, ...]:
        """What a layer keeps now: of the tokens counted in, or its state (zeros at first)."""
        return self.stores[layer].read(self.length)

    def positions(self, layer: int, new: int) -> Tensor:
        """The token (S,) of every entry that `update` with `new` more tokens returns.

        A mask over all tokens becomes one over what is returned: `mask[..., positions]`.
        """
        return self.stores[layer].positions(self.length, new)

    def advance(self, tokens: int) -> None:
        """Count `tokens` new tokens in, once all layers have stored them."""
        self.length += tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`, as after a draft that was not accepted.

        Nothing is copied or cleared: the next tokens overwrite the forgotten ones. Raises
        ValueError when the cache holds fewer, or when a layer has already dropped what it would
        need: a state, and a window that is full.
        """
        if not 0 <= length <= self.length:
            raise ValueError(
                f"cannot go back to {length} tokens: the cache holds {self.length}, and keeps only "
                "a beginning of them"
            )
        for layer, (layout, store) in enumerate(zip(self.layouts, self.stores, strict=True)):
            if length < self.length and not store.can_go_back(self.length):
                kept = "a state" if isinstance(layout, State) else f"a window of {layout.window}"
                raise ValueError(
                    f"cannot go back from {self.length} tokens to {length}: layer {layer} keeps "
                    f"{kept} and has dropped the rest; begin a new cache, or use full attention"
                )
        self.length = length

    def elements_per_token(self) -> int:
        """Numbers that one more token of one sequence adds, while no window is full."""
        return sum(elements(layout) for layout in self.layouts if isinstance(layout, Tokens))

    def bytes_per_token(self) -> int:
        """Bytes that one more token of one sequence adds, while no window is full."""
        return self.elements_per_token() * self.stores[0].tensors[0].element_size()

    def elements(self, tokens: int) -> int:
        """Numbers kept of one sequence after `tokens` tokens, by the layouts."""
        return sum(elements(layout) * entries(layout, tokens) for layout in self.layouts)

    def bytes(self) -> int:
        """Bytes of the tensors in use now, all sequences together."""
        kept = [tensor for layer in range(len(self.layouts)) for tensor in self.read(layer)]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)
