"""`hint` reveals one staged hint after another; `solution` shows the library's source.

There is no second copy of a solution: what is shown is what the library runs.
"""

import inspect

from course_utils.exercises import catalog
from course_utils.exercises.panel import Code, Panel, show
from course_utils.exercises.spec import ExerciseSpec

_revealed: dict[str, int] = {}  # how many hints of each exercise this kernel has shown


def hint(name: str) -> None:
    """Show the next of the exercise's three hints."""
    spec = _spec(name)
    shown = min(_revealed.get(spec.name, 0) + 1, len(spec.hints))
    _revealed[spec.name] = shown
    left = (
        "Run it again for the next one."
        if shown < len(spec.hints)
        else f'That is the last one. The whole answer: solution("{spec.name}")'
    )
    title = f"{spec.name}: hint {shown} of {len(spec.hints)}"
    show(Panel(title, (spec.hints[shown - 1], left), "note"))


def solution(name: str) -> None:
    """Show the library's own function: what the course's version runs."""
    spec = _spec(name)
    function = inspect.unwrap(spec.reference)
    title = f"{spec.name}: {function.__name__} in {function.__module__}"
    show(Panel(title, (Code(inspect.getsource(function).rstrip()),), "note"))


def _spec(name: object) -> ExerciseSpec:
    """The exercise by its name; the function that `@exercise` made is accepted as well."""
    return catalog.find(getattr(name, "name", name))  # type: ignore[arg-type]
