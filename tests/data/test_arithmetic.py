"""Arithmetic: what the generator writes is right, and the verifier takes nothing else."""

import hashlib
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data.arithmetic import KINDS, evaluate, problems, verify, worked, worked_steps
from course_utils.data.texts import worked_arithmetic

some = settings(max_examples=200, deadline=None, derandomize=True)
EXAMPLE = "Q: 47 + 85\n7 + 5 = 12, write 2, carry 1\n4 + 8 + 1 = 13, write 13\nA: 132\n"


def test_thousands_of_problems_verify_and_differ():
    texts = list(problems(7, 4000))
    assert len({text.partition("\n")[0] for text in texts}) == 4000
    assert all(map(verify, texts))


def test_all_four_kinds_occur():
    questions = [text.partition("\n")[0] for text in problems(1, 1000)]
    bracketed = [q for q in questions if "(" in q or len(re.findall(r"[+*-]", q)) > 1]
    plain = [q for q in questions if q not in bracketed]
    assert 150 < len(bracketed) < 400
    for sign in "+-*":
        assert 150 < sum(f" {sign} " in question for question in plain) < 400


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("digits", [1, 2, 5, 12])
def test_the_answer_follows_from_the_steps(kind, digits):
    rng = random.Random(digits)
    for _ in range(200):
        question = kind(rng, digits)
        steps = worked_steps(question)
        assert verify("\n".join([f"Q: {question}", *steps, f"A: {evaluate(question)}"]))
        for step in steps:
            left, _, right = step.partition(",")[0].partition(" = ")
            assert evaluate(left) == int(right)
        written = [found[1] for step in steps if (found := re.search(r"write (\d+)", step))]
        if written:  # digits are written from the right; the last step writes all that is left
            assert int("".join(reversed(written))) == evaluate(question)
        else:
            assert int(steps[-1].rpartition(" = ")[2]) == evaluate(question)


def test_the_same_seed_gives_the_same_text_on_every_machine():
    digest = hashlib.sha256("".join(problems(3, 500)).encode()).hexdigest()
    assert digest[:16] == "a60e84d4ac78ad94"
    corpus = hashlib.sha256("".join(worked_arithmetic().values()).encode()).hexdigest()
    assert corpus[:12] == "935dc13535ee"  # the corpus's domain: its records rest on this text
    assert list(problems(3, 5)) == list(problems(3, 500))[:5] != list(problems(4, 5))


def test_too_many_for_so_few_digits():
    with pytest.raises(ValueError, match="5000 different problems do not exist with 1 digits"):
        list(problems(0, 5000, digits=1))


def test_the_example_holds():
    assert verify(EXAMPLE) and worked("47 + 85") == EXAMPLE
    assert verify(f"\n  {EXAMPLE} \n") and verify(EXAMPLE.replace("\n", " \r\n"))


HAND_WORKED = """
Q: 3 + 998
3 + 8 = 11, write 1, carry 1
9 + 1 = 10, write 0, carry 1
9 + 1 = 10, write 10
A: 1001

Q: 1000 - 1
0 - 1 + 10 = 9, write 9, borrow 1
0 - 1 + 10 = 9, write 9, borrow 1
0 - 1 + 10 = 9, write 9, borrow 1
1 - 1 = 0, write 0
A: 999

Q: 407 * 6
7 * 6 = 42, write 2, carry 4
0 * 6 + 4 = 4, write 4
4 * 6 = 24, write 24
A: 2442

Q: (12 - 5) * 3
12 - 5 = 7
7 * 3 = 21
A: 21

Q: 4 + 20 * 9
20 * 9 = 180
4 + 180 = 184
A: 184
"""


@pytest.mark.parametrize("text", HAND_WORKED.split("\n\n"))
def test_problems_worked_by_hand(text):
    assert verify(text)
    for place in range(1, len(text.strip().split("\n"))):  # every line is needed, none twice
        lines = text.strip().split("\n")
        assert not verify("\n".join([*lines[:place], *lines[place + 1 :]]))
        assert not verify("\n".join([*lines[: place + 1], *lines[place:]]))


@pytest.mark.parametrize(
    "question",
    [
        *(
            "3 - 5",
            "12 * 34",
            "(3 - 5) * 2",
            "2 * (3 - 5)",
            "007 + 5",
            "4+5",
            "-4 + 5",
            "1 + 2 + 3",
        ),
        *("7", "", "٤ + ٥", "9" * 60 + " + " + "9" * 60),
    ],
)
def test_questions_outside_the_method(question):
    with pytest.raises(ValueError, match="none of the four kinds"):
        worked_steps(question)
    assert not verify(f"Q: {question}\nA: 9")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A: 132", "A: 133"),
        ("A: 132", "A: -132"),
        ("A: 132\n", ""),
        ("A: 132", "A: "),
        ("A: 132", "A: 132.0"),
        ("A: 132", "A: 132 apples"),
        ("A: 132", "A: 130 + 2"),
        ("A: 132\n", "A: 132\nthat is all\n"),
        ("A: 132\n", "A: 132\nA: 132\n"),
        ("7 + 5 = 12", "7 + 5 = 13"),
        ("4 + 8 + 1 = 13,", "4 + 8 + 1 = 12,"),
        ("7 + 5 = 12, write 2, carry 1", "seven and five make twelve"),
        ("7 + 5 = 12, write 2, carry 1", "so we see: 7 + 5 = 12"),
        ("7 + 5 = 12, write 2, carry 1", ""),
        ("7 + 5 = 12, write 2, carry 1\n", ""),
        ("write 2", "write 3"),
        ("write 13", "write 3"),
        (", write 2", ""),
        ("carry 1", "carry 2"),
        (", carry 1", ""),
        ("carry 1", "borrow 1"),
        ("carry 1", "carry 1, carry 1"),
        ("7 + 5", "5 + 7"),
        ("4 + 8 + 1 = 13", "4 + 9 = 13"),
        ("7 + 5 = 12", "7 + 5  = 12"),
        ("A: 132", "1 + 1 = 2\nA: 132"),
        ("7 + 5 = 12, write 2, carry 1\n4 + 8 + 1 = 13, write 13", "100 + 32 = 132"),
        ("A: 132", "A: ١٣٢"),
        ("A: 132", "A: １３２"),
        ("7 + 5 = 12", "٧ + ٥ = ١٢"),
        ("A: 132", "A: 0132"),
        ("A: 132", "A: +132"),
        ("\n", "\u2028"),
        ("Q: 47 + 85", "Q: 47 + 86"),
        ("Q: 47 + 85", "47 + 85"),
        ("Q: 47 + 85", "Q: 47 + 85 = 132"),
        ("Q: ", "Hello!\nQ: "),
    ],
)
def test_what_is_changed_no_longer_holds(old, new):
    assert old in EXAMPLE
    assert not verify(EXAMPLE.replace(old, new, 1))


@pytest.mark.parametrize(
    "expression",
    [
        "2 ** 3",
        "9 ** 9 ** 9",
        "4 / 2",
        "4 // 2",
        "7 % 4",
        "x + 1",
        "__import__('os')",
        "abs(-1)",
        "1.5 + 1",
        "True + 1",
        "'a' * 3",
        "1 << 4",
        "~1",
        "1 + ",
        "",
        "   ",
        "1, 2",
        "[1]",
        "1 if 1 else 2",
        "(" * 60 + "1" + ")" * 60,
        "1" * 101,
        "1 +" * 50 + "1",
        "\x00",
        "1\n+ 1\n",
    ],
)
def test_nothing_but_whole_number_arithmetic_is_evaluated(expression):
    with pytest.raises(ValueError, match=r"is not whole-number arithmetic|at most 100"):
        evaluate(expression)
    assert not verify(f"Q: {expression}\nA: 8")


numbers = st.integers(0, 10**6)


@some
@given(numbers, numbers, numbers, st.sampled_from("+-*"), st.sampled_from("+-*"))
def test_evaluate_is_pythons(a, b, c, one, other):
    for expression in (f"({a} {one} {b}) {other} {c}", f"{a}{one}{b} {other}  -{c}", f" {a} "):
        assert evaluate(expression) == eval(expression)


@some
@given(st.text())
def test_random_text_is_false_and_never_an_error(text):
    assert verify(text) is False


lines = st.lists(
    st.text("0123456789 +-*()=,QA:.writecay\n\t٣²½", max_size=30), min_size=1, max_size=4
)


@some
@given(lines, st.booleans())
def test_text_that_looks_like_a_problem_is_never_an_error(parts, framed):
    text = "\n".join(parts)
    assert verify(f"Q: {text}\nA: {parts[-1]}" if framed else text) in (True, False)


@some
@given(st.integers(0, 2**31), st.data())
def test_one_changed_digit_is_noticed(seed, data):
    text = next(problems(seed, 1))
    places = [found.span() for found in re.finditer(r"\d+", text)]
    start, end = data.draw(st.sampled_from(places))
    place = data.draw(st.integers(start, end - 1))
    digit = str((int(text[place]) + data.draw(st.integers(1, 9))) % 10)
    assert not verify(text[:place] + digit + text[place + 1 :])
