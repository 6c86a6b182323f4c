"""One stored weight: its name, the part of the model it belongs to, its shape, and how often it is.

A model is a list of such weights. All counts of this room are sums over it: parameters (every
copy), activated parameters (the copies that one token uses), operations (two per element of every
matrix product), bytes (by shape, since block scales depend on it).

Left out: values and dtypes; what a part is made of is said by the classes that list its weights.
"""

from dataclasses import dataclass
from math import prod

EMBEDDING, HEAD = "embedding", "head"
ATTENTION, INDEXER = "attention", "indexer"
NORMS, BIASES = "norms", "biases"
DENSE, ROUTED, SHARED, ROUTER = "dense FFN", "routed experts", "shared experts", "router"
RESIDUAL = "residual streams"
MTP = "MTP module"
PARTS = (EMBEDDING, ATTENTION, INDEXER, DENSE, ROUTED, SHARED, ROUTER, RESIDUAL)
PARTS += (NORMS, BIASES, HEAD, MTP)


@dataclass(frozen=True, slots=True)
class Weight:
    """`copies` tensors of one shape, of which a token uses `active`.

    `product` says that a token is multiplied by it: an embedding is looked up, a bias added.
    """

    name: str
    part: str
    shape: tuple[int, ...]
    copies: int = 1
    active: int = 1
    product: bool = True

    @property
    def total(self) -> int:
        """Parameters in all copies."""
        return prod(self.shape) * self.copies

    @property
    def activated(self) -> int:
        """Parameters in the copies that one token uses."""
        return prod(self.shape) * self.active


def matrix(name: str, part: str, inputs: int, outputs: int) -> Weight:
    """A matrix product from `inputs` to `outputs` channels, stored as (outputs, inputs)."""
    return Weight(name, part, (outputs, inputs))


def vector(name: str, part: str, size: int) -> Weight:
    """A norm's scale, a bias, or anything else that is no matrix product."""
    return Weight(name, part, (size,), product=False)


@dataclass(frozen=True, slots=True)
class Count:
    """Parameters: all that are stored, and those that one token uses."""

    total: int = 0
    activated: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.total + other.total, self.activated + other.activated)


@dataclass(frozen=True, slots=True)
class Span:
    """An amount per visible entry: numbers kept in a cache, or operations of reading it.

    Among the first `tokens` tokens there are min(tokens // stride, limit) entries. A window has a
    limit, a compressed cache a stride, and a recurrent state is one entry of fixed size: limit 1.
    """

    amount: int
    limit: int | None = None
    stride: int = 1

    def at(self, tokens: int) -> int:
        """The amount when `tokens` tokens are visible."""
        entries = tokens // self.stride
        return self.amount * (entries if self.limit is None else min(entries, self.limit))

    def up_to(self, tokens: int) -> int:
        """The sum of `at(1)`, `at(2)`, ... `at(tokens)`: what a causal pass over a text takes."""
        if self.limit is None:
            return self.amount * _floors(tokens, self.stride)
        growing = min(tokens, self.limit * self.stride)
        full = (tokens - growing) * self.limit
        return self.amount * (_floors(growing, self.stride) + full)


def _floors(tokens: int, stride: int) -> int:
    """The sum of i // stride for i from 1 to tokens."""
    whole = tokens // stride
    return stride * whole * (whole - 1) // 2 + whole * (tokens - whole * stride + 1)
