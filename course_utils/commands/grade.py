"""`course grade`: mark handed-in notebooks with the exercises' own checks."""

from collections.abc import Callable
from pathlib import Path

from course_utils.commands.errors import BadArgumentError


def grade(
    files: list[Path], csv: Path | None, json: Path | None, say: Callable[[str], None]
) -> None:
    """Grade the files, write what was asked for, and show the class matrix."""
    for file in files:
        if not file.is_file():
            raise BadArgumentError(f"no such file: {file}")
        if file.suffix != ".ipynb":
            raise BadArgumentError(f"{file} is no notebook: its name must end in .ipynb")
    from course_utils.exercises import grading

    grades = grading.grade_files(files)
    if csv is not None:
        grading.write_csv(grades, csv)
    if json is not None:
        grading.write_json(grades, json)
    say(str(grading.class_matrix(grades)))
