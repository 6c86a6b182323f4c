"""`course bench`: side-by-side measurements, each in a process of its own.

Every `benchmarks/bench_NAME.py` has `run() -> list[dict]`, whose rows have name, ours, peer, ratio
and target. What is measured is shown, and never decides over success: only a benchmark that breaks
makes the command fail, because a slow machine is no fault.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from course_utils import paths
from course_utils.commands.errors import BadArgumentError, CommandError

COLUMNS = ("name", "ours", "peer", "ratio", "target")
Row = dict[str, Any]


def benchmarks() -> dict[str, Path]:
    """The benchmarks of the checkout by name. Raises CommandError outside a clone."""
    try:
        folder = paths.checkout() / "benchmarks"
    except FileNotFoundError as error:
        raise CommandError(str(error)) from error
    files = sorted(folder.glob("bench_*.py"))
    return {path.stem.removeprefix("bench_"): path for path in files}


def choose(name: str | None) -> dict[str, Path]:
    """The benchmark of that name, or all of them."""
    known = benchmarks()
    if name is None:
        return known
    if name not in known:
        names = ", ".join(known) or "none yet"
        raise BadArgumentError(f"unknown benchmark {name!r}: the benchmarks are {names}")
    return {name: known[name]}


def measure(path: Path) -> list[Row]:
    """Run one benchmark in a fresh process. Raises CommandError with its last line of error."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "course_utils.commands.bench", str(path), str(result)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CommandError(f"{path.name}: {lines[-1]}")
        return json.loads(result.read_text(encoding="utf-8"))


def check_rows(rows: Any, path: Path) -> list[Row]:
    """Raise ValueError unless the rows have the agreed columns."""
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path.name}: run() gave {rows!r}, expected a list of rows")
    for row in rows:
        missing = [column for column in COLUMNS if column not in row]
        if missing:
            raise ValueError(f"{path.name}: a row lacks {', '.join(missing)}: {row}")
    return rows


def cell(value: Any) -> str:
    """A value as the table shows it."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the file named first, and write its rows into the file named second."""
    path, result = Path(sys.argv[1]), Path(sys.argv[2])
    sys.path.insert(0, str(path.parent))  # benchmarks share helpers
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = check_rows(module.run(), path)
    result.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
