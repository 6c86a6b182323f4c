"""Types of tokens, by hand and over the whole vocabulary."""

from collections import Counter

import pytest

from course_utils.data.token_types import TYPES, token_type, token_types
from course_utils.data.tokenizer import course_tokenizer


@pytest.mark.parametrize(
    "piece, kind",
    [
        ("7", "digit"),
        ("曹操", "Chinese"),
        ("\n    ", "space"),
        (" ", "space"),
        (" king", "word"),
        ("And", "word"),
        ("ing", "rest of a word"),
        (" ==", "sign"),
        ("，", "sign"),
        ("_", "sign"),
        ("\ufffd", "bytes"),
    ],
)
def test_by_hand(piece, kind):
    assert token_type(piece) == kind


def test_every_token_has_a_type_and_every_type_tokens():
    tokenizer = course_tokenizer()
    types = token_types(tokenizer)
    assert len(types) == tokenizer.vocab_size
    assert set(types) == set(range(len(TYPES)))
    assert Counter(types)[TYPES.index("digit")] == 10  # digits are never merged
    assert types[tokenizer.end_id] == TYPES.index("sign")
