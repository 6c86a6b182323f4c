"""Finds the exercises of a chapter: `c02.rms_norm` is in the file `c02_*.py` of this folder.

A chapter's file is imported when one of its exercises is asked for, not before. A mistake in a file
(no list, two exercises of one name, an exercise of another chapter) is an error at once.
"""

import functools
import importlib
from pathlib import Path

from course_utils.exercises.spec import ExerciseSpec

_FOLDER = Path(__file__).parent


def chapters() -> list[str]:
    """The chapters that have exercises, by short name: ["c00", "c02"]."""
    return sorted(path.name[:3] for path in _FOLDER.glob("c[0-9][0-9]_*.py"))


@functools.cache
def exercises_of(chapter: str) -> tuple[ExerciseSpec, ...]:
    """The exercises of a chapter ("c02"), in the order of its file."""
    files = sorted(_FOLDER.glob(f"{chapter}_*.py")) if chapter in chapters() else []
    if not files:
        raise ValueError(f"no chapter {chapter!r} with exercises: there are {_listed(chapters())}")
    if len(files) > 1:
        raise ValueError(f"chapter {chapter} has two files: {_listed([f.name for f in files])}")
    module = importlib.import_module(f"{__package__}.{files[0].stem}")
    return validated(chapter, getattr(module, "EXERCISES", None), files[0].name)


def validated(chapter: str, specs: object, file: str) -> tuple[ExerciseSpec, ...]:
    """The specs as a tuple, or a ValueError that says what is wrong with the list."""
    if not isinstance(specs, list) or not specs:
        raise ValueError(f"{file} must define EXERCISES, a list of at least one ExerciseSpec")
    for spec in specs:
        if not isinstance(spec, ExerciseSpec):
            raise ValueError(f"{file}: EXERCISES holds {spec!r}, which is no ExerciseSpec")
        if spec.chapter != chapter:
            raise ValueError(f"{file}: {spec.name} belongs to another chapter than {chapter}")
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{file}: defined twice: {_listed(twice)}")
    return tuple(specs)


def find(name: str) -> ExerciseSpec:
    """The exercise of that name; ValueError with the known names when there is none."""
    chapter = name.partition(".")[0] if isinstance(name, str) else ""
    if chapter not in chapters():
        raise ValueError(
            f"unknown exercise {name!r}: a name is a chapter and a function, such as "
            f"'c00.weight_bytes'; chapters with exercises: {_listed(chapters())}"
        )
    known = {spec.name: spec for spec in exercises_of(chapter)}
    if name not in known:
        raise ValueError(f"unknown exercise {name!r}: chapter {chapter} has {_listed(list(known))}")
    return known[name]


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"
