"""Exercises: what a notebook imports. The contract in one place; no torch is loaded here.

`@exercise` marks the learner's function, `check` tests it and decides which version runs below,
`hint` and `solution` help, `predict` and `revisit` frame the chapter, `progress` ends it. Specs are
described in `spec`, judging in `judge`, grading of whole classes in `grading`.
"""

from course_utils.exercises.helping import hint, solution
from course_utils.exercises.predicting import predict, revisit
from course_utils.exercises.standin import Exercise, check, exercise, progress

__all__ = [
    "Exercise",
    "check",
    "exercise",
    "hint",
    "predict",
    "progress",
    "revisit",
    "solution",
]
