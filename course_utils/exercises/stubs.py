"""Recognises an exercise that nobody has written yet: a docstring, then `...` and nothing else.

`pass` and `raise NotImplementedError` count as well, and leading argument checks
(`if ...: raise ...`) may stand before them. The source decides; where there is none (a definition
made by `exec`), the bytecode does, which cannot tell a stub from `return None`.
"""

import ast
import dis
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

_NOTHING_DONE = ({"RESUME", "LOAD_CONST", "RETURN_VALUE"}, {"RESUME", "RETURN_CONST"})


def is_stub(function: Callable[..., Any]) -> bool:
    """True when the body of the function still has to be written."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return _is_stub_by_bytecode(function)
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return is_stub_body(definition.body)


def is_stub_body(body: Sequence[ast.stmt]) -> bool:
    """The same for the statements of a definition."""
    rest = list(body)
    if isinstance(rest[0], ast.Expr) and isinstance(getattr(rest[0], "value", None), ast.Constant):
        rest = rest[1:] if isinstance(rest[0].value.value, str) else rest
    while rest and is_guard(rest[0]):
        rest = rest[1:]
    return all(_is_placeholder(statement) for statement in rest) and (bool(rest) or len(body) == 1)


def is_guard(statement: ast.stmt) -> bool:
    """An argument check: `if ...: raise ...` and nothing else."""
    return (
        isinstance(statement, ast.If)
        and not statement.orelse
        and all(isinstance(inner, ast.Raise) for inner in statement.body)
    )


def _is_placeholder(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant) and statement.value.value is ...
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
        return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"
    return False


def _is_stub_by_bytecode(function: Callable[..., Any]) -> bool:
    if not inspect.isfunction(function):
        return False
    steps = [step for step in dis.get_instructions(function) if step.opname != "CACHE"]
    names = {step.opname for step in steps}
    if any(names <= nothing for nothing in _NOTHING_DONE):
        return steps[-1].argval is None or steps[-2].argval is None
    globals_used = {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}
    calm = {"RESUME", "LOAD_GLOBAL", "RAISE_VARARGS", "LOAD_CONST", "PRECALL", "CALL", "PUSH_NULL"}
    return globals_used == {"NotImplementedError"} and names <= calm
