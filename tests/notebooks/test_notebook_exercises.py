"""Every notebook with its exercises: answers fit in, count as right, and run in the cells below.

Filled with the course's answers, a notebook gets all points from the grader. Filled with counting
answers, it must call each of them after its check: that proves that the cells below the exercise
run the learner's object. Both checks are proved to fail on a notebook made to break them.
"""

import json
import random
from pathlib import Path
from typing import Any

import nbformat
import pytest
from chapter import NOTEBOOKS, Chapter

from course_utils.commands.notebook_worker import listening_client
from course_utils.exercises import catalog, grading, solved


def _short(path: Path) -> str:
    return f"c{path.name[:2]}"


def never_called(notebook: dict[str, Any], chapter: str, folder: Path) -> list[str]:
    """Execute the notebook with counting answers; the exercises that no later cell called.

    It stops as soon as every answer was called: cells further down cannot change that.
    """
    filled = nbformat.reads(json.dumps(solved.fill_counting_stubs(notebook, chapter)), as_version=4)
    client = listening_client(filled, timeout=300, resources={"metadata": {"path": str(folder)}})
    *cells, counts = [n for n, cell in enumerate(filled.cells) if cell.cell_type == "code"]
    names = [spec.name for spec in catalog.exercises_of(chapter)]
    missing = names
    with client.setup_kernel():
        client.on_notebook_start()
        for number in cells:
            client.execute_cell(filled.cells[number], number)
            client.execute_cell(filled.cells[counts], counts)
            calls = solved.read_calls(filled)
            missing = [name for name in names if not calls.get(name)]
            if not missing:
                break
    return missing


def points(notebook: dict[str, Any], chapter: str, folder: Path) -> dict[str, int]:
    """The points that the grader gives to the notebook with the course's answers filled in."""
    file = folder / "solved.ipynb"
    file.write_text(json.dumps(solved.fill_stubs(notebook, chapter)), encoding="utf-8")
    return {row.exercise: row.points for row in grading.grade_files([file], seed=0)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_references_are_short_and_use_imported_names(path):
    problems = solved.reference_problems(Chapter(path).raw, _short(path))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solved_notebook_gets_all_points(path, tmp_path):
    found = points(Chapter(path).raw, _short(path), tmp_path)
    assert found == {spec.name: 1 for spec in catalog.exercises_of(_short(path))}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_below_run_the_learners_object(path):
    assert never_called(Chapter(path).raw, _short(path), path.parent) == []


@pytest.fixture
def small():
    """A notebook around the first exercise of the catalog, and what its cells may be."""
    chapter = catalog.chapters()[0]
    spec = catalog.exercises_of(chapter)[0]
    module = spec.reference.__module__
    name = spec.name.partition(".")[2]
    args, kwargs = spec.cases(random.Random(0))[0].build()

    def make(*below: str) -> dict[str, Any]:
        sources = [
            "from course_utils.exercises import check, exercise\n"
            f"from {module} import *\nimport math, torch",
            f'@exercise("{spec.name}", difficulty=1, minutes=5)\n'
            f"def {name}(*args, **kwargs):\n    ...\n\n\ncheck({name})",
            *below,
        ]
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        return nbformat.v4.new_notebook(cells=cells)

    return spec, make, f"{name}(*{args!r}, **{kwargs!r})"


def test_an_answer_that_nothing_calls_is_told(small, tmp_path):
    spec, make, call = small
    assert spec.name in never_called(make(), spec.chapter, tmp_path)
    assert spec.name not in never_called(make(call), spec.chapter, tmp_path)


def test_an_exercise_that_is_no_stub_is_told(small):
    spec, make, _ = small
    notebook = make()
    notebook["cells"][1]["source"] = notebook["cells"][1]["source"].replace("...", "return 1", 1)
    problems = solved.reference_problems(notebook, spec.chapter)
    assert any("is no stub" in problem for problem in problems)


def test_an_answer_that_is_wrong_gets_no_point(small, tmp_path):
    spec, make, _ = small
    notebook = make()
    notebook["cells"][1]["source"] = notebook["cells"][1]["source"].replace("...", "return 1", 1)
    assert points(notebook, spec.chapter, tmp_path)[spec.name] == 0
    assert points(make(), spec.chapter, tmp_path)[spec.name] == 1
