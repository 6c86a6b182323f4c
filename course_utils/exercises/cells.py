"""The code cells of a notebook (or of a .py file) as syntax trees.

Lines that only IPython understands (`%time`, `!ls`, `name?`) are dropped; so are cells of another
language (`%%bash`). A cell with a syntax error is left out and reported: the others still count.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PYTHON_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun", "%%python")
_MAGIC = re.compile(r"\s*(%|!|\?)|\s*\w+\s*=\s*[%!]|.*[\w.]\?{1,2}\s*$")


@dataclass(frozen=True)
class Cell:
    """One code cell that could be parsed; `number` counts all cells from 1."""

    number: int
    source: str
    tree: ast.Module


def read_cells(path: Path) -> tuple[list[Cell], list[str]]:
    """The cells of a file, and what could not be read. ValueError when it is no notebook."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path.name}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: cannot be read as text ({type(error).__name__})") from None
    if path.suffix == ".py":
        return parsed([(1, text)])
    if path.suffix != ".ipynb":
        raise ValueError(f"{path.name}: give a notebook (.ipynb) or a Python file (.py)")
    try:
        return parsed(sources(json.loads(text)))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path.name}: damaged or not a notebook; save it again from Jupyter"
        ) from None


def sources(notebook: dict[str, Any]) -> list[tuple[int, str]]:
    """(number, source) of each code cell of a notebook as loaded from JSON."""
    return [
        (number, "".join(cell["source"]))
        for number, cell in enumerate(notebook["cells"], 1)
        if cell["cell_type"] == "code"
    ]


def parsed(numbered: list[tuple[int, str]]) -> tuple[list[Cell], list[str]]:
    """The cells that Python understands, and a line about each one that it does not."""
    cells, problems = [], []
    for number, source in numbered:
        source = python_only(source)
        try:
            cells.append(Cell(number, source, ast.parse(source)))
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            problems.append(f"cell {number}{line} is skipped: {getattr(error, 'msg', error)}")
    return cells, problems


def python_only(source: str) -> str:
    """The source without the lines that only IPython understands; line numbers stay."""
    try:
        ast.parse(source)
        return source
    except (SyntaxError, ValueError):
        pass
    lines = source.split("\n")
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%") and not first.startswith(_PYTHON_MAGICS):
        return ""
    return "\n".join(_replaced(line) if _MAGIC.match(line) else line for line in lines)


def _replaced(line: str) -> str:
    return line[: len(line) - len(line.lstrip())] + "pass"
