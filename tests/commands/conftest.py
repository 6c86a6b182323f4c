"""A small checkout of the course, with notebooks made here."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_utils import paths


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """An empty clone of the course in place of the real one; the current folder is in it."""
    root = tmp_path / "clone"
    (root / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(paths, "checkout", lambda: root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def write_notebook(checkout):
    """Write a notebook with a title and these code cells; cell ids are a, b, c, ..."""

    def write(name: str, *sources: str) -> Path:
        cells = [new_markdown_cell("# Title", id="title")]
        for letter, source in zip("abcdefgh", sources, strict=False):
            cell = new_code_cell(source, id=letter, metadata={"tags": ["core"]})
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="old\n")]
            cell.execution_count = 7
            cells.append(cell)
        notebook = new_notebook(cells=cells)
        notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "old one"}}
        path = checkout / "notebooks" / f"{name}.ipynb"
        nbformat.write(notebook, path)
        return path

    return write
