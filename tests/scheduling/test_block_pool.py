"""The pool against a slow model of itself: counts, owners, keys, and the order of eviction."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.scheduling import BlockPool, block_keys

TEXTS = st.lists(st.integers(0, 1), min_size=1, max_size=9)


def check_counts(pool: BlockPool, tables: list[list[int]]) -> None:
    """What must hold at any time, given all block tables."""
    assert pool.free + pool.used + pool.cached == len(pool.blocks)
    users = Counter(number for table in tables for number in table)
    assert [block.references for block in pool.blocks] == [
        users[number] for number in range(len(pool.blocks))
    ]
    assert all(len(set(table)) == len(table) for table in tables)
    for chained, number in pool._found.items():
        block = pool.blocks[number]
        assert block.hash == chained
        assert block.before == -1 or pool.blocks[block.before].hash is not None
    for number in pool._free:
        assert pool.blocks[number].hash is None and pool.blocks[number].references == 0


def insert(pool: BlockPool, text: list[int], size: int, keys=block_keys) -> list[int]:
    """Take blocks for a text, sharing what is found, and register the full ones."""
    named = keys(text, size)
    shared = pool.find(named)
    table = pool.take(shared, -(-len(text) // size) - len(shared))
    for index in range(len(shared), len(named)):
        table[index] = pool.register(table, index, named[index])
    return table


class SlowPool:
    """The same by lists: cached prefixes in the order of their last use, the oldest first."""

    def __init__(self, num_blocks: int, size: int):
        self.num_blocks, self.size = num_blocks, size
        self.users: list[tuple] = []  # one entry a block and user: ("prefix", ...) or ("own", n)
        self.idle: list[tuple] = []
        self.made = 0

    def insert(self, text: list[int]) -> tuple[list[tuple], int] | None:
        size, known = self.size, {*self.users, *self.idle}
        prefixes = [("prefix", *text[: end + size]) for end in range(0, len(text) - size + 1, size)]
        shared = []
        for prefix in prefixes:
            if prefix not in known:
                break
            shared.append(prefix)
        own = [("own", self.made)] if len(text) % size else []
        self.made += 1
        new = len(prefixes) - len(shared) + len(own)
        resting = [prefix for prefix in self.idle if prefix not in shared]
        room = self.num_blocks - len(set(self.users) | set(shared))
        if new > room:
            return None
        while new > room - len(resting):
            resting.pop(0)
        self.idle, table = resting, prefixes + own
        self.users += table
        return table, len(shared)

    def release(self, table: list[tuple]) -> None:
        for entry in reversed(table):
            self.users.remove(entry)
            if entry[0] == "prefix" and entry not in self.users:
                self.idle.append(entry)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(3, 12),
    st.integers(1, 3),
    st.lists(st.tuples(st.booleans(), TEXTS, st.integers(0, 9)), max_size=25),
)
def test_pool_does_what_lists_do(num_blocks, size, steps):
    pool, slow = BlockPool(num_blocks), SlowPool(num_blocks, size)
    tables: list[tuple[list[int], list[tuple]]] = []
    for adding, text, which in steps:
        if adding:
            found = len(pool.find(block_keys(text, size)))
            expected = slow.insert(text)
            if expected is None:
                with pytest.raises(ValueError, match="are available"):
                    insert(pool, text, size)
            else:
                assert found == expected[1]
                tables.append((insert(pool, text, size), expected[0]))
        elif tables:
            table, entries = tables.pop(which % len(tables))
            pool.release(table)
            slow.release(entries)
        check_counts(pool, [table for table, _ in tables])
        assert pool.used == len(set(slow.users))
        assert pool.cached == len(slow.idle)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(1, 3))
def test_what_is_found_has_the_tokens_asked_for_even_if_all_hashes_collide(texts, size):
    def colliding(tokens, block_size):
        return block_keys(tokens, block_size, hasher=lambda _: 7)

    pool, written, tables = BlockPool(100), {}, []
    for text in texts:
        found = pool.find(colliding(text, size))
        for index, number in enumerate(found):
            assert written[number] == text[: (index + 1) * size]
        table = insert(pool, text, size, colliding)
        for index in range(len(text) // size):
            written.setdefault(table[index], text[: (index + 1) * size])
        tables.append(table)
        check_counts(pool, tables)


def test_two_equal_prompts_at_once_come_to_share():
    pool, keys = BlockPool(8), block_keys([1, 2, 3, 4], 2)
    first, second = pool.take(pool.find(keys), 2), pool.take(pool.find(keys), 2)
    assert not set(first) & set(second)
    for table in (first, second):
        for index in (0, 1):
            table[index] = pool.register(table, index, keys[index])
    assert first == second
    assert (pool.used, pool.free, pool.cached) == (2, 6, 0)
    check_counts(pool, [first, second])


def test_a_block_is_not_found_after_it_was_evicted_and_used_again():
    pool, old, new = BlockPool(2), [1, 1, 2, 2], [3, 3, 4, 4]
    pool.release(insert(pool, old, 2))
    table = insert(pool, new, 2)
    assert pool.evictions == 2
    assert pool.find(block_keys(old, 2)) == []
    assert pool.find(block_keys(new, 2)) == table


def test_tails_are_evicted_before_heads():
    pool = BlockPool(3)
    pool.release(insert(pool, [1, 1, 2, 2, 3, 3], 2))
    pool.take((), 1)
    assert len(pool.find(block_keys([1, 1, 2, 2, 3, 3], 2))) == 2


def test_keys_continue_from_known_ones():
    tokens = list(range(11))
    known = block_keys(tokens[:7], 3)
    assert block_keys(tokens, 3, known) == block_keys(tokens, 3)
    assert len(known) == 2


def test_same_block_after_another_beginning_has_another_key():
    (_, first), (_, second) = block_keys([1, 1, 2, 2], 2), block_keys([5, 5, 2, 2], 2)
    assert first[1] == second[1] and first[0] != second[0]


def test_cleared_pool_finds_nothing_and_loses_no_block():
    pool = BlockPool(6)
    pool.release(insert(pool, [1, 2, 3, 4], 2))
    held = insert(pool, [5, 6], 2)
    pool.clear()
    assert pool.find(block_keys([5, 6], 2)) == pool.find(block_keys([1, 2], 2)) == []
    check_counts(pool, [held])
    pool.release(held)
    assert pool.free == 6


def test_without_prefix_cache_nothing_is_found():
    pool = BlockPool(4, prefix_cache=False)
    pool.release(insert(pool, [1, 2], 2))
    assert pool.find(block_keys([1, 2], 2)) == [] and pool.free == 4


def test_bad_calls_say_what_to_do():
    with pytest.raises(ValueError, match="num_blocks is 0"):
        BlockPool(0)
    pool = BlockPool(2)
    (number,) = pool.take((), 1)
    pool.release([number])
    with pytest.raises(ValueError, match="nobody uses it"):
        pool.release([number])
