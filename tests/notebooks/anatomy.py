"""The anatomy of a chapter, as rules. Each rule gives its complaints in words.

`docs/maintainer.md` says what the tags mean. The rules look at form alone: whether a chapter
teaches well, no test can say.
"""

import ast
import re
from collections.abc import Callable, Iterator
from statistics import median

from chapter import ROOT, Cell, Chapter

TAGS = frozenset(
    "core naive step exercise prediction experiment widget reality ledger recap objectives "
    "nbval-ignore-output raises-exception".split()
)
LIST_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+\S", re.MULTILINE)
Rule = Callable[[Chapter], Iterator[str]]


def lengths(chapter: Chapter) -> Iterator[str]:
    """40-90 cells; median code cell at most 8 lines, none over 30."""
    if not chapter.is_tour and not 40 <= len(chapter.cells) <= 90:
        yield f"{len(chapter.cells)} cells: a chapter has 40 to 90"
    lines = {cell.place: _lines(cell) for cell in chapter.code}
    if lines and median(lines.values()) > 8:
        yield f"the median code cell has {median(lines.values()):g} lines: at most 8"
    for place, count in lines.items():
        if count > 30:
            yield f"{place} has {count} lines: at most 30"


def _lines(cell: Cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def tags(chapter: Chapter) -> Iterator[str]:
    """Tags come from the vocabulary; at most half of the code cells are not compared."""
    for cell in chapter.cells:
        if unknown := sorted(cell.tags - TAGS):
            yield f"{cell.place} has unknown tags {', '.join(unknown)}"
    ignored = [cell for cell in chapter.code if "nbval-ignore-output" in cell.tags]
    if 2 * len(ignored) > len(chapter.code):
        yield f"{len(ignored)} of {len(chapter.code)} code cells are not compared: at most half"


def objectives(chapter: Chapter) -> Iterator[str]:
    """A title; 3-5 objectives as a list; prerequisites, study time, run time."""
    if not chapter.cells or not chapter.cells[0].source.startswith("# "):
        yield "the first cell does not begin with a title (`# ...`)"
    text = "\n".join(cell.source for cell in chapter.tagged("objectives"))
    count = len(LIST_ITEM.findall(text))
    if not 3 <= count <= 5:
        yield f"{count} list items in cells tagged objectives: 3 to 5 objectives"
    for words in ("prerequisites", "study time", "run time"):
        if words not in text.lower():
            yield f"cells tagged objectives do not name the {words}"


def core_path(chapter: Chapter) -> Iterator[str]:
    """At most 45 core cells, with exactly two exercises among them."""
    if chapter.is_tour:
        return
    core = chapter.tagged("core")
    if not 0 < len(core) <= 45:
        yield f"{len(core)} core cells: 1 to 45"
    exercises = sum("exercise" in cell.tags for cell in core)
    if exercises != 2:
        yield f"{exercises} exercises on the core path: exactly two"


def predictions(chapter: Chapter) -> Iterator[str]:
    """Every prediction stands in a tagged cell and is revisited further down."""
    open_names: set[str] = set()
    seen = 0
    for cell in chapter.code:
        predicted = {_first_text(call) for call in cell.calls("predict")}
        seen += len(predicted)
        open_names |= predicted
        if predicted and "prediction" not in cell.tags:
            yield f"{cell.place} predicts and lacks the tag prediction"
        for call in cell.calls("revisit"):
            open_names -= _revisited(call)
    if open_names:
        yield f"never revisited: {', '.join(sorted(map(str, open_names)))}"
    if not seen and not chapter.is_tour:
        yield "no predict(...)"


def _revisited(call: ast.Call) -> set[str | None]:
    """The names in `revisit({"loss": 3.2})` or `revisit(loss=3.2)`."""
    keys = [key for first in call.args[:1] if isinstance(first, ast.Dict) for key in first.keys]
    names = {key.value for key in keys if isinstance(key, ast.Constant)}
    return names | {keyword.arg for keyword in call.keywords}


def _first_text(call: ast.Call) -> str | None:
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) else None


def exercises(chapter: Chapter) -> Iterator[str]:
    """4-6 stubs (one in a tour), spread out, each checked in its own cell."""
    found = [cell for cell in chapter.code if _decorated(cell)]
    low, high = (1, 6) if chapter.is_tour else (4, 6)
    if not low <= len(found) <= high:
        yield f"{len(found)} exercises: {low} to {high}"
    for cell in chapter.code:
        if ("exercise" in cell.tags) != bool(_decorated(cell)):
            yield f"{cell.place}: the tag exercise and @exercise go together"
    for one, following in zip(chapter.code, chapter.code[1:], strict=False):
        if _decorated(one) and _decorated(following):
            yield f"{following.place} follows another exercise at once: spread them out"
    names: list[str] = []
    for cell in found:
        for function in _decorated(cell):
            names.append(_exercise_name(function))
            yield from _exercise_problems(chapter, cell, function)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield f"exercises that stand twice: {', '.join(twice)}"


def _decorated(cell: Cell) -> list[ast.FunctionDef]:
    functions = [node for node in cell.tree.body if isinstance(node, ast.FunctionDef)]
    return [function for function in functions if _decorator(function)]


def _decorator(function: ast.FunctionDef) -> ast.Call | None:
    for node in function.decorator_list:
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "exercise":
            return node
    return None


def _exercise_name(function: ast.FunctionDef) -> str:
    return str(_first_text(_decorator(function)))


def _exercise_problems(chapter: Chapter, cell: Cell, function: ast.FunctionDef) -> Iterator[str]:
    name = _exercise_name(function)
    if name != f"c{chapter.number}.{function.name}":
        yield f"{cell.place} is called {name}: expected c{chapter.number}.{function.name}"
    keywords = {keyword.arg for keyword in _decorator(function).keywords}
    if missing := {"difficulty", "minutes"} - keywords:
        yield f"{name} does not give {' and '.join(sorted(missing))}"
    if not ast.get_docstring(function):
        yield f"{name} has no docstring"
    if not is_stub(function):
        yield f"{name} is no stub: its body is a docstring and `...`"
    checked = [call.args[0].id for call in cell.calls("check") if call.args]
    if checked != [function.name]:
        yield f"{name} is not checked in its own cell: check({function.name})"


def is_stub(function: ast.FunctionDef) -> bool:
    """Whether the body, its docstring aside, is `...` or `raise NotImplementedError`."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if len(body) != 1:
        return False
    (only,) = body
    if isinstance(only, ast.Expr):
        return isinstance(only.value, ast.Constant) and only.value.value is ...
    return isinstance(only, ast.Raise) and "NotImplementedError" in ast.unparse(only)


def parts(chapter: Chapter) -> Iterator[str]:
    """The parts that every chapter has, told by their tags, and the words at its end."""
    wanted = ["recap"]
    if not chapter.is_tour:
        wanted += ["naive", "experiment", "widget", "reality", "ledger"]
    for tag in wanted:
        if not chapter.tagged(tag):
            yield f"no cell tagged {tag}"
    recap = "\n".join(cell.source for cell in chapter.tagged("recap") if cell.kind == "markdown")
    if len(LIST_ITEM.findall(recap)) != 5:
        yield f"the recap has {len(LIST_ITEM.findall(recap))} list items: five lines"
    prose = "\n".join(cell.source for cell in chapter.prose).lower()
    if not re.search(r"^#+ .*further reading", prose, re.MULTILINE):
        yield "no heading `Further reading`"
    if not chapter.is_tour and "left out" not in prose:
        yield "nothing says what was left out, and why"
    if not any(cell.calls("progress") for cell in chapter.code):
        yield "no progress(...): how many exercises were attempted"


def hidden_answers(chapter: Chapter) -> Iterator[str]:
    """Hints and solutions are typed by the learner: Run All would reveal a cell of them."""
    for cell in chapter.code:
        for name in ("hint", "solution"):
            if cell.calls(name):
                yield f"{cell.place} calls {name}(...): Run All would reveal it"


def figures(chapter: Chapter) -> Iterator[str]:
    """Every picture comes with a line of text that describes it."""
    for cell in chapter.code:
        if cell.shows("image/png") or cell.shows("image/svg+xml"):
            words = re.sub(r"<[^>]*>", " ", cell.text)
            if not re.search(r"(?:\w+\W+){5}", words) or "<Figure size" in words:
                yield f"{cell.place} shows a picture without a line that describes it"


def executed(chapter: Chapter) -> Iterator[str]:
    """Executed from top to bottom; no error among the outputs."""
    counts = [cell.count for cell in chapter.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"not executed from top to bottom: counts {counts}"
    for cell in chapter.code:
        errors = [output for output in cell.outputs if output["output_type"] == "error"]
        if errors and "raises-exception" not in cell.tags:
            yield f"{cell.place} ended with {errors[0].get('ename')}"


def committed(chapter: Chapter) -> Iterator[str]:
    """Written by `course run --in-place`: cell ids, the plain kernel, no times, no widget state."""
    metadata = chapter.raw["metadata"]
    if metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"
    if set(metadata) - {"kernelspec", "language_info"}:
        yield f"metadata to remove: {sorted(set(metadata) - {'kernelspec', 'language_info'})}"
    ids = [cell.id for cell in chapter.cells]
    if not all(ids) or len(set(ids)) < len(ids):
        yield "cells without an id, or with the same one"
    extra = {key for raw in chapter.raw["cells"] for key in raw["metadata"]} - {"tags"}
    if extra:
        yield f"cell metadata to remove: {sorted(extra)}"


def surroundings(chapter: Chapter) -> Iterator[str]:
    """A teacher page, and a row in the README's table."""
    if not (ROOT / "docs" / "teacher" / f"{chapter.name}.md").is_file():
        yield f"no docs/teacher/{chapter.name}.md"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    link = f"notebooks/{chapter.name}.ipynb"
    rows = [line for line in readme.splitlines() if line.startswith("|") and link in line]
    if not rows:
        yield f"no row in the README's table links {link}"
    elif not re.search(r"\| *\d+ s *\|$", rows[0]):
        yield "its row in the README's table does not end with a measured run time, such as 25 s"
