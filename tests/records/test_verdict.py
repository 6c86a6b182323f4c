"""Claims are made only of differences larger than twice the recorded spread."""

import pytest

from course_utils.records import verdict


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([2.0, 2.1, 2.2], [1.0, 1.1, 1.2], "b is better"),
        ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], "a is better"),
        ([1.0, 1.1, 1.2], [1.15, 1.25, 1.35], "no verdict"),
        ([1.0, 1.0, 1.0], [1.3, 1.1, 1.5], "no verdict"),  # the larger spread of the two counts
    ],
)
def test_verdict(one, other, found):
    assert found in verdict("a", one, "b", other)
