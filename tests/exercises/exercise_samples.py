"""Small specs and notebooks for the exercise tests."""

import random
from collections.abc import Callable
from typing import Any

from course_utils.exercises.spec import Case, ExerciseSpec, WrongAnswer

HEADER = '@exercise("c00.weight_bytes", difficulty=1, minutes=5)\n'
HEADER += "def weight_bytes(parameters, bits_per_weight):\n"


def double(x: Any) -> Any:
    """Twice x: the reference of most specs here."""
    return x * 2


def make_spec(reference: Callable[..., Any] = double, **changes: Any) -> ExerciseSpec:
    """A valid spec, fast: two cases, half a second at most each."""
    fields: dict[str, Any] = {
        "name": "c99.double",
        "title": "Twice",
        "why": "It is short.",
        "reference": reference,
        "cases": lambda rng: [Case((1,)), Case((rng.randrange(5, 9),))],
        "wrong_answers": (
            WrongAnswer("half", lambda x: x / 2, "You divide."),
            WrongAnswer("same", lambda x: x, "You do nothing."),
            WrongAnswer("square", lambda x: x**2, "You square."),
        ),
        "hints": ("first", "second", "third"),
        "time_limit": 0.3,
    }
    return ExerciseSpec(**{**fields, **changes})


def tensor_spec(reference: Callable[..., Any] = double, **changes: Any) -> ExerciseSpec:
    """The same on tensors, from small to large."""

    def cases(rng: random.Random) -> list[Case]:
        import torch

        generator = torch.Generator().manual_seed(rng.getrandbits(32))
        return [
            Case((torch.ones(1, 2),), says="ones"),
            Case((torch.randn(2, 3, generator=generator),)),
        ]

    return make_spec(reference, **{"cases": cases, **changes})


def as_notebook(*cells: str) -> dict[str, Any]:
    """A notebook as a dict; the sources are code cells."""
    made = [
        {
            "cell_type": "code",
            "source": source,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "id": f"cell-{position}",
        }
        for position, source in enumerate(cells)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
