"""Blocks of the key-value cache: which are free, which are used by whom, which can be found again.

A block is room for `block_size` tokens of every layer. A sequence owns a list of block numbers, its
block table; the tensors behind the numbers are somebody else's (`serving`), or nobody's
(`simulation`). A full block whose tokens are computed gets a key that stands for these tokens and
all before them, so that a later prompt with the same beginning finds it: the prefix cache. Each
block is in one of three states:

    free      nobody uses it, and it cannot be found: it goes out first
    used      in at least one block table; `references` counts them
    cached    nobody uses it, but its key can be found; evicted when no block is free

The least recently used cached block is evicted first. A released sequence gives its blocks back
from the end, so that tails go before heads: a head without its tail is still of use, a tail without
its head cannot be found. A key is a hash, and hashes collide: a block is only given out if its
tokens and the block before it are the ones asked for.

Source: Kwon et al. 2023 (PagedAttention), section 4; vLLM's design document "Automatic Prefix
Caching". Left out: copying a shared, half-full block (a sequence here never writes to a block that
another one uses, as only full blocks are shared), and blocks in slower memory.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

ROOT = 0  # the key before the first block

Key = tuple[Hashable, Hashable]  # (chained hash, content to compare)


def block_keys(
    tokens: Sequence[int], block_size: int, known: Sequence[Key] = (), hasher=hash
) -> list[Key]:
    """Keys of the full blocks of `tokens`: (hash of all tokens so far, the block's own tokens).

    `known` are the keys of the first blocks, computed before; they are taken as they are.
    """
    keys = list(known)
    for start in range(len(keys) * block_size, len(tokens) - block_size + 1, block_size):
        content = tuple(tokens[start : start + block_size])
        keys.append((hasher((keys[-1][0] if keys else ROOT, content)), content))
    return keys


@dataclass(slots=True)
class Block:
    """One block: its users, and how it is found. `before` is the block that precedes it, or -1."""

    references: int = 0
    hash: Hashable = None
    content: Hashable = None
    before: int = -1


def release_blocks(
    table: Sequence[int], blocks: Sequence[Block], free: deque[int], cached: dict[int, None]
) -> None:
    """Give a block table back, from its end. Raises ValueError for a block nobody uses.

    A block without further references joins `free`, or `cached` if it has a hash to be found by.
    """
    for number in reversed(table):
        block = blocks[number]
        if block.references < 1:
            raise ValueError(f"block {number} is released, but nobody uses it")
        block.references -= 1
        if block.references == 0:
            if block.hash is None:
                free.append(number)
            else:
                cached[number] = None


class BlockPool:
    """`num_blocks` blocks, given out, shared, found again and evicted.

    `release` is the course's `release_blocks`, or the learner's.
    """

    def __init__(
        self, num_blocks: int, prefix_cache: bool = True, release: Callable = release_blocks
    ):
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}: a pool needs at least one block")
        self.blocks = [Block() for _ in range(num_blocks)]
        self.prefix_cache, self._release = prefix_cache, release
        self._free: deque[int] = deque(range(num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()  # the least recently used first
        self._found: dict[Hashable, int] = {}
        self.evictions = 0

    @property
    def free(self) -> int:
        """Blocks that nobody uses and nobody can find."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that nobody uses and that can be found."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Blocks in at least one block table."""
        return len(self.blocks) - self.free - self.cached

    @property
    def available(self) -> int:
        """Blocks that could be given out now: free and cached ones."""
        return self.free + self.cached

    def find(self, keys: Iterable[Key]) -> list[int]:
        """The blocks of the longest beginning of `keys` that is here. Takes no references."""
        found: list[int] = []
        for key, content in keys if self.prefix_cache else ():
            number = self._found.get(key)
            before = found[-1] if found else -1
            if number is None or self.blocks[number].content != content:
                break
            if self.blocks[number].before != before:
                break
            found.append(number)
        return found

    def need(self, shared: Sequence[int], new: int) -> int:
        """How many of the available blocks `take(shared, new)` uses up."""
        return new + sum(self.blocks[number].references == 0 for number in shared)

    def take(self, shared: Sequence[int], new: int) -> list[int]:
        """A block table: the `shared` blocks (from `find`), then `new` ones without content.

        Raises ValueError, and changes nothing, if there are not enough.
        """
        if (need := self.need(shared, new)) > self.available:
            raise ValueError(
                f"{need} blocks are asked for and {self.available} of {len(self.blocks)} are "
                "available: wait, or release a sequence first"
            )
        for number in shared:
            self.blocks[number].references += 1
            self._cached.pop(number, None)
        return [*shared, *(self._new() for _ in range(new))]

    def _new(self) -> int:
        if not self._free:
            self._evict()
        number = self._free.popleft()
        self.blocks[number].references = 1
        return number

    def _evict(self) -> None:
        number, _ = self._cached.popitem(last=False)
        self._forget(number)
        self._free.append(number)
        self.evictions += 1

    def _forget(self, number: int) -> None:
        block = self.blocks[number]
        if self._found.get(block.hash) == number:
            del self._found[block.hash]
        self.blocks[number] = Block(references=block.references)

    def register(self, table: Sequence[int], index: int, key: Key) -> int:
        """Let block `index` of a table be found by `key`; returns the block to keep in its place.

        That is the block itself, or one with the same tokens that was registered before: then its
        references count one more and the block is given back. This is how two equal prompts that
        were computed at the same time come to share. After a collision the block stays unfindable.
        """
        number, before = table[index], table[index - 1] if index else -1
        block = self.blocks[number]
        if not self.prefix_cache or block.hash is not None:
            return number
        if index and self.blocks[before].hash is None:
            return number  # what lies before cannot be found, so this could not either
        chained, content = key
        other = self._found.get(chained)
        if other is None:
            self._found[chained] = number
            block.hash, block.content, block.before = chained, content, before
            return number
        same = self.blocks[other].content == content and self.blocks[other].before == before
        if not same:
            return number
        self.take([other], 0)
        self.release([number])
        return other

    def release(self, table: Sequence[int]) -> None:
        """Give a block table back: see `release_blocks`."""
        self._release(table, self.blocks, self._free, self._cached)

    def clear(self) -> None:
        """Forget every cached block; used ones stay, and cannot be found any more."""
        for number in range(len(self.blocks)):
            self._forget(number)
        self._free.extend(self._cached)
        self._cached.clear()
