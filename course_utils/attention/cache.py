"""What attention keeps of the tokens it has seen: the protocol, and the dense cache.

A model asks its cache three things: how many tokens it holds (`length`), to take a layer's new keys
and values and return all of them (`update`), and, when every layer has done so, to count the new
tokens in (`advance`). Any storage that answers these serves the same model code. Kinds of
attention that keep something else than keys and values use `layered_cache`.

`KVCache` is one block per layer, allocated once for `capacity` tokens: appending writes in place
and returns views, so nothing is copied as the text grows. Left out: paging and sharing (chapter
16).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What a model needs of a cache."""

    length: int
    capacity: int

    def update(self, layer: int, k_BGTd: Tensor, v_BGTd: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values; return those of all tokens, (B, G, S, d)."""

    def advance(self, tokens: int) -> None:
        """Count `tokens` new tokens in, once all layers have stored them."""


def attend_cached(
    cache: Cache | None,
    layer: int,
    attend: Callable[..., Tensor],
    q_BHTd: Tensor,
    new: tuple[Tensor, ...],
    mask: Tensor | None,
) -> Tensor:
    """`attend(q, *kept, mask)`, where kept is what the cache has once it holds the `new` tensors.

    A cache in which the new tokens are of several sequences has a method `attend` and calls it for
    each of them (`serving.paged_cache`); then mask is None.
    """
    if hasattr(cache, "attend"):
        return cache.attend(layer, attend, q_BHTd, new)
    return attend(q_BHTd, *(new if cache is None else cache.update(layer, *new)), mask)


class KVCache:
    """Keys and values of every layer, in one preallocated tensor of shape (L, 2, B, G, S, d)."""

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        shape = (layers, 2, batch, heads, capacity, head_dim)
        if min(shape) < 1:
            raise ValueError(f"cache of shape {shape} (L, 2, B, G, S, d): every size must be >= 1")
        self.kv = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def update(self, layer: int, k_BGTd: Tensor, v_BGTd: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values behind the old ones; return views of all of them.

        Raises ValueError when they do not fit, or when the batch or heads are not the cache's.
        """
        end = self.length + k_BGTd.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"{end} tokens do not fit a cache of {self.capacity}: allocate it larger, "
                "or generate fewer tokens"
            )
        if k_BGTd.shape[:2] != self.kv.shape[2:4]:
            raise ValueError(
                f"keys of (batch, heads) {tuple(k_BGTd.shape[:2])} do not fit a cache made for "
                f"{tuple(self.kv.shape[2:4])}: make one cache per batch"
            )
        self.kv[layer, 0, :, :, self.length : end] = k_BGTd
        self.kv[layer, 1, :, :, self.length : end] = v_BGTd
        return self.kv[layer, 0, :, :, :end], self.kv[layer, 1, :, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`, as after a draft that was not accepted.

        Nothing is copied or cleared: the next tokens overwrite the forgotten ones. Raises
        ValueError when the cache holds fewer.
        """
        if not 0 <= length <= self.length:
            raise ValueError(
                f"cannot go back to {length} tokens: the cache holds {self.length}, and keeps only "
                "a beginning of them"
            )
        self.length = length

    def elements_per_token(self) -> int:
        """Numbers stored per token of one sequence: 2 * layers * key-value heads * head_dim."""
        layers, two, _, heads, _, head_dim = self.kv.shape
        return layers * two * heads * head_dim

    def bytes_per_token(self) -> int:
        """Bytes stored per token of one sequence."""
        return self.elements_per_token() * self.kv.element_size()

    def elements(self, tokens: int) -> int:
        """Numbers kept of one sequence after `tokens` tokens."""
        return tokens * self.elements_per_token()

    def bytes(self) -> int:
        """Bytes of the tensors in use now, all sequences together."""
        used = self.kv[..., : self.length, :]
        return used.numel() * used.element_size()
