"""From what somebody types (`2`, `02`, `02_small_language_model`) to a chapter's notebook."""

from collections.abc import Iterable
from pathlib import Path

from course_utils import paths
from course_utils.commands.errors import BadArgumentError, CommandError


def notebooks() -> list[Path]:
    """The course's notebooks in order. Raises CommandError outside a clone of the course."""
    try:
        folder = paths.checkout() / "notebooks"
    except FileNotFoundError as error:
        raise CommandError(str(error)) from error
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def choose(asked: Iterable[str]) -> list[Path]:
    """The notebooks that were asked for, in the course's order; all of them when none was named."""
    known = notebooks()
    wanted = {_find(text, known) for text in asked}
    return [path for path in known if path in wanted or not wanted]


def number(notebook: Path) -> str:
    """The two digits of a chapter, such as "02"."""
    return notebook.name[:2]


def _find(text: str, known: list[Path]) -> Path:
    for path in known:
        if text in (path.stem, path.name, number(path)) or text.zfill(2) == number(path):
            return path
    names = ", ".join(path.stem for path in known) or "none"
    raise BadArgumentError(f"unknown chapter {text!r}: the chapters are {names}")
