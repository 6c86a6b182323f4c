"""Chapter 06's pictures: titles follow the numbers, bars add up to the loads, the board plans."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.display import c06
from course_utils.moe import balancedness, place


@pytest.fixture
def shown(monkeypatch):
    """The figures and their descriptions, in place of pictures."""
    found = []
    monkeypatch.setattr(c06, "show_figure", lambda fig, text: found.append((fig, text)))
    yield found
    plt.close("all")


def heights(axis) -> list[float]:
    """The top of the bars at each place."""
    tops: dict[int, float] = {}
    for bar in axis.patches:
        place_ = round(bar.get_x() + bar.get_width() / 2)
        tops[place_] = tops.get(place_, 0.0) + bar.get_height()
    return [tops[place_] for place_ in sorted(tops)]


def test_needed_ranks_are_shares_of_the_tokens(shown):
    c06.plot_needed({"free": torch.tensor([1, 3, 3, 3]), "limit 2": torch.tensor([2, 2, 1, 2])})
    ((fig, text),) = shown
    (axis,) = fig.axes
    values = [bar.get_height() for bar in axis.patches]
    assert values == [0, 25, 0, 75, 0, 25, 75, 0]
    assert "2.5 (free), 1.8 (limit 2)" in axis.get_title() and len(text.split()) > 8


def test_stacks_add_up_and_copies_are_orange(shown):
    loads, placement = [6.0, 1.0, 1.0], [[0, 1], [0, 2]]
    c06.plot_ranks(loads, {"two": placement, "one side": [[0, 1, 2], []]})
    left, right = shown[0][0].axes
    assert heights(left) == pytest.approx([1.0, 1.0]) and heights(right) == pytest.approx([2.0])
    colours = [bar.get_facecolor() for bar in left.patches]
    assert len(set(colours)) == 2 and colours[0] == colours[2] != colours[1]
    assert "1.00" in left.get_title() and "0.50" in right.get_title()


def test_the_title_says_from_how_many_ranks_on(shown):
    c06.plot_tokens_per_expert([8, 32, 144], {"a": [900, 9000, 90000], "b": [2, 9, 99]}, 300.0)
    assert "a: from 8; b: from -" in shown[0][0].axes[0].get_title()


@pytest.mark.parametrize(("ranks", "copies"), [(2, 0), (8, 4), (16, 32), (16, 4)])
def test_the_board_plans_for_any_setting(shown, ranks, copies):
    loads = {"one": [float(5 + 7 * e % 16) for e in range(16)], "other": [1.0] * 15 + [30.0]}
    c06.placement_board(loads)("one", "other", ranks, copies)
    fig, _ = shown[0]
    slots = -(-(16 + copies) // ranks) * ranks
    assert fig.get_suptitle() == f"one: {slots} slots on {ranks} ranks"
    expected = balancedness(loads["one"], place(loads["other"], slots, ranks))
    assert f"plan for other: balancedness {expected:.2f}" == fig.axes[1].get_title()
    assert sum(heights(fig.axes[1])) == pytest.approx(ranks)
