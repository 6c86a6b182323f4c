"""`@exercise` and `check`: the learner's function where it is right, the course's where it is not.

`@exercise("c02.rms_norm", difficulty=2, minutes=10)` puts a stand-in in the place of the function
below it. Called, the stand-in runs the course's version until `check` has found the learner's
right; from then on it runs the learner's. So the cells below always work, and `check` always says
which version they use. A cell that is run again makes a new stand-in, with nothing checked.

`progress` lists what was attempted: for each exercise the latest function of the exercise's own
name that this kernel has seen, which is the one that the cells below call. A try under another name
(`rms_norm_first_try`) is checked in the same way and does not count.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from course_utils.exercises import catalog, words
from course_utils.exercises.judge import Verdict, judge, prepare
from course_utils.exercises.panel import Panel, Table, show
from course_utils.exercises.report import failing, not_attempted, passing
from course_utils.exercises.spec import ExerciseSpec
from course_utils.exercises.stubs import is_stub

Status = Literal["not attempted", "not checked", "passed", "failed"]

_defined: dict[str, "Exercise"] = {}  # of each exercise, the latest stand-in of its own name


class Exercise:
    """A callable that stands for the learner's function, or for the course's version of it."""

    def __init__(
        self, spec: ExerciseSpec, learners: Callable[..., Any], difficulty: int, minutes: int
    ) -> None:
        self.spec, self.learners = spec, learners
        self.difficulty, self.minutes = difficulty, minutes
        self.status: Status = "not attempted" if is_stub(learners) else "not checked"
        self.uses_learners = False
        functools.update_wrapper(self, learners)

    @property
    def name(self) -> str:
        """The exercise's name, such as "c02.rms_norm"."""
        return self.spec.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = self.learners if self.uses_learners else self.spec.reference
        return function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Exercise":
        return self  # a copied model goes on using what `check` decides

    def __repr__(self) -> str:
        whose = "your version" if self.uses_learners else "the course's version"
        return f"<exercise {self.name}: {self.status}, {whose} is used>"

    def check(self, use_mine: bool = False) -> Verdict | None:
        """Judge the learner's function and decide which version runs; None for a stub."""
        if self.status == "not attempted":
            return None
        task = prepare(self.spec)
        self.status, self.uses_learners = "not checked", True  # a recursive answer calls itself
        try:
            verdict = judge(task, self.learners)
        except BaseException:
            self.uses_learners = False
            raise
        self.status = "passed" if verdict.passed else "failed"
        self.uses_learners = verdict.passed or use_mine
        return verdict


def exercise(
    name: str, *, difficulty: int, minutes: int
) -> Callable[[Callable[..., Any]], Exercise]:
    """Mark the function below as the answer to an exercise; difficulty from 1 to 5."""
    spec = catalog.find(name)
    if not isinstance(difficulty, int) or not 1 <= difficulty <= 5:
        raise ValueError(f"{name}: difficulty {difficulty!r}: give a whole number from 1 to 5")
    if not isinstance(minutes, int) or minutes < 1:
        raise ValueError(f"{name}: minutes {minutes!r}: give a whole number of at least 1")

    def mark(learners: Callable[..., Any]) -> Exercise:
        if not inspect.isfunction(learners):
            raise ValueError(f"{name}: @exercise stands above a function, got {learners!r}")
        answer = Exercise(spec, learners, difficulty, minutes)
        if learners.__name__ == name.partition(".")[2]:
            _defined.pop(name, None)  # so that the latest stands last
            _defined[name] = answer
        return answer

    return mark


def check(answer: Exercise, *, use_mine: bool = False) -> None:
    """Test the learner's function and say which version is used from here on.

    A right answer is used. A wrong one is not, unless `use_mine=True`.
    """
    if not isinstance(answer, Exercise):
        raise ValueError(
            f"check got {words.kind(answer)}: give it the function itself, defined in a cell that "
            f"begins with @exercise(...), without calling it{_example()}"
        )
    verdict = answer.check(use_mine)
    called = answer.learners.__name__
    if verdict is None:
        show(not_attempted(answer.spec))
    elif verdict.passed:
        show(passing(answer.spec, verdict, called))
    else:
        show(failing(answer.spec, verdict, called, use_mine))


def _example() -> str:
    """The call to write, for the exercise that was defined last in this session."""
    return f": check({list(_defined.values())[-1].__name__})" if _defined else ""


def defined(name: str) -> Exercise | None:
    """The latest stand-in of an exercise's own name in this session."""
    return _defined.get(name)


def progress(chapter: str) -> None:
    """Say what was attempted in a chapter ("c02"), and whose versions the results rest on."""
    specs = catalog.exercises_of(chapter)
    answers = {spec.name: defined(spec.name) for spec in specs}
    attempted = [a for a in answers.values() if a and a.status != "not attempted"]
    by_course = [name for name, a in answers.items() if not a or not a.uses_learners]
    said = f"You attempted {len(attempted)} of {len(specs)}; the results above rest on "
    said += f"the course's version of: {', '.join(by_course)}." if by_course else "your own work."
    rows = tuple(_progress_row(name, answer) for name, answer in answers.items())
    show(Panel(said, (Table(("exercise", "status", "version used"), rows),), "note"))


def _progress_row(name: str, answer: Exercise | None) -> tuple[str, str, str]:
    if answer is None:
        return name, "not defined in this session", "the course's"
    return name, answer.status, "yours" if answer.uses_learners else "the course's"
