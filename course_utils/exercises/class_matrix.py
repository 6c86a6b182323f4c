"""Where a class is stuck: learner by exercise by diagnosis, and a summary of each exercise.

`print(matrix)` is plain text; `rich.print(matrix)` and a rich console draw tables.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from course_utils.exercises.panel import Panel, Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_NOT_TRIED = ("not attempted", "missing")


class _Row(Protocol):
    learner: str
    exercise: str
    status: str
    points: int
    diagnosis: str
    message: str


@dataclass(frozen=True)
class ClassMatrix:
    """The tables, and lines about files that could not be graded."""

    matrix: Table
    summary: Table
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        panels = [Panel("Learner by exercise", (self.matrix,))]
        panels.append(Panel("Exercise by exercise", (self.summary,)))
        return "\n\n".join([*map(repr, panels), *self.problems])

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.table import Table as RichTable
        from rich.text import Text

        tables = (("Learner by exercise", self.matrix), ("Exercise by exercise", self.summary))
        for title, table in tables:
            drawn = RichTable(title=title, title_justify="left")
            for name in table.header:
                drawn.add_column(name, overflow="fold")
            for row in table.rows:
                drawn.add_row(*(Text(cell, _style(cell)) for cell in row))
            yield drawn
        yield from map(Text, self.problems)


def class_matrix(rows: Iterable[_Row]) -> ClassMatrix:
    """Arrange the rows that `grade_files` returned."""
    rows = list(rows)
    graded = [row for row in rows if row.exercise and row.status != "unknown exercise"]
    learners = list(dict.fromkeys(row.learner for row in graded))
    exercises = list(dict.fromkeys(row.exercise for row in graded))
    cells = {(row.learner, row.exercise): row.diagnosis or row.status for row in graded}
    points = dict.fromkeys(learners, 0)
    for row in graded:
        points[row.learner] += row.points
    body = tuple(
        (learner, *(cells.get((learner, name), "-") for name in exercises), str(points[learner]))
        for learner in learners
    )
    summary = tuple(_summary(name, [r for r in graded if r.exercise == name]) for name in exercises)
    header = ("exercise", "attempted", "passed", "most common difficulty")
    problems = tuple(f"{row.learner}: {row.message}" for row in rows if row not in graded)
    return ClassMatrix(
        Table(("learner", *exercises, "points"), body), Table(header, summary), problems
    )


def _summary(name: str, rows: Sequence[_Row]) -> tuple[str, str, str, str]:
    tried = [row for row in rows if row.status not in _NOT_TRIED]
    passed = sum(row.status == "passed" for row in rows)
    stuck = Counter(row.diagnosis or row.status for row in tried if row.status != "passed")
    common = [f"{what} ({count})" for what, count in stuck.most_common(1)]
    return name, f"{len(tried)} of {len(rows)}", str(passed), "".join(common) or "-"


def _style(cell: str) -> str:
    return {"passed": "green", "not attempted": "dim", "missing": "dim"}.get(cell, "")
