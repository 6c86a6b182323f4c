"""Rooms import one way; some load no torch; the package itself loads at once.

The table below is the design's. A room may import itself, what stands beside it, and the ground:
files that any room may use because they use nothing of the course but each other.
"""

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import course_utils

PACKAGE = Path(course_utils.__file__).parent
GROUND = {"paths", "data.assets", "data.fetch", "data.tokenizer"}
MODELS = {"layers", "formats", "attention", "moe", "accounting", "models"}
ALLOWED: dict[str, set[str]] = {
    "accounting": set(),
    "scheduling": set(),
    "hardware": {"accounting"},
    "simulation": {"scheduling", "accounting", "hardware"},
    "layers": set(),
    "formats": set(),
    "attention": {"layers"},
    "moe": {"layers"},
    "models": MODELS,
    "data": MODELS,
    "training": MODELS | {"data"},
    "generation": MODELS | {"data"},
    "distillation": MODELS | {"data", "training", "generation"},
    "pruning": MODELS | {"data", "training", "generation", "distillation"},
    "quantization": MODELS | {"data", "training", "generation"},
    "multimodal": MODELS | {"data", "training", "generation"},
    "release": MODELS | {"data", "training", "generation", "quantization"},
    "serving": MODELS | {"generation", "scheduling", "simulation"},
}
ALLOWED["records"] = set(ALLOWED) - {"records"}  # recorded runs use training and all below
ANY = {"exercises", "display", "commands", "cli", "__main__"}  # may use any room
NOT_BY_ROOMS = ANY  # and no room uses them
NO_TORCH = ("accounting", "scheduling", "simulation", "hardware", "commands", "cli", "data.fetch")
NO_TORCH += (
    "paths",
    "commands.steps",
    "commands.run_command",
    "commands.update",
    "commands.doctor",
    "serving.mock",
    "serving.server",
    "serving.thread",
)


def imports(path: Path) -> Iterator[str]:
    """The course's own modules that a file imports, lazily or not, such as `models.config`."""
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ("course_utils", *inside)[: len(inside) + 1 - node.level]
                base = ".".join([*above, base]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (
            name.removeprefix("course_utils.") for name in names if name.startswith("course_utils.")
        )


def complaint(room: str, imported: str) -> str:
    """Why a room may not import this, or nothing."""
    other = imported.split(".")[0]
    if other == room or room in ANY or _is_ground(imported) or imported == "__version__":
        return ""
    if other in NOT_BY_ROOMS:
        return f"{room} imports {imported}: no room uses {other}"
    if other not in ALLOWED.get(room, set()):
        return f"{room} imports {imported}: it may use {sorted(ALLOWED.get(room, set()))}"
    return ""


def _is_ground(imported: str) -> bool:
    return any(imported == name or imported.startswith(name + ".") for name in GROUND)


def _rooms() -> dict[str, list[Path]]:
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            rooms.setdefault(parts[0], []).append(path)
    return rooms


@pytest.mark.parametrize("room", sorted(_rooms()))
def test_imports_point_one_way(room):
    assert room in ALLOWED or room in ANY or room in GROUND, f"unknown room {room}"
    problems = []
    for path in _rooms()[room]:
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for imported in imports(path):
            if _is_ground(module) and not _is_ground(imported):
                problems.append(f"{module} is ground and imports {imported}")
            elif why := complaint(room, imported):
                problems.append(f"{path.relative_to(PACKAGE)}: {why}")
    assert not problems, "\n".join(problems)


def test_the_table_has_no_cycle():
    for room, below in ALLOWED.items():
        for other in below - {room}:
            assert room not in ALLOWED[other], f"{room} and {other} may import each other"


@pytest.mark.parametrize(
    ("room", "imported", "allowed"),
    [
        ("layers", "layers.norm", True),
        ("layers", "models.config", False),
        ("models", "attention.cache", True),
        ("attention", "moe.router", False),
        ("models", "data.assets.asset_path", True),
        ("models", "data.corpus", False),
        ("training", "exercises.check", False),
        ("training", "commands.run", False),
        ("exercises", "training.loop", True),
        ("data", "training.loop", False),
        ("records", "training.loop", True),
        ("training", "records", False),
        ("nowhere", "layers", False),
    ],
)
def test_the_rule_itself(room, imported, allowed):
    assert (complaint(room, imported) == "") is allowed


def test_imports_are_found_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "layers").mkdir()
    file = tmp_path / "layers" / "norm.py"
    file.write_text(
        "import torch, course_utils.moe\nfrom course_utils.data import fetch\n"
        "def f():\n    from ..models import config\n    from . import rope\n"
        "from course_utils import display\n"
    )
    found = {"moe", "data.fetch", "models.config", "layers.rope", "display"}
    assert set(imports(file)) == found


@pytest.mark.parametrize("module", [name for name in NO_TORCH])
def test_loads_no_torch(module):
    path = PACKAGE / module.replace(".", "/")
    if not (path.with_suffix(".py").is_file() or any(path.glob("*.py"))):
        pytest.skip(f"no {module} yet")
    files = sorted(path.glob("*.py")) if path.is_dir() and module != "commands" else []
    names = [f"course_utils.{module}"] + [
        f"course_utils.{module}.{file.stem}" for file in files if file.stem != "__init__"
    ]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]"
    loaded = _python(code + "; print([m for m in ('torch', 'matplotlib') if m in sys.modules])")
    assert loaded == "[]", f"importing {module} loads {loaded}"


def test_the_package_loads_at_once():
    assert _python("import course_utils, sys; print('torch' in sys.modules)") == "False"
    bare = min(_seconds("pass") for _ in range(5))
    ours = min(_seconds("import course_utils") for _ in range(5))
    assert ours - bare < 0.3


def _seconds(code: str) -> float:
    began = time.perf_counter()
    _python(code)
    return time.perf_counter() - began


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
