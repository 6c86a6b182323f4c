"""`course run`: limits that hold against kernels that do not want to end."""

import json
import os
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from course_utils.cli import main
from course_utils.commands import run
from course_utils.commands.normalise import normalise
from course_utils.commands.run import Limits, run_notebooks
from course_utils.exercises import catalog

STUBBORN = """
import os, signal, subprocess, sys, time
for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(name, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
open("pids.part", "w").write(f"{os.getpid()} {child.pid}")
os.rename("pids.part", "pids")
while True:
    try:
        time.sleep(600)
    except BaseException:
        pass
"""


def _ended(folder: Path) -> bool:
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    assert len(pids) == 2
    alive = [pid for pid in pids if psutil.pid_exists(pid)]
    return all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in alive)


def test_passes_fails_and_tells_in_short(write_notebook, checkout, capsys):
    write_notebook("00_good", "x = 1", "print('made here', x)")
    write_notebook("02_bad", "1", "raise ValueError('seven is no shape')", "3")
    assert main(["run", "--jobs", "2", "--out", "out"]) == 1
    out = capsys.readouterr().out
    assert "00_good" in out and "passed" in out
    assert "02_bad: error in cell [2]: ValueError: seven is no shape" in out
    executed = nbformat.read("out/00_good.ipynb", as_version=4)
    assert executed.cells[2].outputs[0].text == "made here 1\n"
    assert "made here 1" in Path("out/00_good.html").read_text()
    assert Path("out/02_bad.html").exists()
    assert sorted(os.listdir("out")) == [
        "00_good.html",
        "00_good.ipynb",
        "02_bad.html",
        "02_bad.ipynb",
    ]
    source = nbformat.read("notebooks/00_good.ipynb", as_version=4)
    assert source.cells[1].execution_count == 7  # the course's own file is as it was


def test_chapter_is_chosen_by_number(write_notebook, capsys):
    write_notebook("00_good", "1")
    write_notebook("02_bad", "1/0")
    assert main(["run", "0", "--out", "out"]) == 0
    assert "02_bad" not in capsys.readouterr().out


def test_cell_over_its_limit_is_ended_by_the_worker(write_notebook, checkout):
    path = write_notebook("00_slow", "open('begun', 'w')", "import time; time.sleep(60)")
    began = time.monotonic()
    (outcome,) = run_notebooks([path], checkout / "out", 1, Limits(cell=1, notebook=60))
    assert (outcome.status, outcome.done) == ("cell timeout", 2)
    assert time.monotonic() - began < 30


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_stubborn_kernel_and_its_child_end_with_the_notebook_limit(write_notebook, checkout):
    path = write_notebook("00_stubborn", STUBBORN)
    (outcome,) = run_notebooks([path], checkout / "out", 1, Limits(cell=600, notebook=12))
    assert outcome.status == "notebook timeout"
    assert outcome.seconds < 20
    assert _ended(checkout / "notebooks")


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_hung_worker_ends_with_the_cell_limit(write_notebook, checkout, monkeypatch):
    monkeypatch.setattr("course_utils.commands.run.GRACE", 1.0)
    stop_worker = "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\n"
    path = write_notebook("00_hung", stop_worker, STUBBORN)
    (outcome,) = run_notebooks([path], checkout / "out", 1, Limits(cell=2, notebook=60))
    assert outcome.status == "cell timeout" and outcome.seconds < 30


def test_dead_kernel_is_told(write_notebook, checkout):
    path = write_notebook("00_dead", "import os; os._exit(1)")
    (outcome,) = run_notebooks([path], checkout / "out", 1, Limits(cell=30, notebook=60))
    assert outcome.status == "dead kernel" and "memory" in outcome.error


def test_peak_memory_is_that_of_the_kernel(write_notebook, checkout):
    path = write_notebook(
        "00_big", "x = bytearray(300_000_000); import time; time.sleep(1.5); del x"
    )
    (outcome,) = run_notebooks([path], checkout / "out", 1, Limits())
    assert outcome.status == "passed"
    assert 300e6 < outcome.peak_bytes < 900e6


def test_in_place_is_repeatable_and_skips_what_failed(write_notebook, checkout, capsys):
    good = write_notebook("00_good", "import tqdm.auto\nfor _ in tqdm.auto.tqdm([1]): pass", "2")
    bad = write_notebook("02_bad", "1/0")
    before = bad.read_bytes()
    assert main(["run", "--in-place", "--out", "out"]) == 1
    first = json.loads(good.read_text())
    assert main(["run", "00", "--in-place", "--out", "out"]) == 0
    second = json.loads(good.read_text())
    assert bad.read_bytes() == before
    assert [cell["id"] for cell in first["cells"]] == ["title", "a", "b"]
    assert [cell.get("execution_count") for cell in first["cells"]] == [None, 1, 2]
    assert first["metadata"]["kernelspec"]["display_name"] == "Python 3 (ipykernel)"
    assert "version" not in first["metadata"]["language_info"]
    assert first["cells"][1]["metadata"] == {"tags": ["core"]}
    assert first["cells"][2] == second["cells"][2]
    assert "widget-view" not in good.read_text()


def test_normalise_keeps_descriptions_of_pictures():
    output = {
        "output_type": "display_data",
        "data": {"image/png": "x", "text/plain": "figure"},
        "metadata": {"image/png": {"alt": "a line"}, "application/x": {}},
    }
    cell = {"cell_type": "code", "metadata": {"execution": {"a": 1}}, "outputs": [output]}
    normalise({"metadata": {"widgets": {}}, "cells": [cell]})
    assert output["metadata"] == {"image/png": {"alt": "a line"}}
    assert cell["metadata"] == {}


def test_solved_executes_the_courses_answers(write_notebook, checkout):
    chapter = catalog.chapters()[0]
    spec = catalog.exercises_of(chapter)[0]
    name = spec.name.partition(".")[2]
    stub = f'@exercise("{spec.name}", difficulty=1, minutes=5)\ndef {name}(*args):\n    ...\n\n\n'
    imports = "from course_utils.exercises import check, exercise\n"
    imports += f"from {spec.reference.__module__} import *\nimport math, torch"
    path = write_notebook(f"{chapter[1:]}_chapter", imports, f"{stub}check({name})")
    for solved, status in ((False, "not attempted"), (True, "right on all")):
        (outcome,) = run_notebooks([path], checkout / "out", 1, Limits(), solved=solved)
        assert outcome.status == "passed", outcome.error
        executed = nbformat.read(checkout / "out" / path.name, as_version=4)
        assert status in json.dumps(executed.cells[2].outputs)
    assert stub in nbformat.read(path, as_version=4).cells[2].source


def test_interrupted_run_leaves_no_process_behind(write_notebook, checkout):
    path = write_notebook("00_stubborn", STUBBORN)

    def interrupt(outcomes):
        if (checkout / "notebooks" / "pids").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_notebooks([path], checkout / "out", 1, Limits(), on_change=interrupt)
    assert _ended(checkout / "notebooks")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("2", "2")),
        ({"OMP_NUM_THREADS": "1"}, ("1", "1")),
        ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "4"}, ("1", "4")),
    ],
)
def test_a_kernel_gets_its_share_of_the_cores(monkeypatch, given, expected):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = run._environment(2)
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == expected
