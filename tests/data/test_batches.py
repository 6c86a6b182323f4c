"""Windows: whole, within bounds, drawn from everywhere, the same for the same seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data.batches import as_ids, draw_windows, first_windows

some = settings(max_examples=60, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ids_become_whole_numbers_of_64_bits():
    ids = as_ids(np.array([0, 4095, 65535], dtype=np.uint16))
    assert ids.dtype == torch.int64 and ids.tolist() == [0, 4095, 65535]


@some
@given(st.integers(2, 12), st.integers(0, 20), st.integers(1, 5), st.integers(0, 2**31))
def test_drawn_windows_are_runs_of_the_stream(length, more, batch, seed):
    stream = torch.arange(100, 100 + length + more)
    windows = draw_windows(stream, batch, length, seeded(seed))
    assert windows.shape == (batch, length)
    assert windows.min() >= 100 and windows.max() < 100 + len(stream)
    assert windows.diff(dim=1).eq(1).all()
    assert torch.equal(windows, draw_windows(stream, batch, length, seeded(seed)))


def test_every_place_is_drawn_the_first_and_the_last_too():
    windows = draw_windows(torch.arange(12), 600, 4, seeded())
    assert sorted(set(windows[:, 0].tolist())) == list(range(9))


def test_draws_go_on_and_seeds_differ():
    stream, generator = torch.arange(1000), seeded()
    first, second = (draw_windows(stream, 4, 5, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, draw_windows(stream, 4, 5, seeded(1)))


@some
@given(st.integers(2, 9), st.integers(2, 60), st.integers(1, 9))
def test_first_windows_lie_side_by_side(length, size, count):
    stream = torch.arange(max(length, size))
    windows = first_windows(stream, count, length)
    whole = min(count, len(stream) // length)
    assert windows.tolist() == [list(range(n * length, (n + 1) * length)) for n in range(whole)]


@pytest.mark.parametrize(("size", "length"), [(3, 4), (0, 2), (5, 1), (5, 0), (5, -1)])
def test_windows_that_cannot_be(size, length):
    stream = torch.arange(size)
    for draw in (
        lambda: draw_windows(stream, 2, length, seeded()),
        lambda: first_windows(stream, 2, length),
    ):
        with pytest.raises(ValueError, match=rf"windows of {length} ids from {size} ids"):
            draw()
