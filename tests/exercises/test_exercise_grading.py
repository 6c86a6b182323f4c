"""Grading: what is taken from a notebook, what cannot be tricked, what cannot be stopped."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exercise_samples import HEADER

from course_utils.exercises.cells import python_only
from course_utils.exercises.extract import extract
from course_utils.exercises.grading import (
    GradeRow,
    class_matrix,
    grade_files,
    learner_names,
    write_csv,
    write_json,
)

RIGHT = "    return ceil(parameters * bits_per_weight / 8)\n"
WRONG = "    return parameters * bits_per_weight\n"


def grade(*paths: Path, **options: object) -> list[GradeRow]:
    """Quick limits and one seed."""
    return grade_files(paths, **{"seed": 3, "time_limit": 4.0, "memory_mb": 500, **options})


def source_of(path: Path) -> str:
    return extract(path).answers["c00.weight_bytes"].source


def test_helpers_imports_and_constants_of_other_cells_are_taken(notebook: Callable) -> None:
    path = notebook(
        "%matplotlib inline\n!ls\nweight_bytes?\nimport math as m\nBITS: int = 8\nONE, TWO = 1, 2",
        HEADER + "    return rounded_up(parameters * bits_per_weight / BITS) * ONE",
        "%%time\ndef rounded_up(x):\n    return Rounding().up(x)",
        "class Rounding:\n    def up(self, x): return m.ceil(x)",
        "%%bash\nthis is no python",
        "raise SystemExit",
    )
    assert extract(path).answers["c00.weight_bytes"].unresolved == ()
    (row,) = grade(path)
    assert (row.status, row.points, row.seed, row.learner) == ("passed", 1, 3, "learner")


def test_the_last_definition_counts(notebook: Callable) -> None:
    imports = "from math import ceil"
    path = notebook(imports, HEADER + RIGHT, HEADER + WRONG)
    assert grade(path)[0].diagnosis == "bits instead of bytes"
    path = notebook(imports, "D = 4", HEADER + WRONG, HEADER + RIGHT.replace("8", "D"), "D = 8")
    assert grade(path)[0].status == "passed"


def test_only_what_is_needed_is_taken(notebook: Callable) -> None:
    path = notebook(
        "from math import ceil\nimport os, sys\nimport course_utils.accounting.weights as library",
        "library.weight_bytes = lambda *a: 0\nUNUSED = 3\ndef unused(): ...",
        HEADER + RIGHT,
        "check(weight_bytes)",
    )
    kept = source_of(path)
    assert "from math import ceil" in kept
    assert not any(word in kept for word in ("library", "UNUSED", "unused", "import os", "check"))


def test_what_cannot_be_taken_is_reported_by_name(notebook: Callable) -> None:
    path = notebook(
        "model = make_model()\nTABLE = [1]\nTABLE += [2]",
        HEADER + "    return model(parameters) + TABLE[0] + nowhere",
    )
    assert extract(path).answers["c00.weight_bytes"].unresolved == ("TABLE", "model", "nowhere")
    (row,) = grade(path)
    assert row.status == "failed" and "it uses TABLE, model, nowhere, which no cell" in row.message
    assert "NameError" in row.message


def test_another_exercises_function_is_the_courses(notebook: Callable) -> None:
    path = notebook(
        HEADER + "    return other(parameters, bits_per_weight)",
        '@exercise("c00.weight_bytes")\ndef other(a, b):\n    return 0',
        HEADER + "    return other(parameters, bits_per_weight)",
    )
    assert "from course_utils.accounting.weights import weight_bytes as other" in source_of(path)


def test_other_decorators_star_imports_and_guarded_imports_are_kept(notebook: Callable) -> None:
    path = notebook(
        "from math import *\ntry:\n    import torch as t\nexcept ImportError:\n    t = None",
        "import functools",
        HEADER.replace("\ndef", "\n@functools.cache\ndef") + "    t\n" + RIGHT,
    )
    kept = source_of(path)
    assert "@functools.cache" in kept and "import torch as t" in kept and "math import *" in kept
    assert grade(path)[0].status == "passed"


def test_an_edited_check_cell_changes_nothing(notebook: Callable) -> None:
    path = notebook(
        "from course_utils.exercises import exercise, judge\njudge.judge = lambda *a, **k: True",
        HEADER + WRONG,
        "def check(answer):\n    answer.status = 'passed'\n    print('right on all 9 inputs')",
        "check(weight_bytes)",
    )
    (row,) = grade(path)
    assert (row.status, row.points, row.diagnosis) == ("failed", 0, "bits instead of bytes")
    assert row.diagnosis_text.startswith("Your result is about 8 times too large")


def test_a_stub_scores_nothing(notebook: Callable) -> None:
    (row,) = grade(notebook(HEADER + '    """Text."""\n    ...'))
    assert (row.status, row.points) == ("not attempted", 0)


def test_calling_the_librarys_function_is_no_answer(notebook: Callable) -> None:
    path = notebook(
        "from course_utils.accounting import weights as w\nmine = w.weight_bytes",
        HEADER + "    return mine(parameters, bits_per_weight)",
    )
    (row,) = grade(path)
    assert row.status == "failed" and "calls the course's own version of itself" in row.message


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("    while True:\n        try: pass\n        except: pass", "time limit", "in time"),
        ("    import re; re.match('(a+)+$', 'a' * 60 + 'b')", "time limit", ""),
        ("    import os; os._exit(3)", "crashed", "exit code 3"),
        ("    import os; os.kill(os.getpid(), 11)", "crashed", "signal 11"),
        ("    return len(bytearray(10**10))", "memory limit", "MemoryError"),
        ("    import sys; sys.exit(0)", "failed", "SystemExit"),
        ("    print('x' * 10**6); return 'y' * 10**6", "failed", "a text ("),
        ("    raise ValueError('\\ud800')", "failed", "ValueError"),
    ],
)
def test_a_nasty_answer_is_blamed_itself(
    notebook: Callable, body: str, status: str, words: str, tmp_path: Path
) -> None:
    rows = grade(notebook(HEADER + body))
    assert rows[0].status == status and words in rows[0].message
    assert len(rows[0].message) < 1000
    write_csv(rows, tmp_path / "rows.csv")
    write_json(rows, tmp_path / "rows.json")


def test_a_hang_while_loading_is_blamed_as_well(notebook: Callable) -> None:
    path = notebook("class Endless:\n    while True: pass", HEADER + "    return Endless()")
    (row,) = grade(path, time_limit=2.0)
    assert row.status == "time limit" and "definitions that it needs" in row.message


def test_a_hard_hang_is_killed_and_the_rest_is_graded() -> None:
    """Signals blocked, so that only killing the process helps; then the next answer's turn."""
    from course_utils.exercises.extract import Answer
    from course_utils.exercises.supervise import supervise

    blocked = "import signal\ndef f(p, b):\n"
    blocked += (
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n    while True: pass"
    )
    answers = [Answer("c00.weight_bytes", "f", blocked, False)]
    outcome = supervise(answers, seed=1, time_limit=2.0, memory_mb=500)["c00.weight_bytes"]
    assert (outcome.status, outcome.message) == ("time limit", "it did not finish within 2 seconds")


def test_after_a_crash_a_new_worker_takes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    from course_utils.exercises import supervise as module
    from course_utils.exercises.extract import Answer

    answers = [Answer(name, "f", "", False) for name in ("c01.a", "c01.b", "c01.c")]
    asked = []

    def one_worker(left, job, limit):
        asked.append([answer.exercise for answer in left])
        return {left[0].exercise: module.Outcome("crashed")}

    monkeypatch.setattr(module, "_one_worker", one_worker)
    assert len(module.supervise(answers, seed=1, time_limit=1, memory_mb=1)) == 3
    assert asked == [["c01.a", "c01.b", "c01.c"], ["c01.b", "c01.c"], ["c01.c"]]


def test_bad_files_get_a_row_each_and_the_rest_is_graded(
    notebook: Callable, tmp_path: Path
) -> None:
    texts = {
        "truncated.ipynb": '{"cells": [{"cell_type": "co',
        "list.ipynb": "[1, 2]",
        "empty.ipynb": "",
        "notes.txt": "hello",
        "binary.ipynb": b"\xff\xfe\x00",
        "none.py": "x = 1",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    good = notebook("from math import ceil", HEADER + RIGHT, name="good.ipynb")
    files = [*(tmp_path / name for name in texts), tmp_path / "absent.ipynb", tmp_path, good]
    rows = grade(*files)
    assert [row.status for row in rows] == ["unreadable"] * 8 + ["passed"]
    messages = " | ".join(row.message for row in rows)
    for words in ("damaged or not a notebook", "give a notebook (.ipynb)", "no such file"):
        assert words in messages
    assert "no @exercise function in it" in messages


def test_an_unknown_exercise_and_a_broken_cell_are_reported(notebook: Callable) -> None:
    path = notebook(
        "from math import ceil",
        "def broken(:",
        '@exercise("c00.nothing")\ndef nothing(): return 1',
        HEADER + RIGHT,
    )
    rows = {row.exercise: row for row in grade(path)}
    assert rows["c00.weight_bytes"].status == "passed"
    assert "cell 2, line 1 is skipped" in rows["c00.weight_bytes"].message
    assert rows["c00.nothing"].status == "unknown exercise"
    assert "chapter c00 has c00.weight_bytes" in rows["c00.nothing"].message


def test_a_python_file_is_graded(tmp_path: Path) -> None:
    path = tmp_path / "answers.py"
    path.write_text(f"from math import ceil\n\n{HEADER}{RIGHT}", encoding="utf-8")
    assert [row.status for row in grade(path)] == ["passed"]


def test_seeds_are_fresh_recorded_and_repeatable(notebook: Callable) -> None:
    path = notebook(HEADER + "    return parameters - 100")
    fresh = [grade(path, seed=None)[0].seed for _ in range(2)]
    assert fresh[0] != fresh[1]
    assert grade(path, seed=fresh[0]) == grade(path, seed=fresh[0])
    with pytest.raises(ValueError, match="must be above 0"):
        grade(path, time_limit=0)


def test_learners_are_told_apart() -> None:
    assert learner_names([Path("anna.ipynb"), Path("ben.ipynb")]) == ["anna", "ben"]
    assert learner_names([Path("anna/02.ipynb"), Path("ben/02.ipynb")]) == ["anna/02", "ben/02"]
    assert learner_names([Path("a/x.py"), Path("a/x.ipynb")]) == ["a/x.py", "a/x.ipynb"]
    assert learner_names([]) == []


def rows_of_a_class() -> list[GradeRow]:
    """Two learners, two exercises, one unreadable file."""
    return [
        GradeRow("anna", "c09.a", "passed", 1),
        GradeRow("anna", "c09.b", "failed", 0, "no root", "Take the root.", "for x = 1: ..."),
        GradeRow("ben", "c09.a", "not attempted", 0),
        GradeRow("ben", "c09.b", "failed", 0, "no root", "Take the root.", "=1+1"),
        GradeRow("eve", "", "unreadable", 0, message="eve.ipynb: damaged"),
    ]


def test_the_class_matrix_shows_where_the_class_is_stuck() -> None:
    matrix = class_matrix(rows_of_a_class())
    assert matrix.matrix.rows == (
        ("anna", "passed", "no root", "1"),
        ("ben", "not attempted", "no root", "0"),
    )
    assert matrix.summary.rows == (
        ("c09.a", "1 of 2", "1", "-"),
        ("c09.b", "2 of 2", "0", "no root (2)"),
    )
    assert "eve: eve.ipynb: damaged" in str(matrix)
    assert str(class_matrix([])).startswith("Learner by exercise")


def test_the_class_matrix_is_drawn_by_rich() -> None:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    console.print(class_matrix(rows_of_a_class()))
    assert "no root (2)" in console.file.getvalue() and "anna" in console.file.getvalue()


def test_csv_and_json_hold_every_row(tmp_path: Path) -> None:
    rows = rows_of_a_class()
    write_csv(rows, tmp_path / "rows.csv")
    write_json(rows, tmp_path / "rows.json")
    with open(tmp_path / "rows.csv", encoding="utf-8-sig", newline="") as file:
        read = list(csv.DictReader(file))
    assert [line["learner"] for line in read] == ["anna", "anna", "ben", "ben", "eve"]
    assert read[3]["message"] == "'=1+1", "no formula for a spreadsheet"
    assert json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))[1] == vars(rows[1])


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("x = 1", "x = 1"),
        ("%time x\ny = 2", "pass\ny = 2"),
        ("if x:\n    !ls\n", "if x:\n    pass\n"),
        ("files = !ls\nlen?", "pass\npass"),
        ("%%bash\nls", ""),
        ("%%timeit\nx = 1", "pass\nx = 1"),
        ("text = '''\n%d\n!x\n'''", "text = '''\n%d\n!x\n'''"),
    ],
)
def test_only_python_is_kept(source: str, kept: str) -> None:
    assert python_only(source) == kept
