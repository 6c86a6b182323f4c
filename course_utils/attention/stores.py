"""What one layer keeps of the tokens it has seen: a layout in words, and the store made from it.

    Tokens({"rows": (160,)})                  some numbers for every token, as MLA
    Tokens({"k": (G, d), "v": (G, d)}, 128)   the same, of the last 128 tokens only
    State({"state": (H, d, d)})               a state of fixed size, whatever the length

All stores allocate their memory once and answer the same calls: `update` takes what is new and
returns all that attention may read, `read` returns what is kept, `positions` which token each kept
entry belongs to, `can_go_back` whether earlier lengths are still there. Kept per token (..., d)
lies as (B, ..., S, d), so that heads come before tokens and each head's tokens lie in one block.

Left out: paging and sharing (chapter 16), and copies of a state to go back to.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Tokens:
    """Named numbers kept for every token, each of the shape given; with `window`, of the last
    `window` tokens only."""

    shapes: Shapes
    window: int | None = None


@dataclass(frozen=True)
class State:
    """Named tensors of fixed size, each of the shape given, replaced at every step."""

    shapes: Shapes


Layout = Tokens | State


def elements(layout: Layout) -> int:
    """Numbers of one entry of a layout: of one token, or of the state."""
    return sum(torch.Size(shape).numel() for shape in layout.shapes.values())


class TokenStore:
    """All tokens, in tensors (B, ..., capacity, d): appending writes in place and returns views."""

    def __init__(self, layout: Tokens, batch: int, capacity: int, **options):
        shapes = [(batch, *s[:-1], capacity, s[-1]) for s in layout.shapes.values()]
        self.tensors = [torch.empty(shape, **options) for shape in shapes]

    def update(self, length: int, *new: Tensor) -> tuple[Tensor, ...]:
        """Write tokens behind the `length` that are there; return views of all of them."""
        end = length + new[0].shape[-2]
        for kept, added in zip(self.tensors, new, strict=True):
            kept[..., length:end, :] = added
        return self.read(end)

    def read(self, length: int) -> tuple[Tensor, ...]:
        """Views of the first `length` tokens, each (B, ..., length, d)."""
        return tuple(kept[..., :length, :] for kept in self.tensors)

    def can_go_back(self, length: int) -> bool:
        """Always: what lies behind an earlier length is overwritten by the next tokens."""
        return True

    def positions(self, length: int, new: int) -> Tensor:
        """The tokens that `update` returns: 0, 1, ..."""
        return torch.arange(length + new, device=self.tensors[0].device)


class WindowStore:
    """The last W tokens, in tensors (B, ..., W, d) written in a ring: token t lies at t mod W.

    Once the ring is full its entries are not in the order of the text. Attention does not care, as
    positions are already in the keys (RoPE); a mask does, and asks `positions`.
    """

    def __init__(self, layout: Tokens, batch: int, capacity: int, **options):
        self.window = min(layout.window, capacity)
        shapes = [(batch, *s[:-1], self.window, s[-1]) for s in layout.shapes.values()]
        self.tensors = [torch.empty(shape, **options) for shape in shapes]

    def update(self, length: int, *new: Tensor) -> tuple[Tensor, ...]:
        """Write tokens behind the `length` that were seen; return what the new ones may look at.

        One new token: the ring itself, uncopied. Several: the kept tokens, then all the new ones,
        in the order of `positions`; the mask must narrow this to W for each query.
        """
        T = new[0].shape[-2]
        if T == 1:
            self._write(length, new)
            return self.read(length + 1)
        past = self._kept(length)
        order = past % self.window
        pairs = zip(self.tensors, new, strict=True)
        seen = tuple(torch.cat([kept[..., order, :], added], dim=-2) for kept, added in pairs)
        self._write(length, new)
        return seen

    def _write(self, length: int, new: tuple[Tensor, ...]) -> None:
        T = new[0].shape[-2]
        last = min(T, self.window)
        slots = torch.arange(length + T - last, length + T, device=new[0].device) % self.window
        for kept, added in zip(self.tensors, new, strict=True):
            kept[..., slots, :] = added[..., T - last :, :]

    def _kept(self, length: int) -> Tensor:
        """The tokens kept after `length`, in the order of the text."""
        return torch.arange(max(0, length - self.window), length, device=self.tensors[0].device)

    def read(self, length: int) -> tuple[Tensor, ...]:
        """Views of what is kept after `length` tokens, each (B, ..., min(length, W), d)."""
        return tuple(kept[..., : min(length, self.window), :] for kept in self.tensors)

    def can_go_back(self, length: int) -> bool:
        """While the ring has dropped nothing: each token beyond W took the place of an old one."""
        return length <= self.window

    def positions(self, length: int, new: int) -> Tensor:
        """The token (S,) of every entry that `update` returns, given `new` more tokens."""
        if new > 1:
            added = torch.arange(length, length + new, device=self.tensors[0].device)
            return torch.cat([self._kept(length), added])
        kept = self._kept(length + 1)
        return kept[(kept % self.window).argsort()]


class StateStore:
    """Tensors of fixed size (B, ...), zero at first; `update` puts others in their place."""

    def __init__(self, layout: State, batch: int, capacity: int, **options):
        shapes = [(batch, *shape) for shape in layout.shapes.values()]
        self.tensors = [torch.zeros(shape, **options) for shape in shapes]

    def update(self, length: int, *new: Tensor) -> tuple[Tensor, ...]:
        """Keep the new state; returns it."""
        for kept, state in zip(self.tensors, new, strict=True):
            if kept.shape != state.shape:
                raise ValueError(
                    f"a state of {tuple(state.shape)} does not fit a cache made for "
                    f"{tuple(kept.shape)}: make one cache per batch"
                )
        self.tensors = [state.to(kept.dtype) for kept, state in zip(self.tensors, new, strict=True)]
        return self.read(length)

    def read(self, length: int) -> tuple[Tensor, ...]:
        """The state, each tensor (B, ...)."""
        return tuple(self.tensors)

    def can_go_back(self, length: int) -> bool:
        """Never: what tokens did to the state cannot be undone."""
        return False

    def positions(self, length: int, new: int) -> Tensor:
        """A state belongs to no token: empty."""
        return torch.arange(0, device=self.tensors[0].device)


def store_of(layout: Layout) -> type:
    """The class of store that a layout asks for."""
    if isinstance(layout, State):
        return StateStore
    return TokenStore if layout.window is None else WindowStore


def entries(layout: Layout, tokens: int) -> int:
    """How many entries of a layout there are after so many tokens."""
    if isinstance(layout, State):
        return 1
    return tokens if layout.window is None else min(tokens, layout.window)
