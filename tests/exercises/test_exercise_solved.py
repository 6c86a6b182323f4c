"""Filled-in notebooks: every stub solved, all points, and the learner's object runs downstream."""

import copy
import inspect
import json
from pathlib import Path

import pytest
from exercise_samples import HEADER, as_notebook, make_spec

from course_utils.accounting.weights import weight_bytes
from course_utils.exercises import catalog
from course_utils.exercises.grading import grade_files
from course_utils.exercises.names import bound_names, free_names, free_names_of
from course_utils.exercises.solved import (
    fill_counting_stubs,
    fill_stubs,
    read_calls,
    reference_problems,
    reference_source,
)

IMPORTS = "from math import ceil\nfrom course_utils.exercises import check, exercise, progress"
STUB = HEADER + '    """Text."""\n    ...'


def test_stubs_are_filled_and_earn_all_points(tmp_path: Path) -> None:
    notebook = as_notebook(IMPORTS, "x = 1", STUB + "\n\ncheck(weight_bytes)")
    before = copy.deepcopy(notebook)
    filled = fill_stubs(notebook, "c00")
    assert notebook == before, "the notebook itself stays as it is"
    cell = filled["cells"][2]["source"]
    assert cell.startswith('@exercise("c00.weight_bytes", difficulty=1, minutes=5)\ndef')
    assert cell.endswith("\n\ncheck(weight_bytes)")
    assert "raise ValueError" in cell, "argument guards are kept"
    path = tmp_path / "solved.ipynb"
    path.write_text(json.dumps(filled), encoding="utf-8")
    assert [(row.status, row.points) for row in grade_files([path], seed=1)] == [("passed", 1)]


def test_an_answer_that_is_there_is_left_alone() -> None:
    notebook = as_notebook(HEADER + "    return 3")
    assert fill_stubs(notebook, "c00") == notebook


def test_a_stub_of_another_name_gets_a_renamed_reference() -> None:
    notebook = as_notebook(STUB.replace("def weight_bytes", "def my_bytes"))
    source = fill_stubs(notebook, "c00")["cells"][0]["source"]
    assert "def my_bytes(parameters: int" in source and "weight_bytes(" not in source


def test_renaming_touches_names_only() -> None:
    spec = make_spec(countdown)
    source = reference_source(spec, "other")
    assert "def other(n):" in source and "return other(n - 1)" in source
    assert '"countdown"' in source and "# countdown" in source


def countdown(n):
    if n == "countdown":
        return 0  # countdown
    return countdown(n - 1)


def test_reference_problems_are_all_found() -> None:
    good = as_notebook(IMPORTS, STUB)
    assert reference_problems(good, "c00") == []
    late = as_notebook(STUB, IMPORTS)
    assert reference_problems(late, "c00") == [
        "cell 1: c00.weight_bytes: its reference uses ceil, which no cell before it binds"
    ]
    solved = as_notebook(IMPORTS, HEADER + "    return 3")
    assert "is no stub" in reference_problems(solved, "c00")[0]
    assert "not in the notebook" in reference_problems(as_notebook("x = 1"), "c00")[0]
    unknown = as_notebook(IMPORTS, STUB, STUB.replace("c00.weight_bytes", "c00.other"))
    assert "c00.other is not in the catalog" in reference_problems(unknown, "c00")[0]
    twice = as_notebook(IMPORTS, STUB, STUB)
    assert "is there twice" in reference_problems(twice, "c00")[0]
    broken = as_notebook(IMPORTS, STUB, "def (")
    assert "cell 3" in reference_problems(broken, "c00")[0]


def test_a_long_reference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["def long_one(x):", *["    x += 1"] * 30, "    return x"]
    spec = make_spec()
    monkeypatch.setattr(inspect, "getsource", lambda function: "\n".join(lines))
    monkeypatch.setattr(catalog, "exercises_of", lambda chapter: (spec,))
    problems = reference_problems(
        as_notebook(STUB.replace("c00.weight_bytes", "c99.double")), "c99"
    )
    assert any("32 lines, at most 30" in problem for problem in problems)


def test_free_names_see_every_corner() -> None:
    source = """
@decorate(WHERE)
def f(a: Kind, b=DEFAULT, *rest, key=None) -> Out:
    def inner(y):
        global counter
        return [outside(z) for z in y if z in a] + counter
    class Local(Base):
        attribute = CLASS_LEVEL
    import math
    return inner(b), len(rest), math.pi, f, lambda q: q + LATER
"""
    names = "decorate WHERE Kind DEFAULT Out counter outside Base CLASS_LEVEL LATER"
    assert free_names_of(source) == set(names.split())
    assert free_names(weight_bytes) == {"ceil"}


def test_bound_names() -> None:
    source = "import a.b, c as d\nfrom e import f\ndef g(): h = 1\nclass I: pass\nfor j in k: l = m"
    assert bound_names(source) == {"a", "d", "f", "g", "I", "j", "l"}


def test_in_a_real_kernel_the_answer_runs_downstream_and_the_display_is_right() -> None:
    """A stub and a wrong answer, then the stub filled and its calls after the check counted."""
    from nbformat import from_dict

    from course_utils.commands.notebook_worker import listening_client

    downstream = "print(sum(weight_bytes(n, 8) for n in range(4)))"
    wrong = (
        HEADER.replace("def weight_bytes", "def attempt")
        + "    print(display(3)); return parameters * 16"
    )
    notebook = as_notebook(
        IMPORTS, wrong, "check(attempt)", STUB, "check(weight_bytes)", downstream, 'progress("c00")'
    )
    stubs, counting = (
        listening_client(from_dict(made), timeout=60).execute()
        for made in (notebook, fill_counting_stubs(notebook, "c00"))
    )
    assert len(stubs["cells"][2]["outputs"]) == 1, "what the answer displays is caught"
    failed = stubs["cells"][2]["outputs"][0]["data"]
    assert failed["text/plain"].startswith("c00.weight_bytes: not right yet. THE COURSE'S VERSION")
    assert failed["text/html"].startswith('<div style="border-left')
    assert "not attempted" in stubs["cells"][4]["outputs"][0]["data"]["text/plain"]
    assert len(stubs["cells"][4]["outputs"]) == 1, "check shows its report once"
    assert stubs["cells"][5]["outputs"][0]["text"] == "6\n"
    assert "rest on the course's version" in stubs["cells"][6]["outputs"][0]["data"]["text/plain"]

    assert "right on all" in counting["cells"][4]["outputs"][0]["data"]["text/plain"]
    assert counting["cells"][5]["outputs"][0]["text"] == "6\n"
    assert "your own work" in counting["cells"][6]["outputs"][0]["data"]["text/plain"]
    assert read_calls(counting) == {"c00.weight_bytes": 4}


def test_unexecuted_counts_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="was it executed"):
        read_calls(fill_counting_stubs(as_notebook(IMPORTS, STUB), "c00"))
