"""The learner's copies: nothing that somebody wrote is ever lost."""

import json
from pathlib import Path

import nbformat
import pytest

from course_utils.cli import main


@pytest.fixture
def course(write_notebook, checkout, capsys):
    """Two chapters handed out into work/; gives what `course ...` printed."""
    write_notebook("00_first", "x = 1", "y = 2")
    write_notebook("02_second", "z = 3")

    def call(*typed: str) -> str:
        assert main(list(typed)) == 0
        return capsys.readouterr().out

    call("update")
    return call


def _edit(path: Path, source: str = "my answer") -> None:
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["source"] = source
    path.write_text(json.dumps(notebook))


def _answers(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def test_copies_have_no_outputs_and_keep_ids_and_tags(course):
    copy = nbformat.read("work/00_first.ipynb", as_version=4)
    nbformat.validate(copy)
    assert [cell.id for cell in copy.cells] == ["title", "a", "b"]
    assert [cell.source for cell in copy.cells] == ["# Title", "x = 1", "y = 2"]
    for cell in copy.cells[1:]:
        assert (cell.outputs, cell.execution_count, cell.metadata.tags) == ([], None, ["core"])
    source = nbformat.read("notebooks/00_first.ipynb", as_version=4)
    assert source.cells[1].execution_count == 7


def test_second_update_changes_nothing(course):
    before = {path: path.read_bytes() for path in Path("work").rglob("*") if path.is_file()}
    assert course("update").count("up to date") == 2
    assert before == {path: path.read_bytes() for path in Path("work").rglob("*") if path.is_file()}


def test_running_a_copy_is_no_edit(course, write_notebook):
    copy = Path("work/00_first.ipynb")
    notebook = json.loads(copy.read_text())
    notebook["cells"][1]["execution_count"] = 1
    copy.write_text(json.dumps(notebook))
    course("update")
    assert json.loads(copy.read_text()) == notebook  # the outputs of an up-to-date copy stay
    write_notebook("00_first", "x = 10")
    assert "00_first.ipynb: refreshed" in course("update")
    assert _answers(copy) == ["# Title", "x = 10"]


def test_edited_copy_stays_and_the_new_version_is_put_beside(course, write_notebook):
    copy, beside = Path("work/00_first.ipynb"), Path("work/00_first.new.ipynb")
    _edit(copy)
    assert "00_first.ipynb: yours, left as it is\n" in course("update")
    assert not beside.exists()
    write_notebook("00_first", "x = 10")
    assert "00_first.new.ipynb" in course("update")
    assert _answers(copy)[1] == "my answer"
    assert _answers(beside)[1] == "x = 10"


def test_edited_new_version_is_backed_up_before_it_is_renewed(course, write_notebook):
    _edit(Path("work/00_first.ipynb"))
    write_notebook("00_first", "x = 10")
    course("update")
    _edit(Path("work/00_first.new.ipynb"), "second thoughts")
    course("update")
    assert _answers(Path("work/00_first.new.ipynb"))[1] == "second thoughts"
    write_notebook("00_first", "x = 11")
    course("update")
    assert _answers(Path("work/00_first.new.ipynb"))[1] == "x = 11"
    (backup,) = Path("work/backups").iterdir()
    assert _answers(backup)[1] == "second thoughts"


def test_replace_backs_up_first(course, write_notebook):
    copy = Path("work/00_first.ipynb")
    _edit(copy)
    course("update", "--replace")
    assert _answers(copy)[1] == "my answer"  # the course did not change: nothing to replace
    write_notebook("00_first", "x = 10")
    out = course("update", "--replace")
    (backup,) = Path("work/backups").glob("00_first.*.ipynb")
    assert str(backup) in out
    assert _answers(backup)[1] == "my answer"
    assert _answers(copy)[1] == "x = 10"


def test_reset_backs_up_every_edited_copy_under_its_own_name(course):
    copy = Path("work/02_second.ipynb")
    for answer in ("first try", "second try"):
        _edit(copy, answer)
        assert "work/backups/02_second." in course("reset", "2")
        assert _answers(copy)[1] == "z = 3"
    backups = sorted(Path("work/backups").iterdir())
    assert {_answers(path)[1] for path in backups} == {"first try", "second try"}
    course("reset", "02")  # not edited: no further backup
    assert len(list(Path("work/backups").iterdir())) == 2


def test_reset_makes_a_copy_that_is_not_there(course):
    Path("work/02_second.ipynb").unlink()
    course("reset", "02")
    assert _answers(Path("work/02_second.ipynb"))[1] == "z = 3"


@pytest.mark.parametrize("manifest", [None, "no json"])
def test_lost_manifest_never_costs_an_answer(course, write_notebook, manifest):
    _edit(Path("work/00_first.ipynb"))
    path = Path("work/.handed_out.json")
    path.unlink() if manifest is None else path.write_text(manifest)
    write_notebook("02_second", "z = 30")
    course("update")
    assert _answers(Path("work/00_first.ipynb"))[1] == "my answer"
    assert _answers(Path("work/02_second.ipynb"))[1] == "z = 3"
    assert _answers(Path("work/02_second.new.ipynb"))[1] == "z = 30"


def test_half_written_copy_counts_as_edited(course):
    Path("work/00_first.ipynb").write_text('{"cells": [')
    course("update")
    assert Path("work/00_first.ipynb").read_text() == '{"cells": ['
    course("reset", "00")
    (backup,) = Path("work/backups").iterdir()
    assert backup.read_text() == '{"cells": ['


def test_new_chapter_arrives(course, write_notebook):
    write_notebook("03_third", "w = 4")
    assert "03_third.ipynb: new" in course("update")
