"""Values in words: short, the same on every machine, without addresses.

A tensor shows its shape, its dtype and, when small, its numbers; a long text or list its beginning.
"""

import math
import re
import sys
from typing import Any

_MANY, _LONG, _DEEP = 12, 80, 6


def is_tensor(value: Any) -> bool:
    """True for a torch tensor; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """True for a numpy array; never imports numpy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def number(value: Any, digits: int = 6) -> str:
    """A number with at most `digits` significant digits; whole numbers in full."""
    if isinstance(value, bool) or not isinstance(value, float | complex):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return f"{value:.{digits}g}"


def count(many: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "1 token", "2 tokens"; `plural` where an s is not enough."""
    return f"{many} {noun if many == 1 else plural or noun + 's'}"


def value(thing: Any, depth: int = 0) -> str:
    """Any value, in one short line; a list inside a list inside a list ends in dots."""
    if depth > _DEEP:
        return "..."
    if is_tensor(thing) or is_array(thing):
        return _tensor(thing)
    if isinstance(thing, str | bytes):
        return _shortened(repr(thing))
    if isinstance(thing, bool) or thing is None:
        return str(thing)
    if isinstance(thing, int | float | complex):
        return number(thing)
    if isinstance(thing, dict):
        return _series([f"{value(k)}: {value(v, depth + 1)}" for k, v in thing.items()], "{", "}")
    if type(thing) is tuple and len(thing) == 1:
        return f"({value(thing[0], depth + 1)},)"
    if isinstance(thing, tuple | list):
        opening, closing = ("(", ")") if isinstance(thing, tuple) else ("[", "]")
        return _series([value(part, depth + 1) for part in thing], opening, closing)
    return _object(thing)


def kind(thing: Any) -> str:
    """The type of a value in words: "a tensor of shape (2, 3)", "None", "a list of 4"."""
    if thing is None:
        return "None"
    if is_tensor(thing) or is_array(thing):
        name = "tensor" if is_tensor(thing) else "numpy array"
        return f"a {name} of shape {tuple(thing.shape)}"
    if isinstance(thing, tuple | list | dict):
        return f"a {type(thing).__name__} of {len(thing)}"
    name = {"int": "whole number", "str": "text", "bool": "truth value"}
    name = name.get(type(thing).__name__, type(thing).__name__)
    article = "an" if name[0] in "aeiouAEIOU" else "a"
    shown = f" ({value(thing)})" if isinstance(thing, int | float | str) else ""
    return f"{article} {name}{shown}"


def dtype(thing: Any) -> str:
    """The dtype of a tensor or array without its library's name: float32."""
    return str(thing.dtype).removeprefix("torch.")


def _tensor(thing: Any) -> str:
    name = "tensor" if is_tensor(thing) else "array"
    head = f"{name} of shape {tuple(thing.shape)}, {dtype(thing)}"
    count = math.prod(thing.shape)
    if count == 0:
        return f"{head}, empty"
    if count <= _MANY:
        return f"{head}: {_nested(thing.tolist())}"
    first = [number(x) for x in thing.reshape(-1)[:6].tolist()]
    return f"{head}, first values {', '.join(first)}"


def _nested(thing: Any) -> str:
    if isinstance(thing, list):
        return "[" + ", ".join(_nested(part) for part in thing) + "]"
    return number(thing)


def _series(parts: list[str], opening: str, closing: str) -> str:
    shown = parts if len(parts) <= _MANY else [*parts[:_MANY], f"... {len(parts)} in all"]
    return opening + ", ".join(shown) + closing


def _object(thing: Any) -> str:
    if callable(thing) and hasattr(thing, "__name__"):
        return f"the function {thing.__name__}"
    try:
        text = repr(thing)
    except Exception:
        text = " at 0x0"
    if re.search(r" at 0x[0-9a-fA-F]+", text):
        return f"a {type(thing).__name__}"
    return _shortened(text)


def _shortened(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= _LONG else f"{text[:_LONG]}... ({len(text)} characters)"
