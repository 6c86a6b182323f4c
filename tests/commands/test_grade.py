"""`course grade`: from handed-in files to the matrix, CSV and JSON."""

import csv
import json
from pathlib import Path

import pytest

from course_utils.cli import main
from course_utils.exercises import catalog
from course_utils.exercises.spec import ExerciseSpec


@pytest.fixture
def spec() -> ExerciseSpec:
    """An exercise of the first chapter that has one."""
    return catalog.exercises_of(catalog.chapters()[0])[0]


@pytest.fixture
def hand_in(write_notebook, spec):
    """Write a hand-in whose answer has this body."""

    def write(learner: str, body: str) -> str:
        name = spec.name.partition(".")[2]
        head = f'@exercise("{spec.name}", difficulty=1, minutes=5)\ndef {name}(*args, **kwargs):\n'
        return str(write_notebook(learner, head + f"    {body}\n\ncheck({name})"))

    return write


def test_matrix_csv_and_json(hand_in, spec, capsys):
    files = [hand_in("ada", "return 'not at all'"), hand_in("ben", "...")]
    assert main(["grade", *files, "--csv", "m.csv", "--json", "m.json", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "ada" in out and "ben" in out and "--seed 5" in out
    with open("m.csv", encoding="utf-8-sig") as file:
        rows = {(row["learner"], row["exercise"]): row for row in csv.DictReader(file)}
    assert rows["ada", spec.name]["status"] == "failed"
    assert rows["ben", spec.name]["status"] == "not attempted"
    assert {row["points"] for row in rows.values()} == {"0"}
    statuses = {(row["learner"], row["status"]) for row in json.loads(Path("m.json").read_text())}
    assert ("ada", "failed") in statuses


def test_unreadable_file_fails_after_the_others_were_graded(hand_in, checkout, capsys):
    (checkout / "eve.ipynb").write_text("{")
    assert main(["grade", hand_in("ben", "..."), "eve.ipynb"]) == 1
    captured = capsys.readouterr()
    assert "not attempted" in captured.out
    assert captured.err.startswith("course: not graded: eve.ipynb")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--csv", "nowhere/m.csv"], "there is no folder nowhere"),
        (["--json", "x.ipynb"], "would overwrite a notebook"),
    ],
)
def test_bad_targets_are_told_before_grading(hand_in, typed, words, capsys):
    assert main(["grade", hand_in("ben", "..."), *typed]) == 2
    assert words in capsys.readouterr().err
