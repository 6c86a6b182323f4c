"""Are the definitions that a notebook teaches the library's own?

How it works: a definition is brought to a common form (annotations, docstrings, comments and
leading argument guards removed) and written out again from its syntax tree; two definitions are
the same when these texts are equal. Definitions in cells tagged exercise, naive, step or widget
are not compared: the first three differ on purpose, a widget's callback is no teaching.
"""

import ast
import copy
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from chapter import ROOT, Chapter

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
NOT_COMPARED = frozenset({"exercise", "naive", "step", "widget"})


def common_form(definition: Definition) -> str:
    """The definition as text, without what a notebook may leave out."""
    return ast.unparse(ast.fix_missing_locations(_Normaliser().visit(copy.deepcopy(definition))))


class _Normaliser(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        node.body = _without_guards(_without_docstring(node.body)) or [ast.Pass()]
        self.generic_visit(node)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.body = _without_docstring(node.body) or [ast.Pass()]
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        if node.value is not None:
            return ast.Assign(targets=[node.target], value=node.value)
        node.annotation = ast.Constant(...)  # a field without a value: its name still counts
        return node


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_docstring = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return body[1:] if is_docstring else body


def _without_guards(body: list[ast.stmt]) -> list[ast.stmt]:
    """Drop leading `if ...: raise ...` statements."""
    while body and _is_guard(body[0]):
        body = body[1:]
    return body


def _is_guard(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.If)
        and not statement.orelse
        and all(isinstance(inner, ast.Raise) for inner in statement.body)
    )


def definitions_of_library(
    folder: Path = ROOT / "course_utils",
) -> dict[str, list[tuple[str, str]]]:
    """For each name, the files that define it at top level, and the common form there."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, DEFINITIONS):
                found[node.name].append((str(path.relative_to(folder)), common_form(node)))
    return found


def differences(chapter: Chapter, library: dict[str, list[tuple[str, str]]]) -> Iterator[str]:
    """Definitions of the notebook that the library lacks, or has otherwise."""
    for cell in chapter.code:
        if cell.tags & NOT_COMPARED:
            continue
        for node in cell.tree.body:
            if not isinstance(node, DEFINITIONS):
                continue
            candidates = library.get(node.name, [])
            form = common_form(node)
            if not candidates:
                yield f"{cell.place} defines {node.name}, which the library does not have"
            elif all(form != other for _, other in candidates):
                files = ", ".join(file for file, _ in candidates)
                yield f"{cell.place} defines {node.name} otherwise than {files}"
