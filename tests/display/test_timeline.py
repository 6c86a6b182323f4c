"""The timeline draws every span where it belongs, and a player's picture keeps its frame."""

import matplotlib.pyplot as plt
import pytest

from course_utils.display import figure
from course_utils.display.timeline import LOOKS, Span, timeline

SPANS = [Span("b", 0, 2, "prefill", "P"), Span("a", 1, 4, "waiting"), Span("b", 2, 6, "decode")]


@pytest.fixture
def axis():
    fig, (axis,) = figure()
    yield axis
    plt.close(fig)


def boxes(axis) -> list[tuple]:
    """(start, end, row) of every bar."""
    found = []
    for bars in axis.collections:
        for path in bars.get_paths():
            (low, bottom), (high, top) = path.get_extents().get_points()
            found.append((low, high, round((bottom + top) / 2)))
    return found


def test_bars_stand_in_their_rows(axis):
    timeline(axis, SPANS)
    assert boxes(axis) == [(0, 2, 0), (1, 4, 1), (2, 6, 0)]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b", "a"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first row is on top
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["waiting", "prefill", "decode"]


def test_a_player_shows_the_past_in_the_frame_of_the_whole(axis):
    timeline(axis, SPANS, rows=["a", "b"], now=1.5, legend=False)
    assert boxes(axis) == [(0, 1.5, 1), (1, 1.5, 0)]
    assert axis.get_xlim() == (0, 6) and axis.get_legend() is None


def test_looks_differ_also_without_colour(axis):
    """In grey, by lightness or by hatching: the differences that are left to print."""
    from matplotlib.colors import to_rgb

    greys = {
        kind: (sum(w * c for w, c in zip((0.3, 0.59, 0.11), to_rgb(colour), strict=True)), hatch)
        for kind, (colour, hatch) in LOOKS.items()
    }
    for one in greys:
        for other in greys:
            (a, hatch_a), (b, hatch_b) = greys[one], greys[other]
            assert one == other or hatch_a != hatch_b or abs(a - b) > 0.1


def test_an_unknown_kind_and_a_span_backwards_are_refused(axis):
    for span in (Span("a", 0, 1, "sleeping"), Span("a", 2, 1, "decode")):
        with pytest.raises(ValueError, match="the kinds are waiting"):
            timeline(axis, [span])
