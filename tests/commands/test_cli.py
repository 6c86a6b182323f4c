"""The command line itself: help, examples, one clear line for what was typed wrongly."""

import subprocess
import sys
import time

import pytest
import typer

from course_utils.cli import app, main

COMMANDS = sorted(typer.main.get_command(app).commands)


def test_all_promised_commands_exist():
    promised = "bench count doctor fetch grade models reset run serve update verify-records"
    assert promised.split() == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example: course {command}" in out


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["dance"], "No such command 'dance'"),
        (["run", "--jobs", "many"], "--jobs"),
        (["run", "--jobs", "0"], "--jobs is 0"),
        (["run", "--cell-timeout", "-1"], "--cell-timeout is -1"),
        (["run", "--notebook-timeout", "0"], "--notebook-timeout is 0"),
        (["run", "--in-place", "--solved"], "choose one"),
        (["run", "99"], "unknown chapter '99': the chapters are 00_first, 02_second"),
        (["reset"], "Missing argument"),
        (["reset", "x"], "unknown chapter 'x'"),
        (["fetch", "gpt"], "unknown file 'gpt': the files are smollm2, kjv, three_kingdoms"),
        (["fetch", "--from", "nowhere"], "--from nowhere is no folder"),
        (["bench", "speed"], "unknown benchmark 'speed'"),
        (["grade", "no.ipynb"], "no such file: no.ipynb"),
        (["grade", "notebooks"], "no such file: notebooks"),
        (["doctor", "--fast"], "--fast"),
    ],
)
def test_bad_arguments_get_one_line_and_exit_code_2(typed, words, write_notebook, capsys):
    write_notebook("00_first")
    write_notebook("02_second")
    assert main(typed) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def test_out_that_is_a_file_is_refused(write_notebook, checkout, capsys):
    write_notebook("00_first")
    (checkout / "file").write_text("")
    assert main(["run", "--out", "file"]) == 2
    assert "--out file is a file" in capsys.readouterr().err


def test_outside_a_clone_the_line_says_so(monkeypatch, capsys):
    def nowhere():
        raise FileNotFoundError("no notebooks/ beside the package: needs a clone")

    monkeypatch.setattr("course_utils.paths.checkout", nowhere)
    assert main(["update"]) == 1
    assert capsys.readouterr().err == "course: no notebooks/ beside the package: needs a clone\n"


def test_nothing_typed_shows_the_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["course"])
    assert main() == 0
    assert "Usage: course" in capsys.readouterr().out


def test_help_is_there_at_once_and_loads_nothing_heavy():
    code = (
        "import sys; from course_utils.cli import main; main(['--help']); "
        "print([name for name in ('torch', 'matplotlib', 'rich', 'nbformat')"
        " if name in sys.modules])"
    )
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - began)
        assert done.stdout.rstrip().endswith("[]"), done.stdout[-200:] + done.stderr
    assert min(seconds) < 0.5


def test_module_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "course_utils", "dance"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "No such command 'dance'" in done.stderr
