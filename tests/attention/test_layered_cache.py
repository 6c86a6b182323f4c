"""The stores of a layered cache against plain lists: what they return, and how large they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.attention import LayeredCache, State, Tokens

some = settings(max_examples=80, deadline=None, derandomize=True)
chunks = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@some
@given(chunks, st.integers(0, 2))
def test_tokens_come_back_whole_and_uncopied(sizes, extra):
    total = sum(sizes)
    cache = LayeredCache([Tokens({"k": (2, 3), "row": (5,)})], 2, total + extra)
    k, row, done = normal(0, 2, 2, total, 3), normal(1, 2, total, 5), 0
    where = [tensor.data_ptr() for tensor in cache.stores[0].tensors]
    for size in sizes:
        end = done + size
        positions = cache.positions(0, size)
        seen = cache.update(0, k[:, :, done:end], row[:, done:end])
        assert torch.equal(seen[0], k[:, :, :end]) and torch.equal(seen[1], row[:, :end])
        assert [tensor.data_ptr() for tensor in seen] == where
        assert positions.tolist() == list(range(end))
        cache.advance(size)
        done = end
        assert cache.elements(done) == done * (2 * 3 + 5)
        assert cache.bytes() == 2 * 4 * cache.elements(done)
        assert all(torch.equal(a, b) for a, b in zip(cache.read(0), seen, strict=True))
    assert cache.elements_per_token() == 11 and cache.bytes_per_token() == 44


@some
@given(chunks, st.integers(1, 7), st.integers(0, 2))
def test_a_window_returns_what_new_tokens_may_see(sizes, window, extra):
    total, done = sum(sizes), 0
    cache = LayeredCache([Tokens({"k": (2, 3)}, window)], 1, total + extra)
    k = normal(0, 1, 2, total, 3)
    for size in sizes:
        end = done + size
        places = cache.positions(0, size).tolist()
        (seen,) = cache.update(0, k[:, :, done:end])
        assert torch.equal(seen, k[:, :, places]) and len(set(places)) == len(places)
        needed = set(range(max(0, done - window + 1), end))
        assert needed <= set(places) and min(places) >= max(0, done - window)
        if size == 1:
            assert set(places) == needed  # decoding needs no mask
        cache.advance(size)
        done = end
        (kept,) = cache.read(0)
        assert kept.shape[2] == min(done, window)
        last = sorted(tuple(row) for row in k[0, 0, max(0, done - window) : done].tolist())
        assert sorted(tuple(row) for row in kept[0, 0].tolist()) == last
        assert cache.bytes() == 4 * cache.elements(done) == 4 * 6 * min(done, window)


def test_a_state_is_zero_then_the_last_one_given():
    cache = LayeredCache([State({"state": (2, 3, 4), "conv": (5, 3)})], 2, 8)
    assert [tensor.shape for tensor in cache.read(0)] == [(2, 2, 3, 4), (2, 5, 3)]
    assert all(not tensor.any() for tensor in cache.read(0))
    assert cache.positions(0, 1).numel() == 0
    for step in range(3):
        new = normal(step, 2, 2, 3, 4), normal(step + 9, 2, 5, 3)
        returned = cache.update(0, *new)
        cache.advance(4)
        for have in (returned, cache.read(0)):
            assert all(torch.equal(a, b) for a, b in zip(have, new, strict=True))
    assert cache.elements(1) == cache.elements(10**6) == 24 + 15
    assert cache.elements_per_token() == 0 and cache.bytes() == 2 * 4 * 39


def test_layers_of_all_kinds_side_by_side():
    layouts = [Tokens({"rows": (6,)}), State({"s": (4, 4)}), Tokens({"k": (1, 2), "v": (1, 2)}, 3)]
    cache = LayeredCache(layouts, 1, 10, torch.float64)
    rows, k = normal(0, 1, 5, 6).double(), normal(1, 1, 1, 5, 2).double()
    cache.update(0, rows)
    cache.update(1, normal(2, 1, 4, 4).double())
    cache.update(2, k, -k)
    cache.advance(5)
    assert cache.elements(5) == 5 * 6 + 16 + 3 * 4
    assert cache.bytes() == 8 * cache.elements(5)
    assert cache.elements_per_token() == 6 + 4 and cache.bytes_per_token() == 80
    assert all(tensor.dtype == torch.float64 for layer in range(3) for tensor in cache.read(layer))


def test_what_does_not_fit_is_named():
    cache = LayeredCache([Tokens({"rows": (6,)}), State({"s": (4,)})], 2, 3)
    with pytest.raises(ValueError, match="4 tokens do not fit a cache of 3: allocate it larger"):
        cache.update(0, torch.zeros(2, 4, 6))
    with pytest.raises(ValueError, match="a batch of 1 does not fit a cache made for 2"):
        cache.update(0, torch.zeros(1, 1, 6))
    with pytest.raises(ValueError, match=r"a state of \(2, 5\) does not fit .* \(2, 4\)"):
        cache.update(1, torch.zeros(2, 5))
    with pytest.raises(ValueError, match="every size must be >= 1"):
        LayeredCache([], 1, 3)
    with pytest.raises(ValueError, match="capacity 0: every size must be >= 1"):
        LayeredCache([State({"s": (4,)})], 1, 0)


def hold(layouts: list, tokens: int, capacity: int = 12) -> LayeredCache:
    """A cache of layers of width 3 that were given so many tokens, numbered."""
    cache = LayeredCache(layouts, 1, capacity)
    give(cache, range(tokens))
    return cache


def give(cache: LayeredCache, numbers) -> None:
    for number in numbers:
        for layer in range(len(cache.layouts)):
            cache.update(layer, torch.full((1, 1, 3), float(number)))
        cache.advance(1)


@pytest.mark.parametrize("window", [None, 8, 20])
def test_going_back_is_as_if_the_tokens_had_never_come(window):
    cache = hold([Tokens({"k": (3,)}), Tokens({"k": (3,)}, window)], 8)
    cache.truncate(5)
    assert cache.length == 5 and cache.bytes() == 2 * 5 * 3 * 4
    give(cache, [50, 60])
    for layer in (0, 1):
        assert cache.read(layer)[0][0, :, 0].tolist() == [0, 1, 2, 3, 4, 50, 60]
    cache.truncate(0)
    assert cache.length == 0


@pytest.mark.parametrize(
    "layout, kept", [(Tokens({"k": (3,)}, 4), "a window of 4"), (State({"s": (1, 3)}), "a state")]
)
def test_what_has_dropped_tokens_cannot_go_back(layout, kept):
    cache = hold([Tokens({"k": (3,)}), layout], 5)
    cache.truncate(5)  # nothing to forget
    with pytest.raises(ValueError, match=f"layer 1 keeps {kept}.*new cache"):
        cache.truncate(4)
    assert cache.length == 5


@pytest.mark.parametrize("length", [-1, 6])
def test_there_is_nothing_to_go_back_to(length):
    with pytest.raises(ValueError, match=f"cannot go back to {length} tokens: the cache holds 5"):
        hold([Tokens({"k": (3,)})], 5).truncate(length)
