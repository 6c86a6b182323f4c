"""Every notebook with its exercises: answers fit in, count as right, and run in the cells below.

Filled with the course's answers, a notebook gets all points: its answers are taken out as the
grader takes them and judged by the grader's code, on the same inputs. That happens in this process;
the grader's own process with its limits would load PyTorch again for each notebook, and has its own
tests (and one here). Filled with counting answers, a notebook must call each of them after its
check: that proves that the cells below the exercise run the learner's object (see `downstream`).
Both checks are proved to fail on notebooks made to break them.
"""

import json
import random
from pathlib import Path
from typing import Any

import nbformat
import pytest
from chapter import NOTEBOOKS, Chapter
from downstream import never_called

from course_utils.exercises import catalog, grading, solved, worker
from course_utils.exercises.extract import extract
from course_utils.exercises.judge import prepare


def _short(path: Path) -> str:
    return f"c{path.name[:2]}"


def solved_file(notebook: dict[str, Any], chapter: str, folder: Path) -> Path:
    """The notebook with the course's answers filled in."""
    file = folder / "solved.ipynb"
    file.write_text(json.dumps(solved.fill_stubs(notebook, chapter)), encoding="utf-8")
    return file


def judged(file: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Status and unresolved names of each answer in a file, from the grader's code, run here."""
    found = {}
    for name, answer in extract(file).answers.items():
        task = prepare(catalog.find(name), seed=0)
        outcome = worker.graded(task, answer.function, answer.source, seconds=30.0)
        found[name] = (outcome["status"], answer.unresolved)
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_references_are_short_and_use_imported_names(path):
    problems = solved.reference_problems(Chapter(path).raw, _short(path))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solved_notebook_gets_all_points(path, tmp_path):
    found = judged(solved_file(Chapter(path).raw, _short(path), tmp_path))
    assert found == {spec.name: ("passed", ()) for spec in catalog.exercises_of(_short(path))}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_below_run_the_learners_object(path):
    names = [spec.name for spec in catalog.exercises_of(_short(path))]
    assert never_called(Chapter(path).raw, names, path.parent) == []


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


def missing(notebook: dict[str, Any], small: tuple, folder: Path) -> bool:
    """Whether nothing called the exercise."""
    return never_called(notebook, [small[0].name], folder) != []


def test_an_answer_that_nothing_calls_is_told(small, tmp_path):
    spec, make, call = small
    name, module = spec.name.partition(".")[2], spec.reference.__module__
    assert missing(make(), small, tmp_path)
    assert missing(make(f"def never():\n    return {call}"), small, tmp_path)
    assert missing(make(f"import {module} as library", f"library.{call}"), small, tmp_path)
    assert missing(make(f"from {module} import {name}", call), small, tmp_path)
    assert not missing(make(call), small, tmp_path)


def test_only_what_a_call_needs_is_run(small, tmp_path):
    _, make, call = small
    notebook = make("open('first', 'w'); shown = []", "shown.append(3)", f"x = {call}, shown[0]")
    assert not missing(notebook, small, tmp_path)
    assert not (tmp_path / "first").exists()


def test_a_loop_ends_with_the_call_and_runs_whole_where_it_is_needed(small, tmp_path):
    _, make, call = small
    loop = f"for i in range(3):\n    {call}\n    open(f'round {{i}}', 'w')"
    assert not missing(make(loop), small, tmp_path)
    assert not list(tmp_path.iterdir())
    assert not missing(make(loop.replace(call, "i"), f"{call}, i"), small, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_answer_that_is_handed_on_is_seen(small, tmp_path):
    spec, make, call = small
    name = spec.name.partition(".")[2]
    handed_on = make(
        f"table = [{name}]", "def use(f):\n    return f", f"use(table[0]){call[len(name) :]}"
    )
    assert not missing(handed_on, small, tmp_path)


def test_where_names_do_not_show_what_is_needed_the_whole_notebook_decides(small, tmp_path):
    _, make, call = small
    hidden = "def fill(items):\n    items.append(3)", "kept = []", "fill(kept)"
    assert not missing(make(*hidden, f"kept[0]; {call}", f"kept[0] and {call}"), small, tmp_path)
    with pytest.raises(RuntimeError, match="IndexError"):
        never_called(make("kept = []", "kept[0]"), [small[0].name], tmp_path)


def test_an_exercise_that_is_no_stub_is_told(small):
    spec, make, _ = small
    notebook = make()
    notebook["cells"][1]["source"] = notebook["cells"][1]["source"].replace("...", "return 1", 1)
    problems = solved.reference_problems(notebook, spec.chapter)
    assert any("is no stub" in problem for problem in problems)


def test_an_answer_that_is_wrong_gets_no_point(small, tmp_path):
    """Here, and in the grader's own process, which finds the same."""
    spec, make, _ = small
    wrong = make()
    wrong["cells"][1]["source"] = wrong["cells"][1]["source"].replace("...", "return 1", 1)
    for notebook, status in ((wrong, "failed"), (make(), "passed")):
        file = solved_file(notebook, spec.chapter, tmp_path)
        assert judged(file)[spec.name][0] == status
        rows = {row.exercise: row for row in grading.grade_files([file], seed=0)}
        assert (rows[spec.name].status, rows[spec.name].points) == (status, status == "passed")
