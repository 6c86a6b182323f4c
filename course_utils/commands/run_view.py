"""How `course run` looks: a progress bar while it runs, a table and the failures at the end."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from course_utils.commands.run import Outcome


class View:
    """A context manager; call it with the outcomes whenever they may have changed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(
            *columns, TextColumn("cells"), TimeElapsedColumn(), console=console
        )
        self._tasks: dict[str, int] = {}
        self._told: set[str] = set()

    def __enter__(self) -> "View":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, outcomes: list[Outcome]) -> None:
        for one in outcomes:
            if one.notebook not in self._tasks:
                self._tasks[one.notebook] = self._progress.add_task(one.notebook, total=None)
            task = self._tasks[one.notebook]
            done = one.cells if one.status == "passed" else one.done
            self._progress.update(task, total=one.cells or None, completed=done)
            if one.status != "running" and one.notebook not in self._told:
                self._told.add(one.notebook)
                self._progress.stop_task(task)


def show_summary(outcomes: list[Outcome], console: Console) -> None:
    """One row a notebook; then, for each failure, the cell and the error in short."""
    table = Table("notebook", "status")
    for heading in ("seconds", "kernel peak MB", "cells"):
        table.add_column(heading, justify="right")
    for one in sorted(outcomes, key=lambda outcome: outcome.notebook):
        peak, cells = f"{one.peak_bytes / 1e6:.0f}", f"{one.done}/{one.cells}"
        table.add_row(one.notebook, one.status, f"{one.seconds:.1f}", peak, cells)
    console.print(table)
    for one in outcomes:
        if one.status != "passed":
            where = f"in cell [{one.done}]" if one.done else "before its first cell"
            console.print(
                f"{one.notebook}: {one.status} {where}: {one.error}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
