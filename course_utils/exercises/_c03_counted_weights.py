"""Stacked weights that count the rows which are multiplied with them (chapter 03).

The guard of `c03.experts_loop`: an answer that computes every expert for every token has the right
values and E / k times the work. The weights are an ordinary tensor to whoever uses them; what is
cut out of them, turned or reshaped counts on in the same counter, and a product of them is a plain
tensor again.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

PRODUCTS = {
    *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "mv", "addmv"),
    *("linear", "einsum", "tensordot", "inner", "grouped_mm", "_grouped_mm"),
}


class RowCounter:
    """How many rows of width `width` were made so far."""

    def __init__(self, width: int):
        self.width, self.rows = width, 0


class CountedWeights(Tensor):
    """A tensor (E, D, F) with an integer `work`: rows of width F that it has helped to make."""

    counter: RowCounter

    @property
    def work(self) -> int:
        return self.counter.rows

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        counters = [a.counter for a in _flat((args, kwargs)) if isinstance(a, CountedWeights)]
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func.__name__ in PRODUCTS:
            counters[0].rows += result.numel() // counters[0].width
            return result
        return _counted(result, counters[0]) if counters else result


def counted_weights(weights_EDF: Tensor) -> CountedWeights:
    """The same numbers, with a counter that begins at 0."""
    return _counted(weights_EDF, RowCounter(weights_EDF.shape[-1]))


def _counted(result: Any, counter: RowCounter) -> Any:
    if isinstance(result, CountedWeights) and hasattr(result, "counter"):
        return result
    if isinstance(result, Tensor):
        result = result.as_subclass(CountedWeights)
        result.counter = counter
        return result
    if type(result) in (tuple, list):
        return type(result)(_counted(part, counter) for part in result)
    if isinstance(result, Iterator):
        return map(lambda part: _counted(part, counter), result)
    return result


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _flat(part)
    else:
        yield value
