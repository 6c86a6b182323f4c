"""Fixtures of the exercise tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exercise_samples import as_notebook, make_spec

from course_utils.exercises import Exercise
from course_utils.exercises.spec import ExerciseSpec


@pytest.fixture
def attempt() -> Callable[..., Exercise]:
    """Wrap a function as the learner's answer to a spec."""

    def wrap(function: Callable[..., Any], spec: ExerciseSpec | None = None) -> Exercise:
        return Exercise(spec or make_spec(), function, 1, 1)

    return wrap


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    """Write a notebook with these code cells."""

    def write(*cells: str, name: str = "learner.ipynb") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(as_notebook(*cells)), encoding="utf-8")
        return path

    return write
