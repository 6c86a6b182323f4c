"""`predict` keeps what the learner expects; `revisit` puts it beside what was found.

A prediction is a number, a text, or None for nobody's guess, which is fine. Predictions live in the
kernel: after a restart the cell that makes them is run again.
"""

import math
import numbers
from collections.abc import Mapping

from course_utils.exercises.panel import Panel, Table, show

Value = float | int | str

_predictions: dict[str, tuple[Value | None, str]] = {}  # name to value and unit


def predict(name: str, value: Value | None, unit: str = "") -> None:
    """Note a prediction under a name; None for none."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"a prediction needs a name, a text such as 'loss after 300 steps': {name!r}"
        )
    value = _checked(name, value)
    _predictions[name] = (value, unit)
    if value is None:
        said = f"no prediction: fine. Put a number in place of None to compare it later ({name})."
    else:
        said = f"prediction noted: {name}: {_shown(value, unit)}"
    show(Panel(said, (), "quiet"))


def revisit(found: Mapping[str, Value] | None = None, /, **named: Value) -> None:
    """Show each value found beside its prediction: revisit({"loss": 3.2}) or revisit(loss=3.2)."""
    values = {**(found or {}), **named}
    if not values:
        raise ValueError("revisit needs what was found: revisit({'loss after 300 steps': 3.2})")
    if unknown := [name for name in values if name not in _predictions]:
        known = ", ".join(_predictions) or "none"
        raise ValueError(
            f"no predict(...) was run for {', '.join(unknown)}: run that cell, or use its name "
            f"(known: {known})"
        )
    rows = tuple(_row(name, _checked(name, value)) for name, value in values.items())
    header = ("question", "you said", "found", "compared")
    show(Panel("Your predictions and what was found", (Table(header, rows),), "note"))


def _row(name: str, found: Value | None) -> tuple[str, str, str, str]:
    said, unit = _predictions[name]
    if said is None:
        return name, "-", _shown(found, unit), "no prediction"
    return name, _shown(said, unit), _shown(found, unit), compared(said, found)


def compared(said: Value, found: Value | None) -> str:
    """How far a prediction was off, in words."""
    if isinstance(said, str) or isinstance(found, str) or found is None:
        alike = str(said).strip().lower() == str(found).strip().lower()
        return "as you said" if alike else "otherwise"
    if math.isclose(said, found, rel_tol=0.005):
        return "as you said"
    if not math.isfinite(said) or not math.isfinite(found):
        return "not comparable"
    if said == 0 or found == 0 or (said > 0) != (found > 0):
        return f"{_shown(abs(found - said))} {'more' if found > said else 'less'} than you said"
    ratio = abs(found) / abs(said)
    if 0.8 <= ratio <= 1.25:
        return f"close: {abs(ratio - 1):.0%} {'more' if ratio > 1 else 'less'} than you said"
    factor = max(ratio, 1 / ratio)
    return f"{_shown(factor)} times {'more' if ratio > 1 else 'less'} than you said"


def _checked(name: str, value: object) -> Value | None:
    """A number or text as plain Python; one-element tensors and arrays become numbers."""
    if hasattr(value, "item") and not isinstance(value, numbers.Number):
        value = value.item()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, numbers.Real):
        return value if isinstance(value, int) else float(value)
    kind = type(value).__name__
    raise ValueError(f"{name!r}: got a {kind}; give a number, a text, or None")


def _shown(value: Value | None, unit: str = "") -> str:
    if isinstance(value, float):
        number = f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}"
    else:
        number = f"{value:,}" if isinstance(value, int) else str(value)
    return f"{number} {unit}".strip()
