"""The `course run` command: choose the notebooks, run them, show what happened."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from rich.console import Console

from course_utils.commands.chapters import choose
from course_utils.commands.errors import BadArgumentError
from course_utils.commands.normalise import normalise
from course_utils.commands.run import Limits, Outcome, run_notebooks
from course_utils.commands.run_view import View, show_summary


@dataclass(frozen=True)
class Request:
    """What was typed."""

    chapters: list[str] = field(default_factory=list)
    out: Path = Path("build/run")
    jobs: int | None = None  # None: two, or one on a single core
    limits: Limits = field(default_factory=Limits)
    solved: bool = False
    in_place: bool = False


def run_command(request: Request, console: Console) -> int:
    """Run the chosen notebooks; 0 when all passed, 1 otherwise."""
    _check(request)
    notebooks = choose(request.chapters)
    if not notebooks:
        console.print("no notebooks yet")
        return 0
    jobs = 1 if request.in_place else request.jobs or min(2, os.cpu_count() or 1)
    with View(console) as view:
        outcomes = run_notebooks(
            notebooks, request.out, jobs, request.limits, request.solved, on_change=view
        )
    show_summary(outcomes, console)
    console.print(f"executed copies and pages: {request.out}", soft_wrap=True)
    if request.in_place:
        _write_back(notebooks, outcomes, request.out, console)
    return 0 if all(one.status == "passed" for one in outcomes) else 1


def _check(request: Request) -> None:
    limits = {"cell-timeout": request.limits.cell, "notebook-timeout": request.limits.notebook}
    jobs = {} if request.jobs is None else {"jobs": request.jobs}
    for name, value in (limits | jobs).items():
        if not value > 0:
            raise BadArgumentError(f"--{name} is {value:g}: give a number above 0")
    if request.in_place and request.solved:
        raise BadArgumentError("--in-place with --solved would commit the answers: choose one")
    if request.out.exists() and not request.out.is_dir():
        raise BadArgumentError(f"--out {request.out} is a file: give a folder")


def _write_back(
    notebooks: list[Path], outcomes: list[Outcome], out: Path, console: Console
) -> None:
    """Put the outputs of notebooks that passed into the course's own files."""
    passed = {one.notebook for one in outcomes if one.status == "passed"}
    for source in notebooks:
        if source.stem in passed:
            notebook = nbformat.from_dict(normalise(nbformat.read(out / source.name, as_version=4)))
            part = source.with_suffix(".part")
            nbformat.write(notebook, part)
            os.replace(part, source)
            console.print(f"outputs written into {source.parent.name}/{source.name}")
