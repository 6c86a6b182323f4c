"""The pictures of chapter 03: each shows one figure, described, and says what the data say."""

import re

import matplotlib.pyplot as plt
import pytest

from course_utils.accounting.catalog import find
from course_utils.accounting.moe_layer import moe_layer_cost
from course_utils.display import c03


@pytest.fixture
def titles(monkeypatch):
    """Titles of the figures that were shown; each must have a description."""
    shown = []

    def show(fig, description):
        assert description.endswith(".")
        shown.append([axis.get_title() for axis in fig.axes])
        plt.close(fig)

    monkeypatch.setattr(c03, "show_figure", show)
    return shown


def test_live_curves_begin_where_they_are_told(titles, monkeypatch):
    axes = []
    original = c03.figure
    monkeypatch.setattr(c03, "figure", lambda **kw: axes.append(original(**kw)) or axes[-1])
    c03.plot_live({"dense": (0, [8.0, 7.0]), "upcycled": (2, [7.0, 6.0, 5.0])})
    lines = axes[0][1][0].get_lines()
    assert [list(line.get_xdata()) for line in lines] == [[1, 2], [3, 4, 5]]
    assert list(lines[1].get_ydata()) == [7.0, 6.5, 6.0]  # running means
    assert len(titles) == 1


@pytest.mark.parametrize("best", ["a", "b"])
def test_the_variant_with_the_lowest_mean_is_named(titles, best):
    bits = {"a": [1.7, 1.8], "b": [1.7, 1.8]} | {best: [1.5, 1.6]}
    c03.plot_variants(bits, {"a": (2e6, 1e6), "b": (3e6, 1e6)})
    assert titles == [[f"Lowest mean: {best} (recorded)"]]


def test_expert_parts_are_most_of_mixtral_and_none_of_a_dense_model():
    total, active = c03.expert_parts("Mixtral-8x7B")
    layers = find("Mixtral-8x7B").config["num_hidden_layers"]
    assert (total, active) == tuple(layers * n for n in moe_layer_cost(4096, 8, 2, 14336)[:2])
    assert c03.expert_parts("Llama-3.1-8B") == (0, 0)


def test_the_design_is_priced_by_the_function_that_is_given(titles, capsys):
    c03.design_explorer(moe_layer_cost)(32, 4096, 8, 2, 14336)
    assert titles == [["45.1 billion stored, 11.3 used: 4.0 times"]]
    assert capsys.readouterr().out == "90 GB in 16 bits, 22.6 GFLOPs a token\n"
    c03.design_explorer(lambda *sizes: (4e9, 1e9, 2e9))(10, 64, 4, 9, 64, 1)
    assert titles[-1] == ["40.0 billion stored, 10.0 used: 4.0 times"]


def test_no_more_experts_for_a_token_than_there_are(titles):
    asked = []

    def cost(*sizes):
        asked.append(sizes)
        return 2e9, 1e9, 2e9

    c03.design_explorer(cost)(1, 64, 4, 9, 64, 1)
    assert asked == [(64, 4, 4, 64, 1)]


def test_the_named_models_are_in_the_catalog():
    assert all(re.fullmatch(r"[\w.-]+", name) and c03.expert_parts(name)[0] for name in c03.NAMED)
