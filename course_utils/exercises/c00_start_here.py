"""The one exercise of chapter 00: from parameters to bytes."""

import random
from math import ceil

from course_utils.accounting.weights import weight_bytes
from course_utils.exercises.spec import Case, ExerciseSpec, WrongAnswer


def _cases(rng: random.Random) -> list[Case]:
    return [
        Case((0, 16), says="a model without weights"),
        Case((1, 4), says="one weight of 4 bits: half a byte, and bytes come whole"),
        Case((3, 4), says="three weights of 4 bits: one byte and a half"),
        Case((1, 16), says="one weight of 16 bits"),
        Case((2 * rng.randrange(50, 500) + 1, 4), says="an odd number of 4-bit weights"),
        # 16 n + 11 weights of 1.5 bits end half a bit after a whole byte: adding 7 bits falls short
        Case((16 * rng.randrange(10, 90) + 11, 1.5), says="tiny weights of 1.5 bits on average"),
        Case((rng.randrange(100_000_000, 200_000_000), 32), says="a small model in float32"),
        Case((rng.randrange(6, 9) * 10**9, 4.5), says="4-bit weights with their scales"),
        Case((671_026_419_200, 8), says="a very large model in 8 bits"),
    ]


_BITS = WrongAnswer(
    "bits instead of bytes",
    lambda parameters, bits_per_weight: parameters * bits_per_weight,
    "Your result is about 8 times too large: parameters times bits gives bits. How many bits make "
    "a byte?",
    also=(
        lambda parameters, bits_per_weight: ceil(parameters * bits_per_weight),
        lambda parameters, bits_per_weight: int(parameters * bits_per_weight),
    ),
)
_TIMES_EIGHT = WrongAnswer(
    "multiplied by 8",
    lambda parameters, bits_per_weight: parameters * bits_per_weight * 8,
    "You multiply by 8 where you should divide: a byte holds 8 bits, so there are fewer bytes than "
    "bits.",
    also=(lambda parameters, bits_per_weight: ceil(parameters * bits_per_weight * 8),),
)
_BYTES_PER_WEIGHT = WrongAnswer(
    "whole bytes per weight",
    lambda parameters, bits_per_weight: parameters * (bits_per_weight // 8),
    "You cut the bytes of a single weight down to whole ones, so a 4-bit weight takes none. Two "
    "4-bit weights share one byte: multiply first, divide by 8 last.",
    also=(lambda parameters, bits_per_weight: int(parameters * (bits_per_weight // 8)),),
)
_ROUNDED_DOWN = WrongAnswer(
    "rounded down",
    lambda parameters, bits_per_weight: int(parameters * bits_per_weight / 8),
    "Nearly: you cut off the last part of a byte, as int and // do. Storage comes in whole bytes, "
    "so half a byte needs one more: round up, with ceil.",
    also=(lambda parameters, bits_per_weight: parameters * bits_per_weight // 8,),
)
_ROUNDED = WrongAnswer(
    "rounded to the nearest",
    lambda parameters, bits_per_weight: round(parameters * bits_per_weight / 8),
    "Nearly: round goes to the nearest whole number, and a half to the nearest even one. Half a "
    "byte still needs a byte: round up, with ceil.",
)
_FRACTION = WrongAnswer(
    "a fraction of a byte",
    lambda parameters, bits_per_weight: parameters * bits_per_weight / 8,
    "The formula is right, but / gives a float, with half bytes. Storage comes in whole bytes: "
    "round up to an int, with ceil.",
)
_ADDED_SEVEN = WrongAnswer(
    "added 7 before rounding down",
    lambda parameters, bits_per_weight: (parameters * bits_per_weight + 7) // 8,
    "Adding 7 and then // 8 rounds up whole numbers of bits. Formats with scales have a fraction "
    "of bits per weight, such as 4.5; then // gives a float, and half a bit may be lost: use ceil.",
    also=(lambda parameters, bits_per_weight: int(parameters * bits_per_weight + 7) // 8,),
)
_GIGABYTES = WrongAnswer(
    "gigabytes instead of bytes",
    lambda parameters, bits_per_weight: parameters * bits_per_weight / 8 / 1e9,
    "You divide by 1e9, which gives gigabytes. Return bytes; the text that shows them can turn "
    "them into GB.",
    also=(lambda parameters, bits_per_weight: ceil(parameters * bits_per_weight / 8 / 1e9),),
)
_GIBIBYTES = WrongAnswer(
    "gibibytes instead of bytes",
    lambda parameters, bits_per_weight: parameters * bits_per_weight / 8 / 2**30,
    "You divide by 2**30 (or three times by 1024), which gives GiB. Return bytes; the text that "
    "shows them can turn them into GiB or GB.",
    also=(lambda parameters, bits_per_weight: ceil(parameters * bits_per_weight / 8 / 2**30),),
)

EXERCISES = [
    ExerciseSpec(
        name="c00.weight_bytes",
        title="How many bytes do the weights take?",
        why="It decides whether a model fits into your memory, before you download anything.",
        reference=weight_bytes,
        cases=_cases,
        wrong_answers=(
            _BITS,
            _TIMES_EIGHT,
            _BYTES_PER_WEIGHT,
            _ROUNDED_DOWN,
            _ROUNDED,
            _FRACTION,
            _ADDED_SEVEN,
            _GIGABYTES,
            _GIBIBYTES,
        ),
        hints=(
            "How many bits do all the weights take together?",
            "A byte holds 8 bits. Divide last, after multiplying: a 4-bit weight is half a byte.",
            "Half a byte still occupies a whole one: math.ceil rounds up and returns an int.",
        ),
    ),
]
