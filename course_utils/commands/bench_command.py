"""The `course bench` command: run the chosen benchmarks, show a table, write JSON if asked."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from course_utils.commands.bench import COLUMNS, Row, cell, choose, measure
from course_utils.commands.errors import CommandError


def bench_command(name: str | None, list_only: bool, out: Path | None, console: Console) -> None:
    """Measure, one benchmark after another; raise CommandError if any broke."""
    chosen = choose(name)
    if list_only:
        console.print("\n".join(chosen) or "no benchmarks yet")
        return
    rows: list[Row] = []
    broken: list[str] = []
    for label, path in chosen.items():
        console.print(f"{label} ...")
        try:
            rows += [{"benchmark": label, **row} for row in measure(path)]
        except CommandError as error:
            broken.append(str(error))
    console.print(_table(rows) if rows else "nothing measured")
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if broken:
        raise CommandError("; ".join(broken))


def _table(rows: list[Row]) -> Table:
    table = Table("benchmark")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "name" else "right")
    for row in rows:
        table.add_row(row["benchmark"], *(cell(row[column]) for column in COLUMNS))
    return table
