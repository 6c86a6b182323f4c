"""Values and counts in words."""

import pytest

from course_utils.exercises.words import count


@pytest.mark.parametrize(
    ("many", "words"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens"), (11, "11 tokens")]
)
def test_a_number_and_its_noun_agree(many: int, words: str) -> None:
    assert count(many, "token") == words


def test_an_irregular_plural_is_given() -> None:
    assert count(1, "query", "queries") == "1 query"
    assert count(3, "query", "queries") == "3 queries"
