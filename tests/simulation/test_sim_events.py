"""The event queue: time moves forward, ties are settled, and the past is closed."""

import pytest

from course_utils.simulation.events import EventQueue


def test_order_is_time_then_rank_then_sequence():
    queue, seen = EventQueue(), []
    for time, rank, name in [(2, 0, "d"), (1, 1, "b"), (1, 0, "a"), (1, 1, "c")]:
        queue.at(time, seen.append, name, rank=rank)
    queue.run()
    assert (seen, queue.now) == (["a", "b", "c", "d"], 2)


def test_what_is_asked_for_now_happens_before_higher_ranks():
    queue, seen = EventQueue(), []
    queue.at(1, lambda: queue.at(1, seen.append, "asked"), rank=5)
    queue.at(1, seen.append, "rank 4", rank=4)
    queue.at(1, seen.append, "rank 6", rank=6)
    queue.run()
    assert seen == ["rank 4", "asked", "rank 6"]


def test_runs_up_to_a_moment():
    queue, seen = EventQueue(), []
    for time in (1, 2, 3):
        queue.at(time, seen.append, time)
    queue.run(until=2)
    assert seen == [1, 2]
    queue.run()
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("time", [0.5, float("nan"), float("inf")])
def test_the_past_and_never_are_refused(time):
    queue = EventQueue()
    queue.at(1, int)
    queue.run()
    with pytest.raises(ValueError, match="choose a later time"):
        queue.at(time, int)
