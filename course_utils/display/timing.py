"""Speed as a ratio: two ways to do one thing, measured in turns in one process.

Alternating keeps a slow moment of the machine from hitting one side alone; the median ignores the
outliers. A ratio is shown and no seconds, because seconds belong to a machine.
"""

import statistics
import time
from collections.abc import Callable


def alternate(
    one: Callable[[], object], other: Callable[[], object], rounds: int = 5
) -> tuple[float, float]:
    """Median seconds of both functions, run in turns `rounds` times after one warm-up each."""
    one(), other()
    pairs = [(seconds(one), seconds(other)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
