"""Reading, writing and checking records.

A recipe module has `RECORD` (its name), `rows(device)` (all rows, made anew), `sample()` (one cheap
row, made anew on this machine) and `KEYS` (the columns that tell one row from another) and
`TOLERANCE` (how far each measured column may lie from the recorded one). Floating-point sums differ
between machines, and training amplifies that, so a rerun agrees within a tolerance and never to the
last digit.
"""

import ast
import csv
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

FOLDER = Path(__file__).parent
RECIPES = {
    "c02_scaling": "course_utils.records.scaling",
    "c02_smollm2": "course_utils.records.smollm2",
    "c03_dense_vs_moe": "course_utils.records.dense_vs_moe",
    "c04_balance": "course_utils.records.balance",
    "c05_granularity": "course_utils.records.granularity",
    "c06_expert_parallel": "course_utils.records.expert_parallel",
    "c07_smaller_cache": "course_utils.records.conversion",
    "c08_recall": "course_utils.records.recall",
    "c09_acceptance": "course_utils.records.acceptance",
    "c10_distillation": "course_utils.records.distillation",
    "c10_student": "course_utils.records.student",
    "c12_adapters": "course_utils.records.adapters",
    "c11_reasoning": "course_utils.records.reasoning",
    "c12_healing": "course_utils.records.pruning",
    "c12_smollm2": "course_utils.records.smollm2_pruning",
    "c13_rounding": "course_utils.records.quantization",
    "c14_calibrated": "course_utils.records.calibrated",
    "c14_experts": "course_utils.records.rare_experts",
    "c14_outliers": "course_utils.records.outliers",
    "c14_sensitivity": "course_utils.records.sensitivity",
    "c14_smollm2": "course_utils.records.gptq_smollm2",
    "c15_kv_cache": "course_utils.records.kv_quantization",
    "c15_qat": "course_utils.records.qat",
    "c17_load": "course_utils.records.load_sweep",
    "c18_cluster": "course_utils.records.cluster",
    "c18_engine": "course_utils.records.engine_calibration",
    "c18_mooncake": "course_utils.records.mooncake",
}
HASHES = ("code", "corpus")  # text, even where the digits look like a number such as 7412e9
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
CODE = (
    *("attention", "layers", "models/blocks.py", "models/config.py", "models/decoder.py"),
    *("training/evaluate.py", "training/loop.py", "training/loss.py"),
    *("data/arithmetic.py", "data/batches.py", "data/corpus.py", "data/texts.py"),
)
EXPERT_CODE = (
    *CODE,
    *("moe/config.py", "moe/rules.py", "moe/routing.py", "moe/experts.py", "moe/layer.py"),
    *("moe/balance.py", "moe/load.py", "training/moe_balance.py"),
)


@dataclass(frozen=True)
class Record:
    """A recorded experiment: its rows, and the command that makes them again."""

    name: str
    rows: list[dict[str, str | float]]
    command: str


@dataclass(frozen=True)
class VerifyResult:
    """Whether a rerun row agrees with the recorded one, and the comparison in words."""

    ok: bool
    text: str


def names() -> list[str]:
    """The records that can be rerun."""
    return list(RECIPES)


def code_hash(parts: Sequence[str] = CODE) -> str:
    """Twelve digits over the code that decides a training run; comments and docstrings are free.

    `parts` are files and folders of the package: `CODE`, or `EXPERT_CODE` for models with experts.
    """
    digest = hashlib.sha256()
    for part in parts:
        place = FOLDER.parent / part
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(path.name.encode() + b"\n".join(_statements(path)))
    return digest.hexdigest()[:12]


def _statements(path: Path) -> list[bytes]:
    """The lines of a module without blank lines, whole-line comments and docstrings.

    By lines and not by syntax trees, because those differ between Python versions.
    """
    text = path.read_text(encoding="utf-8")
    lines = dict(enumerate(text.splitlines(), 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            for number in range(node.body[0].lineno, node.body[0].end_lineno + 1):
                lines.pop(number, None)
    kept = (line.strip() for line in lines.values())
    return [line.encode() for line in kept if line and not line.startswith("#")]


def save_record(name: str, rows: list[dict]) -> Path:
    """Write rows (all with the same columns) as the record `name`."""
    path = FOLDER / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def load_record(name: str) -> Record:
    """A record by name; numbers become floats. ValueError for an unknown name."""
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.csv")))
        raise ValueError(f"no record {name!r}: there are {known}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [
            {key: value if key in HASHES else _number(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    command = f"python -m {RECIPES[name]}" if name in RECIPES else ""
    return Record(name, rows, command)


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def verdict(one: str, a: Sequence[float], other: str, b: Sequence[float]) -> str:
    """Which of two recorded sides has the lower mean, if the gap is more than twice the spread.

    The spread is the larger standard deviation of the two sides' seeds, at least two each.
    """
    gap, spread = mean(a) - mean(b), max(stdev(a), stdev(b))
    better = f"{other if gap > 0 else one} is better"
    found = better if abs(gap) > 2 * spread else "no verdict: within twice the spread"
    return f"{one} {mean(a):.3f}, {other} {mean(b):.3f}, spread {spread:.3f}: {found}"


def verify(name: str) -> VerifyResult:
    """Rerun one cheap row of a record on this machine and compare it with the recorded one."""
    if name not in RECIPES:
        raise ValueError(f"no record {name!r} can be rerun: there are {', '.join(RECIPES)}")
    recipe = importlib.import_module(RECIPES[name])
    again = recipe.sample()
    keys = {key: again[key] for key in recipe.KEYS}
    found = [
        row
        for row in load_record(name).rows
        if all(row[key] == _number(str(value)) for key, value in keys.items())
    ]
    if len(found) != 1:
        return VerifyResult(False, f"{name}: {len(found)} recorded rows have {keys}, expected one")
    lines, ok = [], True
    for column, tolerance in recipe.TOLERANCE.items():
        recorded, now = float(found[0][column]), float(again[column])
        good = abs(recorded - now) <= tolerance
        ok &= good
        word = "agrees" if good else "DIFFERS"
        lines.append(f"  {column}: recorded {recorded:.4f}, now {now:.4f} ({word}, +-{tolerance})")
    for column in HASHES:
        if found[0][column] != again[column]:
            lines.append(f"  note: the record was made with other {column} ({found[0][column]})")
    return VerifyResult(ok, "\n".join([f"{name} {keys}", *lines]))
