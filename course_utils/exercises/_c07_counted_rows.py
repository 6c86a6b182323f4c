"""Cached rows that count the numbers which products make of them (chapter 07).

The guard of `c07.mla_absorbed`: an answer that expands every row to all heads has the right values
and makes N + V numbers per head where the absorbed form makes one score. The rows are an ordinary
tensor to whoever uses them; what is cut out of them, turned or reshaped counts on in the same
counter, and a product of them is a plain tensor again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.exercises._c03_counted_weights import PRODUCTS


class CountedRows(Tensor):
    """A tensor (B, S, R + P) with an integer `work`: numbers that products have made of it."""

    counter: list[int]

    @property
    def work(self) -> int:
        return self.counter[0]

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        counter = _counter((args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func.__name__ in PRODUCTS and counter is not None:
            counter[0] += result.numel()
            return result
        return result if counter is None else _counted(result, counter)


def counted_rows(rows_BSC: Tensor) -> CountedRows:
    """The same numbers, with a counter that begins at 0."""
    return _counted(rows_BSC.clone(), [0])


def _counter(value: Any) -> list[int] | None:
    if isinstance(value, CountedRows):
        return value.counter
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((c for c in map(_counter, value) if c is not None), None)
    return None


def _counted(result: Any, counter: list[int]) -> Any:
    if type(result) in (tuple, list):
        return type(result)(_counted(part, counter) for part in result)
    if isinstance(result, Tensor) and not hasattr(result, "counter"):
        result = result.as_subclass(CountedRows)
        result.counter = counter
    return result
