"""The learner's copies in `work/`: notebooks without outputs, and what is known of them.

How it works: `.handed_out.json` remembers a hash of each copy as it was handed out. The hash is
taken over cell types and sources only, so running cells does not count as an edit. A copy whose
hash differs from the one handed out holds answers, and is never overwritten without a backup in
`work/backups/`. Nothing is merged: a new version beside an old one is plain to see, and a wrong
merge in a learner's answer is not.
"""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

MANIFEST = ".handed_out.json"


def read_notebook(path: Path) -> dict[str, Any] | None:
    """The notebook as a dict, or None when the file is no notebook (any more)."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return notebook if isinstance(notebook["cells"], list) else None
    except (ValueError, KeyError, TypeError):
        return None


def without_outputs(notebook: dict[str, Any]) -> dict[str, Any]:
    """Remove outputs, counts and widget state; ids, tags and sources stay. Changes it in place."""
    notebook.get("metadata", {}).pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            cell["metadata"].pop("execution", None)
    return notebook


def content_hash(path: Path) -> str:
    """A hash of cell types and sources; of all bytes where the file is no notebook."""
    notebook = read_notebook(path)
    if notebook is None:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    cells = [[cell.get("cell_type"), _text(cell.get("source"))] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _text(source: str | list[str] | None) -> str:
    return source if isinstance(source, str) else "".join(source or [])


class Work:
    """The folder `work/`: hand out, tell whether a copy was edited, back up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._handed_out = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._handed_out = {}

    def edited(self, name: str, course_hash: str) -> bool:
        """Whether the copy differs from what was handed out (from the course's, if unknown)."""
        known = (self._handed_out.get(name), course_hash)
        return content_hash(self.folder / name) not in known

    def is_version(self, name: str, course_hash: str) -> bool:
        """Whether the copy was handed out from this version of the course's notebook."""
        return self._handed_out.get(name) == course_hash

    def hand_out(self, source: Path, name: str) -> None:
        """Write the course's notebook without outputs as `work/name`, and remember it."""
        notebook = read_notebook(source)
        if notebook is None:
            raise ValueError(f"{source} is no notebook: restore it, for example with git")
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(without_outputs(notebook), indent=1, ensure_ascii=False) + "\n"
        _write(self.folder / name, text)
        self.remember(name, content_hash(source))

    def remember(self, name: str, course_hash: str) -> None:
        """Note that the copy is this version of the course's notebook."""
        if self._handed_out.get(name) != course_hash:
            self._handed_out[name] = course_hash
            text = json.dumps(self._handed_out, indent=1, sort_keys=True) + "\n"
            _write(self.folder / MANIFEST, text)

    def back_up(self, name: str) -> Path:
        """Copy `work/name` into `work/backups/` under a free name, and give its path."""
        backups = self.folder / "backups"
        backups.mkdir(exist_ok=True)
        stamp, stem = time.strftime("%Y%m%d-%H%M%S"), name.removesuffix(".ipynb")
        content = (self.folder / name).read_bytes()
        for counter in range(1000):
            ending = f".{counter}" if counter else ""
            target = backups / f"{stem}.{stamp}{ending}.ipynb"
            with contextlib.suppress(FileExistsError), target.open("xb") as file:
                file.write(content)
                return target
        raise FileExistsError(f"{backups} has a thousand backups of this second: remove some")


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
