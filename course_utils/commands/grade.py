"""`course grade`: mark handed-in notebooks with the exercises' own checks.

The grading itself is in `course_utils.exercises.grading`; here are the command's arguments, a
progress bar, the files it writes, and the class matrix on the screen.
"""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from course_utils.commands.errors import BadArgumentError, CommandError


def grade(
    files: list[Path], csv: Path | None, json: Path | None, seed: int | None, console: Console
) -> None:
    """Grade the files, write what was asked for, show the matrix.

    Raises CommandError, after all of that, when a file could not be read.
    """
    _check(files, csv, json)
    from course_utils.exercises import grading

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("grading", total=len(files))
        rows = grading.grade_files(files, seed=seed, on_file=lambda _: progress.advance(task))
    if csv is not None:
        grading.write_csv(rows, csv)
    if json is not None:
        grading.write_json(rows, json)
    console.print(grading.class_matrix(rows))
    if rows:
        console.print(f"inputs made from seed {rows[0].seed}: --seed {rows[0].seed} repeats them")
    if unreadable := [row.file for row in rows if row.status == "unreadable"]:
        raise CommandError(f"not graded: {', '.join(unreadable)} (the reasons stand above)")


def _check(files: list[Path], csv: Path | None, json: Path | None) -> None:
    for file in files:
        if not file.is_file():
            raise BadArgumentError(f"no such file: {file}")
        if file.suffix != ".ipynb":
            raise BadArgumentError(f"{file} is no notebook: its name must end in .ipynb")
    for option, path in (("--csv", csv), ("--json", json)):
        if path is not None and not path.absolute().parent.is_dir():
            raise BadArgumentError(f"{option} {path}: there is no folder {path.parent}")
        if path is not None and path.suffix == ".ipynb":
            raise BadArgumentError(f"{option} {path} would overwrite a notebook")
