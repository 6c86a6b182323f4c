"""Discrete events: what happens next, at which moment, without any clock of the machine.

The queue is a heap of (time, rank, sequence number). Things that happen at one moment happen by
rank, and within a rank in the order in which they were asked for, so that a run never depends on
the order of a dict or a set. Time is in seconds and only moves forward.

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
        self._heap: list[tuple] = []
        self._numbers = count()

    def at(self, time: float, action: Callable, *arguments, rank: int = 0) -> None:
        """Let `action(*arguments)` happen at `time` (seconds). Raises ValueError for the past."""
        if not (self.now <= time < math.inf):
            raise ValueError(f"event at {time} s, but it is {self.now} s: choose a later time")
        heapq.heappush(self._heap, (time, rank, next(self._numbers), action, arguments))

    def run(self, until: float = math.inf) -> None:
        """Let everything up to `until` (seconds) happen; by default, until nothing is left."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
