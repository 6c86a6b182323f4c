"""Takes a learner's answers out of a notebook, each with just what it needs to run.

Taken are the last definition of each `@exercise` function and, transitively, the names it uses:
imports, functions, classes and plain constants of any cell, the last definition of each. Nothing
else of the notebook runs: not its check cells, not its experiments, and no line that would change
the library. What an answer needs and cannot be taken (a value that a cell computed) is reported by
name. Another exercise's function is replaced by the course's version, so that one mistake costs one
exercise.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from course_utils.exercises import catalog
from course_utils.exercises.cells import Cell, read_cells
from course_utils.exercises.names import free_names_of
from course_utils.exercises.stubs import is_stub_body

_PLAIN_CALLS = set(
    "abs bool bytes complex dict enumerate float frozenset int len list max min range round set "
    "slice sorted str sum tuple zip".split()
)
_PLAIN_MODULES = {"collections", "functools", "itertools", "math", "numpy", "operator", "torch"}
_PLAIN_MODULES |= {"dataclasses", "decimal", "fractions", "re", "string", "typing"}


@dataclass(frozen=True)
class Answer:
    """One learner's function, with a source that can run by itself."""

    exercise: str
    function: str
    source: str
    stub: bool
    unresolved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extraction:
    """The answers in a file, by exercise, and what could not be read."""

    answers: Mapping[str, Answer]
    problems: tuple[str, ...]


def extract(path: Path) -> Extraction:
    """The answers in a notebook or .py file; ValueError when the file cannot be read."""
    cells, problems = read_cells(path)
    found = {name: node for cell in cells for name, node in exercise_functions(cell.tree)}
    definitions = _definitions(cells)
    answers = {name: _answer(name, node, definitions) for name, node in found.items()}
    return Extraction(answers, tuple(problems))


def exercise_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(exercise's name, definition) of each function under `@exercise("...")`."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if (name := exercise_name(decorator)) is not None:
                    yield name, node


def exercise_name(decorator: ast.expr) -> str | None:
    """The name in `exercise("c02.rms_norm", ...)`; None for any other decorator."""
    if not isinstance(decorator, ast.Call):
        return None
    called = decorator.func
    if (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) != (
        "exercise"
    ):
        return None
    given = [*decorator.args, *(key.value for key in decorator.keywords if key.arg == "name")]
    value = given[0].value if given and isinstance(given[0], ast.Constant) else None
    return value if isinstance(value, str) else None


def _answer(name: str, node: ast.FunctionDef, definitions: dict[str, str]) -> Answer:
    own = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(own, ast.FunctionDef)
    own.decorator_list = [d for d in own.decorator_list if exercise_name(d) is None]
    source = ast.unparse(own)
    others = {key: value for key, value in definitions.items() if key != node.name}
    needed, unresolved = _closure(source, others, {node.name})
    parts = ["from __future__ import annotations", *needed, source]
    return Answer(name, node.name, "\n\n".join(parts), is_stub_body(node.body), unresolved)


def _closure(
    source: str, definitions: dict[str, str], own: set[str]
) -> tuple[list[str], tuple[str, ...]]:
    """The definitions that a source needs, each after its own needs; and what is missing."""
    ordered: list[str] = []
    missing: set[str] = set()
    seen = set(own)

    def visit(text: str) -> None:
        for name in sorted(free_names_of(text) - seen):
            seen.add(name)
            if name not in definitions:
                missing.add(name)
                continue
            visit(definitions[name])
            if definitions[name] not in ordered:
                ordered.append(definitions[name])

    visit(source)
    if stars := definitions.get("*"):
        return [stars, *ordered], ()  # a star import may bind anything: running tells
    return ordered, tuple(sorted(missing))


def _definitions(cells: list[Cell]) -> dict[str, str]:
    """The source of the last usable definition of each name; "*" holds the star imports."""
    found: dict[str, str] = {}
    imported: dict[str, str] = {}  # name to the module that it comes from
    for node in (node for cell in cells for node in cell.tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            _add_import(node, found, imported)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found[node.name] = _course_version(node) or ast.unparse(node)
        elif _is_guarded_import(node):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    found.update({_bound(alias): ast.unparse(node) for alias in inner.names})
        else:
            _add_assignment(node, found, imported)
    return found


def _course_version(node: ast.AST) -> str:
    """An import of the reference under the learner's name, for another exercise's function."""
    if not isinstance(node, ast.FunctionDef):
        return ""
    for decorator in node.decorator_list:
        if (name := exercise_name(decorator)) is not None:
            try:
                reference = catalog.find(name).reference
            except ValueError:
                return ""
            return f"from {reference.__module__} import {reference.__name__} as {node.name}"
    return ""


def _add_import(
    node: ast.Import | ast.ImportFrom, found: dict[str, str], imported: dict[str, str]
) -> None:
    """`import a.b` and `import a.c` both bind `a`: the lines for one name are kept together."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return
    for alias in node.names:
        one = ast.unparse(
            ast.Import([alias])
            if isinstance(node, ast.Import)
            else ast.ImportFrom(node.module, [alias], node.level)
        )
        name = _bound(alias)
        together = "." in alias.name or name == "*"
        before = found.get(name, "") if together else ""
        found[name] = f"{before}\n{one}".strip()
        imported[name] = (getattr(node, "module", None) or alias.name).split(".")[0]


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _is_guarded_import(node: ast.stmt) -> bool:
    """`try: import x` with its `except`, or an import under `if`."""
    if not isinstance(node, ast.Try | ast.If):
        return False
    allowed = (ast.Import, ast.ImportFrom, ast.Pass, ast.Try, ast.If, ast.Assign)
    inner = [part for part in ast.walk(node) if isinstance(part, ast.stmt)]
    simple = all(isinstance(part, allowed) for part in inner)
    return simple and any(isinstance(part, ast.Import | ast.ImportFrom) for part in inner)


def _add_assignment(node: ast.stmt, found: dict[str, str], imported: dict[str, str]) -> None:
    """Take a constant; forget the name when its last value is one that a cell computed."""
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets, value = [node.target], node.value
    else:
        return
    parts = [part for target in targets for part in ast.walk(target)]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    plain = value is not None and not isinstance(node, ast.AugAssign) and _is_plain(value, imported)
    if any(isinstance(part, ast.Attribute | ast.Subscript) for part in parts):
        return  # x.y = ... and x[0] = ... bind no name
    for name in names:
        if plain:
            found[name] = ast.unparse(node)
        elif value is not None:
            found.pop(name, None)


def _is_plain(value: ast.expr, imported: dict[str, str]) -> bool:
    """No call in it, except of harmless builtins and of modules that only compute."""
    if isinstance(value, ast.Lambda):
        return True
    for part in ast.walk(value):
        if isinstance(part, ast.Call):
            root: ast.expr = part.func
            while isinstance(root, ast.Attribute):
                root = root.value
            name = root.id if isinstance(root, ast.Name) else ""
            if name not in _PLAIN_CALLS and imported.get(name) not in _PLAIN_MODULES:
                return False
    return not any(isinstance(part, ast.NamedExpr | ast.Await) for part in ast.walk(value))
