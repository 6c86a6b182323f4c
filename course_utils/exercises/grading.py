"""Grades notebooks: what every learner's function does on fresh inputs, in a process of its own.

    rows = grade_files(["anna/02.ipynb", "ben/02.ipynb"], seed=7)
    write_csv(rows, "grades.csv"); write_json(rows, "grades.json"); print(class_matrix(rows))

Each file is read by `extract`, which takes the answers and what they need, so an edited check cell
changes nothing. A worker process judges them with the same checks as the notebook, on inputs from
a fresh seed, which every row records: the same seed repeats the result. When a worker hangs or
dies, the answer it was at is blamed and a new worker goes on with the rest. Every file gets rows,
whatever is wrong with it. This is for teaching, not for examinations: who wants to cheat can.
"""

import csv
import dataclasses
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from course_utils.exercises import catalog
from course_utils.exercises.class_matrix import ClassMatrix, class_matrix
from course_utils.exercises.extract import Answer, Extraction, extract
from course_utils.exercises.supervise import Outcome, supervise

__all__ = ["ClassMatrix", "GradeRow", "class_matrix", "grade_files", "write_csv", "write_json"]


@dataclass(frozen=True)
class GradeRow:
    """One learner, one exercise.

    status is one of: passed, failed, not attempted (a stub), missing (not in the file), time limit,
    memory limit, crashed (the process ended), unknown exercise, unreadable (the file).
    """

    learner: str
    exercise: str
    status: str
    points: int
    diagnosis: str = ""  # the name of the mistake, where it is a known one
    diagnosis_text: str = ""  # what a tutor would say
    message: str = ""  # what was seen
    seed: int = 0
    file: str = ""


def grade_files(
    paths: Iterable[str | Path],
    *,
    seed: int | None = None,
    time_limit: float = 60.0,
    memory_mb: int = 2048,
    on_file: Callable[[Path], None] | None = None,
) -> list[GradeRow]:
    """Grade every file; `time_limit` in seconds per exercise, `memory_mb` beyond the libraries.

    `on_file` is called when a file is done (for a progress bar).
    """
    if time_limit <= 0 or memory_mb <= 0:
        raise ValueError(f"time_limit {time_limit} and memory_mb {memory_mb} must be above 0")
    seed = secrets.randbelow(10**9) if seed is None else seed
    files = list(dict.fromkeys(Path(path) for path in paths))
    rows: list[GradeRow] = []
    for file, learner in zip(files, learner_names(files), strict=True):
        found = _graded(file, seed, time_limit, memory_mb)
        rows += [
            dataclasses.replace(row, learner=learner, seed=seed, file=str(file)) for row in found
        ]
        if on_file:
            on_file(file)
    return rows


def learner_names(files: Sequence[Path]) -> list[str]:
    """The stem of each file, with as many folders before it as make all of them different."""
    stems = [file.resolve().with_suffix("") for file in files]
    for length in range(1, max((len(stem.parts) for stem in stems), default=0) + 1):
        names = ["/".join(stem.parts[-length:]) for stem in stems]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def _graded(file: Path, seed: int, time_limit: float, memory_mb: int) -> list[GradeRow]:
    """The rows of one file, still without learner, seed and file."""
    try:
        extraction = extract(file)
    except ValueError as error:
        return [GradeRow("", "", "unreadable", 0, message=str(error))]
    known = [name for name in extraction.answers if _is_known(name)]
    unknown = [name for name in extraction.answers if name not in known]
    rows = [_unknown(name) for name in unknown]
    if not extraction.answers:
        problems = "; ".join(extraction.problems)
        said = f"no @exercise function in it. {problems}".strip()
        return [GradeRow("", "", "unreadable", 0, message=said)]
    chapters = dict.fromkeys(name.partition(".")[0] for name in known)
    expected = [spec.name for chapter in chapters for spec in catalog.exercises_of(chapter)]
    written = [extraction.answers[name] for name in expected if name in known]
    to_run = [answer for answer in written if not answer.stub]
    outcomes = supervise(to_run, seed=seed, time_limit=time_limit, memory_mb=memory_mb)
    return [*(_row(name, extraction, outcomes) for name in expected), *rows]


def _row(name: str, extraction: Extraction, outcomes: dict[str, Outcome]) -> GradeRow:
    answer = extraction.answers.get(name)
    problems = "; ".join(extraction.problems)
    if answer is None:
        return GradeRow("", name, "missing", 0, message=f"not in the file. {problems}".strip())
    if answer.stub:
        return GradeRow("", name, "not attempted", 0)
    outcome = outcomes[name]
    said = ". ".join(filter(None, [outcome.message, _unresolved(answer), problems]))
    points = int(outcome.status == "passed")
    return GradeRow(
        "", name, outcome.status, points, outcome.diagnosis, outcome.diagnosis_text, said
    )


def _unresolved(answer: Answer) -> str:
    if not answer.unresolved:
        return ""
    return (
        f"it uses {', '.join(answer.unresolved)}, which no cell defines as an import, a function, "
        "a class or a plain constant: compute it inside the function"
    )


def _is_known(name: str) -> bool:
    try:
        return bool(catalog.find(name))
    except ValueError:
        return False


def _unknown(name: str) -> GradeRow:
    try:
        catalog.find(name)
    except ValueError as error:
        return GradeRow("", name, "unknown exercise", 0, message=str(error))
    raise AssertionError(name)


def write_csv(rows: Iterable[GradeRow], path: str | Path) -> None:
    """One line a row, in UTF-8 with a mark at the start so that spreadsheets read it."""
    names = [field.name for field in dataclasses.fields(GradeRow)]
    with open(path, "w", newline="", encoding="utf-8-sig", errors="replace") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({key: _harmless(v) for key, v in vars(row).items()} for row in rows)


def _harmless(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return (
        f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
    )


def write_json(rows: Iterable[GradeRow], path: str | Path) -> None:
    """A list of objects, one a row."""
    text = json.dumps([dataclasses.asdict(row) for row in rows], indent=2, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8", errors="replace")
