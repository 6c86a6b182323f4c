"""Where two values differ, in words: type, shape, dtype, NaN, numbers, and only then agreement.

`difference(expected, got)` walks through nested tuples, lists, dicts and dataclasses and describes
the first difference, or returns "". Numbers agree within a relative and an absolute tolerance given
for float32; wider for half precision, narrower for float64. A list is accepted for a tuple and the
other way round, and a whole number where a float is expected, since nothing downstream minds.
"""

import dataclasses
import numbers
from typing import Any

from course_utils.exercises import words

_SCALE = {"float64": 1e-3, "complex128": 1e-3, "float16": 200.0, "bfloat16": 1600.0}


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far apart numbers may be, for float32: |got - expected| <= atol + rtol * |expected|."""

    rtol: float = 1e-5
    atol: float = 1e-6

    def of(self, dtype: str) -> tuple[float, float]:
        """(rtol, atol) for a dtype by its name."""
        scale = _SCALE.get(dtype, 1.0)
        return self.rtol * scale, self.atol * scale


def difference(expected: Any, got: Any, tolerance: Tolerance, where: str = "") -> str:
    """The first difference in words, or "" when the values agree."""
    if _is_grid(expected):
        return _grids(expected, got, tolerance, where)
    if dataclasses.is_dataclass(expected) and type(expected) is type(got):
        return _mappings(vars(expected), vars(got), tolerance, where)
    if isinstance(expected, dict):
        return _of_type(dict, expected, got, where) or _mappings(expected, got, tolerance, where)
    if isinstance(expected, tuple | list):
        return _sequences(expected, got, tolerance, where)
    if isinstance(expected, numbers.Number) and not isinstance(expected, bool):
        return _numbers(expected, got, tolerance, where)
    return _others(expected, got, where)


def _is_grid(value: Any) -> bool:
    return words.is_tensor(value) or words.is_array(value)


def _wrong_type(expected: Any, got: Any, where: str) -> str:
    forgot = ": did you forget `return`?" if got is None and not where else ""
    return f"{_at(where)}{words.kind(got)} came back, expected {words.kind(expected)}{forgot}"


def _at(where: str) -> str:
    return f"in result{where}: " if where else ""


def _of_type(wanted: type | tuple, expected: Any, got: Any, where: str) -> str:
    return "" if isinstance(got, wanted) else _wrong_type(expected, got, where)


def _sequences(expected: Any, got: Any, tolerance: Tolerance, where: str) -> str:
    if problem := _of_type((tuple, list), expected, got, where):
        return problem
    if len(expected) != len(got):
        came = words.count(len(got), "item")
        return f"{_at(where)}{came} came back, expected {len(expected)}"
    parts = enumerate(zip(expected, got, strict=True))
    found = (difference(one, two, tolerance, f"{where}[{i}]") for i, (one, two) in parts)
    return next(filter(None, found), "")


def _mappings(expected: dict, got: dict, tolerance: Tolerance, where: str) -> str:
    missing = [words.value(key) for key in expected if key not in got]
    extra = [words.value(key) for key in got if key not in expected]
    if missing or extra:
        what = [f"missing: {', '.join(missing)}"] * bool(missing)
        what += [f"not expected: {', '.join(extra)}"] * bool(extra)
        return f"{_at(where)}the keys differ ({'; '.join(what)})"
    found = (
        difference(part, got[key], tolerance, f"{where}[{words.value(key)}]")
        for key, part in expected.items()
    )
    return next(filter(None, found), "")


def _numbers(expected: Any, got: Any, tolerance: Tolerance, where: str) -> str:
    whole = isinstance(expected, numbers.Integral)
    wanted = numbers.Integral if whole else numbers.Number
    if isinstance(got, bool) or not isinstance(got, wanted):
        if whole and isinstance(got, float) and got == expected:
            got_is = f"the float {got!r}"
            return f"{_at(where)}{got_is} came back, expected the whole number {expected}"
        return _wrong_type(expected, got, where)
    rtol, atol = (0, 0) if whole else (tolerance.rtol, tolerance.atol)
    same = expected == got or (expected != expected and got != got)
    if same or abs(got - expected) <= atol + rtol * abs(expected) < float("inf"):
        return ""
    return f"{_at(where)}{_pair(expected, got)}"


def _pair(expected: Any, got: Any) -> str:
    digits = next((d for d in (6, 9) if _differ(expected, got, d)), 17)
    return f"expected {words.number(expected, digits)}, got {words.number(got, digits)}"


def _differ(expected: Any, got: Any, digits: int) -> bool:
    return words.number(expected, digits) != words.number(got, digits)


def _others(expected: Any, got: Any, where: str) -> str:
    if type(expected) is not type(got):
        return _wrong_type(expected, got, where)
    if expected == got:
        return ""
    if isinstance(expected, str):
        at = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), None)
        at = min(len(expected), len(got)) if at is None else at
        text = f"the texts differ from character {at}: expected {words.value(expected[at:])}"
        return f"{_at(where)}{text}, got {words.value(got[at:])}"
    return f"{_at(where)}expected {words.value(expected)}, got {words.value(got)}"


def _grids(expected: Any, got: Any, tolerance: Tolerance, where: str) -> str:
    if not _is_grid(got) or words.is_tensor(expected) != words.is_tensor(got):
        return _wrong_type(expected, got, where)
    if tuple(expected.shape) != tuple(got.shape):
        turned = tuple(got.shape) == tuple(expected.shape)[::-1]
        shapes = f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
        return f"{_at(where)}{shapes}{' (transposed?)' if turned else ''}"
    if expected.dtype != got.dtype:
        return f"{_at(where)}dtype {words.dtype(got)}, expected {words.dtype(expected)}"
    found = _elements(_plain(expected), _plain(got), tolerance.of(words.dtype(expected)))
    return f"{_at(where)}{found}" if found else ""


def _plain(grid: Any) -> Any:
    """A numpy array of the same numbers; numpy knows no bfloat16, so floats become float64."""
    if not words.is_tensor(grid):
        return grid
    grid = grid.detach().cpu()
    return (grid.double() if grid.is_floating_point() else grid).numpy()


def _elements(expected: Any, got: Any, tolerance: tuple[float, float]) -> str:
    import numpy as np

    if np.array_equal(expected, got):
        return ""  # the usual case, and quick
    if expected.dtype.kind not in "fc":
        wrong = expected != got
        distance = wrong.astype(float)
    else:
        wrong = ~np.isclose(got, expected, *tolerance, equal_nan=True)
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.nan_to_num(np.abs(got - expected), nan=0.0, posinf=np.inf)
        for test, name in ((np.isnan, "NaN"), (np.isinf, "infinite")):
            if (bad := test(got) & ~test(expected)).any():
                return _not_finite(bad, expected, name)
    if not wrong.any():
        return ""
    at = np.unravel_index(np.argmax(np.where(wrong, distance, -1.0)), wrong.shape)
    share = f"{int(wrong.sum())} of {wrong.size} values differ"
    which = "the largest difference is" if expected.dtype.kind in "fc" else "the first is"
    pair = _pair(expected[at].item(), got[at].item())
    return f"{share}; {which} at {_place(at)}: {pair}" if at else pair


def _not_finite(bad: Any, expected: Any, name: str) -> str:
    at = tuple(int(i[0]) for i in bad.nonzero()) if bad.ndim else ()
    share = f"{int(bad.sum())} of {bad.size} values are {name}" if at else f"the value is {name}"
    first = f", the first at {_place(at)}" if at else ""
    return f"{share}{first}; expected {words.number(expected[at].item())}"


def _place(at: tuple) -> str:
    return "[" + ", ".join(str(int(i)) for i in at) + "]"
