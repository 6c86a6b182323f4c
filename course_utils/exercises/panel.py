"""The one way in which exercises show something: a titled panel, as text and as HTML.

In a terminal and in the comparison of outputs the text counts; JupyterLab and VS Code show the
HTML, which inherits all colours from the theme (light or dark) except a coloured edge. Words carry
the meaning, colour only repeats it.
"""

import html
import sys
import textwrap
from dataclasses import dataclass
from typing import Literal

_EDGES = {"good": "#009e73", "bad": "#d55e00", "note": "#56b4e9", "quiet": "#888888"}
_WIDTH = 96

Tone = Literal["good", "bad", "note", "quiet"]


@dataclass(frozen=True)
class Code:
    """Lines to type or to read, shown as they are."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Labelled:
    """A short label and what belongs to it: "expected", "a tensor of shape ..."."""

    label: str
    text: str


Block = str | Code | Table | Labelled


@dataclass(frozen=True, repr=False)
class Panel:
    """A title and blocks of text. Shown by IPython through its HTML, elsewhere through `repr`."""

    title: str
    blocks: tuple[Block, ...] = ()
    tone: Tone = "note"

    def __repr__(self) -> str:
        blocks = [_as_text(block) for block in self.blocks]
        return "\n".join([*textwrap.wrap(self.title, _WIDTH), *blocks])

    def _repr_html_(self) -> str:
        edge = f"border-left: 4px solid {_EDGES[self.tone]}; padding: 0.3em 0.9em; margin: 0.3em 0"
        body = "".join(_as_html(block) for block in self.blocks)
        return f'<div style="{edge}"><strong>{html.escape(self.title)}</strong>{body}</div>'


def show(panel: Panel) -> None:
    """Display the panel in a notebook, print it elsewhere."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import display

        display(panel)
    else:
        print(panel)


def _as_text(block: Block) -> str:
    if isinstance(block, Code):
        return textwrap.indent(block.text, "    ")
    if isinstance(block, Labelled):
        label = f"  {block.label}: "
        return textwrap.fill(
            label + block.text,
            _WIDTH,
            subsequent_indent=" " * 4,
            break_long_words=False,
            break_on_hyphens=False,
        )
    if isinstance(block, Table):
        lines = [block.header, *block.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(block.header))]
        return "\n".join("  " + _padded(line, widths) for line in lines)
    return textwrap.fill(block, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _padded(line: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _as_html(block: Block) -> str:
    if isinstance(block, Code):
        style = "margin: 0.3em 0 0.3em 1.2em; background: none; white-space: pre-wrap"
        return f'<pre style="{style}">{html.escape(block.text)}</pre>'
    if isinstance(block, Labelled):
        text = f"<em>{html.escape(block.label)}</em>: {html.escape(block.text)}"
        return f'<div style="margin-left: 1.2em">{text}</div>'
    if isinstance(block, Table):
        rows = [_row(block.header, "th"), *(_row(row, "td") for row in block.rows)]
        return f'<table style="margin: 0.3em 0">{"".join(rows)}</table>'
    return f'<div style="margin: 0.2em 0">{html.escape(block)}</div>'


def _row(cells: tuple[str, ...], tag: str) -> str:
    style = "text-align: left; padding: 0.1em 1em 0.1em 0; background: none"
    body = "".join(f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{body}</tr>"
