"""Tables for numbers that are compared: plain text in a terminal, HTML in a notebook."""

from collections.abc import Iterable, Sequence

from course_utils.exercises.panel import Panel, Table, show


def show_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Show rows under a header. Floats get three significant digits, whole numbers commas."""
    cells = tuple(tuple(as_text(value) for value in row) for row in rows)
    show(Panel(title, (Table(tuple(header), cells),), "quiet"))


def as_text(value: object) -> str:
    """A table's way to write a value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
