"""What an exercise is: the library's function, inputs to test on, wrong answers, hints.

A chapter's exercises stand in one file, `c02_small_language_model.py`, as a list `EXERCISES`:

    def _cases(rng: random.Random) -> list[Case]:
        generator = torch.Generator().manual_seed(rng.getrandbits(32))
        x_TD = torch.randn(3, 4, generator=generator)
        return [Case((torch.zeros(1, 2),), "one token of zeros"), Case((x_TD,), kwargs={"eps": 1})]

    EXERCISES = [
        ExerciseSpec(
            name="c02.rms_norm",
            title="Root mean square norm",
            why="It keeps every layer's input at the same scale.",
            reference=rms_norm,
            cases=_cases,
            wrong_answers=(
                WrongAnswer("no root", lambda x_TD, eps=1e-6: x_TD / ..., "You divide by the ..."),
                ...,
            ),
            hints=("What is the mean of ...", "...", "..."),
            gradients=True,
        ),
    ]

The learner's function in the notebook has the exercise's own name: c02.rms_norm is `rms_norm`.

How an answer is judged, case by case. Every run gets fresh deep copies of the arguments, and the
global random states of Python, numpy and torch start the same, so a random answer can be compared.

- The answer must return what the reference returns (any nesting of tuple, list, dict, tensor,
  array, number, text, None), or raise the type of exception that it raises.
- `observe(result, args)` turns a result that cannot be compared as it is (a module, an iterator, a
  cache passed as argument and filled) into values that can.
- Arguments that are tensors, arrays, lists, dicts or sets must stay unchanged, unless
  `may_change_arguments=True`. Other objects (a cache, a model, a counter) may change.
- `gradients=True` compares the gradient of a fixed random projection of the outputs, with respect
  to every floating tensor among the arguments. It is a second run of the function.
- The complexity guard: give a case an argument with an integer attribute or property `work` (a
  model that counts its tokens, a function that counts its calls), and name the unit in
  `work="tokens through the model"`. After the call, the answer's work may be at most `work_slack`
  times that of the reference on the same case. Less work is always fine.

      class CountingModel:
          def __init__(self): self.work = 0
          def __call__(self, ids_T): self.work += len(ids_T); return ...

  Arguments are deep copied for each run. Where that does not work,
  `Case(make=lambda: (CountingModel(), 3))` builds them afresh.

Cases go from small to large, edge cases first. A wrong answer must differ from the reference, and
from the other wrong answers, on at least one case for every seed: the tests of the course try
several. A wrong answer may raise: an answer that raises the same on the same cases, with the same
message but for the numbers in it, gets its diagnosis. Where one mistake is written in several ways
that behave differently, the others go into `WrongAnswer(..., also=(function, ...))`. A wrong answer
may call the reference. An answer under test may not: while it runs, the reference raises, so the
arguments of a case must not call it.

The reference is a plain function of a module, at most 30 lines long, that uses only names which the
notebook has imported, since `solution(...)` shows it and the solved notebook contains it.
"""

import copy
import inspect
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from course_utils.exercises.words import count

NAME = re.compile(r"c\d\d\.[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class WrongAnswer:
    """A mistake that people really make, and what a good tutor would say about it."""

    name: str
    function: Callable[..., Any]
    diagnosis: str
    also: tuple[Callable[..., Any], ...] = ()  # other ways to write the same mistake

    @property
    def forms(self) -> tuple[Callable[..., Any], ...]:
        """Every way in which the mistake is written here."""
        return (self.function, *self.also)


@dataclass(frozen=True)
class Case:
    """One input: arguments, and in `says` the input in words where the numbers do not speak."""

    args: tuple = ()
    says: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[], tuple] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.args, tuple):
            kind = type(self.args).__name__
            raise ValueError(
                f"Case(args=...) is a {kind}: write a tuple, Case((x,)) for one argument"
            )
        if self.make is not None and self.args:
            raise ValueError("Case got both args and make: give the one or the other")

    def build(self) -> tuple[tuple, dict[str, Any]]:
        """Arguments that nobody has touched yet: deep copies, or what `make` makes."""
        args, kwargs = copy.deepcopy((self.args, dict(self.kwargs)))
        return (tuple(self.make()) if self.make else args), kwargs


@dataclass(frozen=True)
class ExerciseSpec:
    """One exercise, complete enough to be checked, explained and graded. See the module's text."""

    name: str
    title: str
    why: str
    reference: FunctionType
    cases: Callable[[random.Random], Sequence[Case]]
    wrong_answers: tuple[WrongAnswer, ...]
    hints: tuple[str, str, str]
    rtol: float = 1e-5  # for float32 and Python numbers; scaled for other dtypes
    atol: float = 1e-6
    gradients: bool = False
    work: str = ""  # the unit of work in words; empty: no complexity guard
    work_slack: float = 1.0
    observe: Callable[[Any, tuple], Any] | None = None
    may_change_arguments: bool = False
    time_limit: float = 5.0  # seconds for one case

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(f"exercise {self.name!r}: {problem}")

    @property
    def chapter(self) -> str:
        """The chapter's short name, such as "c02"."""
        return self.name.partition(".")[0]


def _problems(spec: ExerciseSpec) -> list[str]:
    """What is wrong with a spec, in words with the remedy."""
    problems = []
    if not NAME.fullmatch(spec.name):
        problems.append("a name looks like c02.rms_norm")
    if not isinstance(spec.reference, FunctionType):
        problems.append("the reference must be a plain Python function of the library")
    elif inspect.unwrap(spec.reference).__closure__ is not None:
        problems.append("the reference must stand at the top of its module, not inside a function")
    if not spec.title.strip() or not spec.why.strip():
        problems.append("title and why (one sentence on why it matters) must not be empty")
    if len(spec.hints) != 3 or not all(hint.strip() for hint in spec.hints):
        problems.append(f"it has {count(len(spec.hints), 'hint')}: write three, none empty")
    if len(spec.wrong_answers) < 3:
        named = count(len(spec.wrong_answers), "wrong answer")
        problems.append(f"it has {named}: name at least three")
    if len({wrong.name for wrong in spec.wrong_answers}) < len(spec.wrong_answers):
        problems.append("two wrong answers have the same name: rename one")
    problems += [
        f"the wrong answer {wrong.name!r} has no diagnosis: say what a tutor would say"
        for wrong in spec.wrong_answers
        if not wrong.diagnosis.strip()
    ]
    if spec.work_slack < 1 or spec.time_limit <= 0 or spec.rtol < 0 or spec.atol < 0:
        problems.append("work_slack must be >= 1, time_limit > 0, rtol and atol >= 0")
    return problems
