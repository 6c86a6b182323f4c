"""The puzzles: their generator, the worked method, and the verifiers, strict and sloppy."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.data.puzzles import (
    DIFFICULTIES,
    EXTRAS,
    SYMBOLS,
    answer_is_right,
    answer_of,
    calculate,
    decode,
    difficulty,
    encode,
    mentions_answer,
    needed,
    questions,
    read_question,
    verify,
    worked,
)

QUESTION = "c=b*7;k=b-9;a=3;b=a+5;c?"
RIGHT = "a=3;b=3+5=8;c=8*7=6;6."


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_worked_completions_pass_with_and_without_detours(seed, detours):
    rng = random.Random(seed)
    for number, question in enumerate(questions(seed, 6)):
        assert difficulty(question) == DIFFICULTIES[number]
        completion = worked(question, rng, detours)
        assert verify(question, completion) and answer_is_right(question, completion)
        assert completion.count(";") >= worked(question).count(";")
        assert decode(encode(completion)) == completion


def test_the_example_of_the_docstring_and_a_detour():
    assert worked(QUESTION) == RIGHT and difficulty(QUESTION) == 2
    assert verify(QUESTION, "a=3;b=3+5=8;k=8-9=9;c=8*7=6;6.")
    found = {worked(QUESTION, random.Random(seed), 0.5) for seed in range(20)}
    assert len(found) == 2  # with the detour and without


@pytest.mark.parametrize(
    "completion",
    [
        "6.",  # no steps
        "a=3;b=3+5=8;c=8*7=6;6",  # no end
        "a=3;b=3+5=8;c=8*7=6;8.",  # another answer
        "a=3;b=3+5=9;c=9*7=3;6.",  # a right answer after wrong steps
        "a=3;b=3+6=9;b=3+5=8;c=8*7=6;6.",  # a wrong step, then the right one
        "a=3;a=3;b=3+5=8;c=8*7=6;6.",  # twice
        "b=3+5=8;c=8*7=6;6.",  # used before it has a value
        "a=3;c=8*7=6;6.",  # a step left out
        "a=3;b=3+5=8;c=8*7=6;6.6.",  # goes on after the end
        "a=3;b=3+5=8;z=8*7=6;c=8*7=6;6.",  # no statement of the question
        "",
        ".",
        ";;;.",
        "a==3;b=3+5=8;c=8*7=6;6.",
    ],
)
def test_the_verifier_refuses(completion):
    assert not verify(QUESTION, completion)


def test_what_the_other_two_verifiers_let_through():
    wrong = "a=3;b=3+5=9;c=9*7=3;6."
    assert answer_is_right(QUESTION, wrong) and mentions_answer(QUESTION, wrong)
    assert answer_is_right(QUESTION, "6.") and not answer_is_right(QUESTION, "6")
    assert not answer_is_right(QUESTION, "16.") and mentions_answer(QUESTION, "16.")
    assert mentions_answer(QUESTION, "0123456789")


def test_statements_stand_after_what_they_need_and_extras_last():
    for question in questions(6, 300):
        statements, asked = read_question(question)
        known = set()
        for name, expression in statements.items():
            assert expression in "0123456789" or expression[0] in known
            known.add(name)
        chain = needed(question)
        assert list(statements)[: len(chain)] == chain and chain[-1] == asked
        assert len(statements) == len(chain) + EXTRAS


def test_questions_are_reproducible_different_and_evenly_spread():
    found = questions(3, 600)
    assert found == questions(3, 600) and len(set(found)) == 600
    assert found != questions(4, 600)
    answers = [answer_of(question) for question in found]
    assert min(answers.count(digit) for digit in "0123456789") > 30  # chance alone gives 60
    assert all(set(question) <= set(SYMBOLS) for question in found)


@pytest.mark.parametrize("text", ["", "a=3", "a=3;b?", "a3;a?", "a=3;a", "a=;a?", "a=3;a=4;a?"])
def test_what_is_no_question_is_refused(text):
    with pytest.raises(ValueError, match="no question"):
        read_question(text)


def test_arithmetic_keeps_the_last_digit_and_foreign_characters_are_named():
    assert [calculate("3", *rest) for rest in ("+9", "-9", "*9")] == ["2", "4", "7"]
    with pytest.raises(ValueError, match="'z'"):
        encode("a=z")
