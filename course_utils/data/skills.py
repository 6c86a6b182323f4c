"""Small visible skills: questions that the course's models cannot answer, with the right answers.

    Q: reverse 4715          Q: parity 4715
    A: 5174                  A: odd

Both ask about four digits, which are four tokens, so all texts of a skill have one length. Whether
a number is for training, validation or test is decided by a hash of skill and number, as it is for
the documents of the corpus, so that no seed can mix the splits. Left out: numbers of other lengths
(what is learned here does not carry over to them).
"""

import random
from collections.abc import Callable

from course_utils.data.corpus import SPLITS, split_of

NUMBERS = tuple(f"{number:04d}" for number in range(10_000))


def reverse(digits: str) -> str:
    """The digits from last to first."""
    return digits[::-1]


def parity(digits: str) -> str:
    """Whether the number is odd or even."""
    return "odd" if int(digits) % 2 else "even"


SKILLS: dict[str, Callable[[str], str]] = {"reverse": reverse, "parity": parity}


def skill_pairs(skill: str, split: str, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """`count` different (prompt, answer) pairs of a skill; the same seed gives the same ones.

    Raises ValueError for an unknown skill or split, or when the split has fewer (train has about
    9,000, validation and test about 500 each).
    """
    for kind, name, known in (("skill", skill, SKILLS), ("split", split, SPLITS)):
        if name not in known:
            raise ValueError(f"{kind} is {name!r}: choose one of {', '.join(known)}")
    own = [digits for digits in NUMBERS if split_of(skill, digits) == split]
    if not 1 <= count <= len(own):
        raise ValueError(f"{count} pairs: the {split} split of {skill!r} has 1 to {len(own)}")
    chosen = random.Random(seed).sample(own, count)
    return [(f"Q: {skill} {digits}\n", f"A: {SKILLS[skill](digits)}\n") for digits in chosen]
