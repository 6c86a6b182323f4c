"""Notebooks with the course's answers filled in, and the proof that answers run downstream.

`fill_stubs` puts the reference's source into every stub: what `course run --solved` renders, and
what the tests grade. `fill_counting_stubs` does the same with functions that count their calls
after they have passed, so that a test can see that the cells below run the learner's object.
`reference_problems` says what would keep a notebook from being filled in. Notebooks are dicts as
loaded from JSON; they are never changed in place.
"""

import ast
import copy
import functools
import inspect
import io
import json
import textwrap
import tokenize
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from course_utils.exercises import catalog, standin
from course_utils.exercises.cells import parsed, sources
from course_utils.exercises.extract import exercise_functions, exercise_name
from course_utils.exercises.names import bound_names, free_names
from course_utils.exercises.spec import ExerciseSpec
from course_utils.exercises.stubs import is_stub_body

LONGEST_REFERENCE = 30  # lines
_calls: Counter[str] = Counter()
_MARK = "calls after the check: "


def fill_stubs(notebook: Mapping[str, Any], chapter: str) -> dict[str, Any]:
    """A copy of the notebook in which every stub of the chapter holds the course's answer."""
    return _filled(notebook, chapter, counting=False)


def fill_counting_stubs(notebook: Mapping[str, Any], chapter: str) -> dict[str, Any]:
    """The same with counted answers; the last cell prints the counts, read by `read_calls`."""
    filled = _filled(notebook, chapter, counting=True)
    cell = copy.deepcopy(next(c for c in filled["cells"] if c["cell_type"] == "code"))
    source = "from course_utils.exercises.solved import print_calls\nprint_calls()"
    cell.update(source=source, outputs=[], execution_count=None, metadata={})
    cell.update({"id": "calls-after-check"} if "id" in cell else {})
    filled["cells"].append(cell)
    return filled


def counted(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that counts the calls of an answer once its check has passed."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            answer = standin.defined(name)
            _calls[name] += answer is not None and answer.status == "passed"
            return function(*args, **kwargs)

        _calls[name] = 0
        return call

    return mark


def print_calls() -> None:
    """Print the counts as one line, for `read_calls`."""
    print(_MARK + json.dumps(_calls, sort_keys=True))


def read_calls(executed: Mapping[str, Any]) -> dict[str, int]:
    """The counts in the outputs of an executed notebook from `fill_counting_stubs`."""
    for output in executed["cells"][-1]["outputs"]:
        text = "".join(output.get("text", ""))
        if text.startswith(_MARK):
            return json.loads(text.removeprefix(_MARK))
    raise ValueError("the notebook's last cell has not printed the counts: was it executed?")


def reference_source(spec: ExerciseSpec, name: str | None = None) -> str:
    """The reference's source, under another function name where one is given."""
    function = inspect.unwrap(spec.reference)
    source = textwrap.dedent(inspect.getsource(function)).rstrip()
    return (
        source if name in (None, function.__name__) else _renamed(source, function.__name__, name)
    )


def reference_problems(notebook: Mapping[str, Any], chapter: str) -> list[str]:
    """What is wrong between a notebook and its exercises: names, lengths, stubs, omissions."""
    problems: list[str] = []
    bound, met = set(), set()
    specs = {spec.name: spec for spec in catalog.exercises_of(chapter)}
    cells, broken = parsed(sources(dict(notebook)))
    for cell in cells:
        bound |= bound_names(cell.source)
        for name, node in exercise_functions(cell.tree):
            where = f"cell {cell.number}: {name}"
            problems += [f"{where} is there twice"] * (name in met)
            met.add(name)
            if name not in specs:
                problems.append(f"{where} is not in the catalog of {chapter}")
                continue
            if not is_stub_body(node.body):
                problems.append(f"{where} is no stub: its body must be `...`")
            problems += [f"{where}: {text}" for text in _reference_problems(specs[name], bound)]
    problems += [f"{name} is in the catalog, not in the notebook" for name in specs.keys() - met]
    return broken + problems


def _reference_problems(spec: ExerciseSpec, bound: set[str]) -> list[str]:
    lines = len(reference_source(spec).splitlines())
    problems = []
    if lines > LONGEST_REFERENCE:
        problems.append(f"its reference has {lines} lines, at most {LONGEST_REFERENCE} are allowed")
    if missing := sorted(free_names(spec.reference) - bound):
        problems.append(f"its reference uses {', '.join(missing)}, which no cell before it binds")
    return problems


def _filled(notebook: Mapping[str, Any], chapter: str, counting: bool) -> dict[str, Any]:
    filled = copy.deepcopy(dict(notebook))
    specs = {spec.name: spec for spec in catalog.exercises_of(chapter)}
    for cell in parsed(sources(filled))[0]:
        source = cell.source
        # from the last definition to the first, so that line numbers stay right
        for name, node in reversed(list(exercise_functions(cell.tree))):
            if name in specs and is_stub_body(node.body):
                source = _with_answer(source, specs[name], node, counting)
        if source != cell.source:
            filled["cells"][cell.number - 1]["source"] = source
    return filled


def _with_answer(source: str, spec: ExerciseSpec, node: ast.FunctionDef, counting: bool) -> str:
    """The cell's source with one stub replaced; the `@exercise` line stays."""
    lines = source.split("\n")
    start = min(decorator.lineno for decorator in node.decorator_list) - 1
    mark = next(d for d in node.decorator_list if exercise_name(d) is not None)
    decorators = lines[mark.lineno - 1 : mark.end_lineno]
    if counting:
        decorators.append(f'@counted("{spec.name}")')
    answer = reference_source(spec, node.name).split("\n")
    lines[start : node.end_lineno] = [*decorators, *answer]
    first = ["from course_utils.exercises.solved import counted", ""] if counting else []
    return "\n".join([*first, *lines])


def _renamed(source: str, old: str, new: str) -> str:
    lines = source.split("\n")
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token in reversed(tokens):
        if token.type == tokenize.NAME and token.string == old:
            row, column = token.start[0] - 1, token.start[1]
            lines[row] = lines[row][:column] + new + lines[row][column + len(old) :]
    return "\n".join(lines)
