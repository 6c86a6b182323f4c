"""Discrete events: what happens next, at which moment, without any clock of the machine.

The queue is a heap of (time, rank, sequence number). Things that happen at one moment happen by
rank, and within a rank in the order in which they were asked for, so that a run never depends on
the order of a dict or a set. Time is in seconds and only moves forward.

What is asked for at the present moment joins the rank that is at work. So nothing happens at a
rank that has passed, and rank and time together tell what came first.

Source: Law 2015, Simulation Modeling and Analysis, section 1.3 (next-event time advance).
"""

import heapq
import math
from collections.abc import Callable
from itertools import count


class EventQueue:
    """Actions by the moment at which they happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rank = 0  # of the action at work
        self._heap: list[tuple] = []
        self._numbers = count()

    def at(self, time: float, action: Callable, *arguments, rank: int = 0) -> None:
        """Let `action(*arguments)` happen at `time` (seconds). Raises ValueError for the past."""
        if not (self.now <= time < math.inf):
            raise ValueError(f"event at {time} s, but it is {self.now} s: choose a later time")
        if time == self.now:
            rank = max(rank, self.rank)
        heapq.heappush(self._heap, (time, rank, next(self._numbers), action, arguments))

    def run(self, until: float = math.inf) -> None:
        """Let everything up to `until` (seconds) happen; by default, until nothing is left."""
        while self._heap and self._heap[0][0] <= until:
            self.now, self.rank, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
