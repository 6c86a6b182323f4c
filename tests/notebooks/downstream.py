"""Does a notebook call its answers after their checks? Only what such a call needs is run.

The notebook is filled with counting answers and cut into top-level statements (the cell of an
exercise stays whole, so its check runs). Of these run, in the notebook's order and in one
namespace: the statements below an exercise that use its answer, or something made with it, until a
call is counted; and before each of them every earlier statement that binds or changes a name which
it uses, and what those need in turn. Statements that call the answer by its name are tried first,
since others, such as a training run, may cost seconds. Everything that runs is the notebook's own
code below and above the call, so what is counted are calls which the notebook makes.

What a statement needs is read from its names. A change that names do not show (a list filled by a
function) is missed; then the statement fails, and the next one below is tried. If no call is
counted, the whole notebook runs, statement by statement, in another process, and that decides.
A statement that only has to show a call, such as a training loop, is ended when it has.

Why not a kernel, and not the strict run of nbval: nbval runs the stubs as they are, and it already
proves that all cells run, in order and in a kernel. To do so again with answers filled in took 3 to
30 CPU-seconds a notebook; this takes up to 4, and some 20 in chapters 06 and 12, where the whole
notebook decides (`layer(x)` changes `layer` there, and names do not show it). A run happens in a
process of its own, which on Linux starts as a copy of this one, with PyTorch loaded.

Left out: a name that two statements bind, of which the first runs later than the second because
nothing needed it before. No notebook hands an answer's name on in that way.
"""

import ast
import contextlib
import functools
import io
import linecache
import multiprocessing
import os
import symtable
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from course_utils.exercises import solved, standin
from course_utils.exercises.cells import Cell, parsed, sources
from course_utils.exercises.extract import exercise_functions
from course_utils.exercises.names import bound_names

LIMIT = 300.0  # seconds for one run
BY_NAME, BY_USE, WHOLE = "called by name", "used", "whole"  # how much is run


@dataclass(frozen=True)
class Statement:
    """A top-level statement, or the whole cell of an exercise, with the names that matter."""

    cell: Cell
    nodes: tuple[ast.stmt, ...]
    answers: dict[str, str]  # exercises defined here, with the function's name
    binds: frozenset[str]  # names bound at the top level; "*" of a star import
    uses: frozenset[str]  # global names used, those bound here included
    changes: frozenset[str]  # x in `x.a = 1`, `x[0] = 1` and `x.append(1)`
    calls: frozenset[str]  # f in `f(...)`

    def run(self, namespace: dict[str, Any]) -> None:
        """Execute it; its source can be found by `inspect`."""
        file = f"<cell {self.cell.number}>"
        text = self.cell.source
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(ast.Module(list(self.nodes), []), file, "exec"), namespace)


def statements(notebook: dict[str, Any]) -> Iterator[Statement]:
    """The code of a notebook in order."""
    for cell in parsed(sources(notebook))[0]:
        answers = {name: node.name for name, node in exercise_functions(cell.tree)}
        groups = [cell.tree.body] if answers else [[node] for node in cell.tree.body]
        for nodes in groups:
            source = ast.unparse(ast.Module(nodes, []))
            stars = {"*"} if source.endswith(" import *") else set()
            binds, uses = frozenset(bound_names(source) | stars), frozenset(_used(source) | {"*"})
            changes, calls = frozenset(_changed(nodes)), frozenset(_called(nodes))
            yield Statement(cell, tuple(nodes), answers, binds, uses, changes, calls)


def _used(source: str) -> set[str]:
    """Global names that are read at the top level or in functions."""
    tables, found = [symtable.symtable(source, "<statement>", "exec")], set()
    top = tables[0]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() if table is top else symbol.is_global():
                found.add(symbol.get_name())
    return found


def _changed(nodes: list[ast.stmt]) -> Iterator[str]:
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            place = node.value.func
        elif isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
            place = node
        else:
            continue
        found = place
        while isinstance(found, ast.Attribute | ast.Subscript):
            found = found.value
        if found is not place and isinstance(found, ast.Name):
            yield found.id


def _called(nodes: list[ast.stmt]) -> Iterator[str]:
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


class Enough(BaseException):
    """Raised in a statement when it has called what it was run for."""


class Run:
    """One run in this process: what ran already, and which answers have been called."""

    def __init__(self, notebook: dict[str, Any], names: list[str]) -> None:
        chapter = names[0].partition(".")[0]
        cells = solved.fill_counting_stubs(notebook, chapter)["cells"][:-1]
        self.all, self.names = list(statements({"cells": cells})), names
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.done: set[int] = set()
        self.wanted: set[str] = set()  # the calls that the running statement has to show

    def missing(self) -> list[str]:
        """Those of the exercises that nothing has called since their checks."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            solved.print_calls()
        counts = solved.read_calls({"cells": [{"outputs": [{"text": printed.getvalue()}]}]})
        return [name for name in self.names if not counts.get(name)]

    def go(self, how: str) -> None:
        """Run as much as `how` says, until nothing is missing."""
        for number in range(len(self.all)):
            missing = self.missing()
            if not missing:
                break
            if how == WHOLE:
                self.execute(number)
            elif told := {name for name in missing if self.tells(number, name, how)}:
                with contextlib.suppress(Exception):
                    for one in self.needs(number):
                        self.execute(one)
                    self.execute(number, told)

    def execute(self, number: int, wanted: Collection[str] = ()) -> None:
        """Run a statement once, also if it fails; where calls are wanted, until they are made."""
        if number in self.done:
            return
        self.done.add(number)
        self.wanted = set(wanted)
        try:
            self.all[number].run(self.namespace)
        except Enough:
            self.done.remove(number)  # another statement may need the whole of it
        for answer in filter(None, map(standin.defined, self.all[number].answers)):
            answer.learners = self.watched(answer.learners)

    def watched(self, learners: Callable[..., Any]) -> Callable[..., Any]:
        """The learner's function, which ends the statement when all wanted calls are made."""

        @functools.wraps(learners)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = learners(*args, **kwargs)
            if self.wanted and not self.wanted & set(self.missing()):
                raise Enough
            return result

        return call

    def tells(self, number: int, name: str, how: str) -> bool:
        """Whether this statement, below the exercise, may call its answer."""
        statement, made_with = self.all[number], set()
        for earlier in self.all[:number]:
            if name in earlier.answers:
                made_with = {earlier.answers[name]}
            elif made_with & earlier.uses and how == BY_USE:
                made_with |= earlier.binds | earlier.changes
        return bool(made_with & (statement.calls if how == BY_NAME else statement.uses))

    def needs(self, number: int) -> list[int]:
        """The earlier statements that bind or change what it uses, and what these need."""
        needed: set[int] = set()
        ahead = [number]
        while ahead:
            last = ahead.pop()
            for earlier in range(last):
                one = self.all[earlier]
                if earlier not in needed and (one.binds | one.changes) & self.all[last].uses:
                    needed.add(earlier)
                    ahead.append(earlier)
        return sorted(needed)


def never_called(notebook: dict[str, Any], names: list[str], folder: Path) -> list[str]:
    """Those of a chapter's exercises that no later cell of its notebook calls, run in `folder`.

    Raises RuntimeError when a cell fails although all before it ran, or at the time limit.
    """
    missing, problem = names, ""
    for how in (BY_NAME, BY_USE, WHOLE):
        if missing:
            missing, problem = _in_a_process((notebook, missing), folder, how)
    if problem:
        raise RuntimeError(problem)
    return missing


def _in_a_process(job: tuple, folder: Path, how: str) -> tuple[list[str], str]:
    """What is missing after a run in a new process, and in words why it did not end well."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(job, str(folder), how, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(LIMIT) else (job[-1], f"it ran longer than {LIMIT:g} s")
    except EOFError:
        return job[-1], "its process ended before it did"
    finally:
        process.kill()
        process.join()


def _child(job: tuple, folder: str, how: str, answer: Connection) -> None:
    import matplotlib
    import torch

    matplotlib.use("agg")
    torch.set_num_threads(1)  # the threads of the process that was copied are not there
    os.chdir(folder)
    run, problem = Run(*job), ""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        with contextlib.redirect_stderr(nowhere):
            try:
                run.go(how)
            except BaseException as error:
                problem = f"{type(error).__name__}: {error}"
            answer.send((run.missing(), problem))
