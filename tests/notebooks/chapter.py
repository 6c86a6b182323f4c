"""A notebook as the rules of the course see it: cells with tags, code with its syntax tree."""

import ast
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
TOURS = ("00", "22")  # a tour and a project: chapters with their own anatomy


@dataclass
class Cell:
    """One cell. `place` is what a person sees: the count in brackets, or its first line."""

    kind: str
    source: str
    tags: frozenset[str]
    outputs: list[dict[str, Any]] = field(default_factory=list)
    count: int | None = None
    id: str = ""

    @property
    def place(self) -> str:
        first = self.source.strip().splitlines()[0] if self.source.strip() else "(empty)"
        return f"cell [{self.count}] `{first[:60]}`" if self.kind == "code" else f"`{first[:60]}`"

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree; lines for IPython alone (magics) are left out."""
        lines = [
            "" if line.lstrip().startswith(("%", "!", "?")) else line
            for line in self.source.splitlines()
        ]
        return ast.parse("\n".join(lines))

    def calls(self, name: str) -> list[ast.Call]:
        """The calls of a function by its plain name."""
        return [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == name
        ]

    @property
    def text(self) -> str:
        """All text among the outputs: what was printed, and results shown as text or HTML."""
        parts: list[str] = []
        for output in self.outputs:
            parts.append(_joined(output.get("text", "")))
            data = output.get("data", {})
            parts += [_joined(value) for kind, value in data.items() if kind.startswith("text/")]
        return "\n".join(parts)

    def shows(self, kind: str) -> bool:
        """Whether an output has this MIME type."""
        return any(kind in output.get("data", {}) for output in self.outputs)


class Chapter:
    """A chapter's notebook, read from its file."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.number = path, path.stem, path.name[:2]
        self.raw = json.loads(path.read_text(encoding="utf-8"))
        self.cells = [_cell(cell) for cell in self.raw["cells"]]
        self.code = [cell for cell in self.cells if cell.kind == "code" and cell.source.strip()]
        self.prose = [cell for cell in self.cells if cell.kind == "markdown"]
        self.is_tour = self.number in TOURS

    def tagged(self, tag: str) -> list[Cell]:
        """The cells with this tag, in order."""
        return [cell for cell in self.cells if tag in cell.tags]


def _cell(raw: dict[str, Any]) -> Cell:
    return Cell(
        kind=raw["cell_type"],
        source=_joined(raw["source"]),
        tags=frozenset(raw["metadata"].get("tags", [])),
        outputs=raw.get("outputs", []),
        count=raw.get("execution_count"),
        id=raw.get("id", ""),
    )


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
