"""A small chapter that keeps every rule, made here to be broken rule by rule."""

import json
from pathlib import Path
from typing import Any

from chapter import Chapter

EXERCISE = '''@exercise("c03.{name}", difficulty=2, minutes=10)
def {name}(x):
    """Double it."""
    ...


check({name})'''
OBJECTIVES = """**Objectives**

- count
- compare
- decide

Prerequisites: none. Study time: 90 minutes. Run time: 20 s."""
RECAP = "## Recap\n" + "\n".join(f"{n}. line" for n in range(1, 6))
PICTURE = {
    "output_type": "display_data",
    "data": {"image/png": "iVBOR", "text/plain": "<Figure>"},
    "metadata": {},
}
WORDS = {
    "output_type": "stream",
    "name": "stdout",
    "text": "Figure: loss falls as the size of the model grows.\n",
}


def markdown(source: str, *tags: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {"tags": list(tags)}}


def code(source: str, *tags: str, outputs: tuple = ()) -> dict[str, Any]:
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}}
    return cell | {"outputs": list(outputs), "execution_count": None}


def cells() -> list[dict[str, Any]]:
    """The cells of the good chapter."""
    made = [
        markdown("# A chapter\n\nThe question.", "core"),
        markdown(OBJECTIVES, "objectives", "core"),
        code('guess = predict("loss", None)', "prediction", "core"),
        code("def slow(x):\n    return x + x", "naive", "core"),
    ]
    for number in range(4):
        extra = ["core"] if number < 2 else []
        made.append(code(EXERCISE.format(name=f"double_{number}"), "exercise", *extra))
        made += [code(f"double_{number}(3)"), markdown("Look at the value.")]
    made += [markdown(f"Thought {number}.") for number in range(20)]
    made += [
        code("draw()", "experiment", outputs=(PICTURE, WORDS)),
        code("interact(draw, k=3)", "widget", "nbval-ignore-output"),
        code("compare()", "reality"),
        code("ledger()", "ledger"),
        code("progress()"),
        code('revisit({"loss": 2.0})'),
        markdown(RECAP, "recap"),
        markdown("## What we left out\n\nMuch."),
        markdown("## Further reading\n\nSection 3."),
    ]
    return made


def chapter(folder: Path, made: list[dict[str, Any]], name: str = "03_specimen") -> Chapter:
    """Write the cells as an executed notebook, and read it as a chapter."""
    count = 0
    for index, cell in enumerate(made):
        cell.setdefault("id", f"cell-{index}")
        if cell["cell_type"] == "code" and cell["execution_count"] is None:
            count += 1
            cell["execution_count"] = count
    path = folder / f"{name}.ipynb"
    metadata = {"kernelspec": {"name": "python3"}, "language_info": {"name": "python"}}
    text = json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    path.write_text(text, encoding="utf-8")
    return Chapter(path)
