"""Chapter 15's pictures are drawn from what they are given, and the explorer measures what it
shows."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.display import c15


@pytest.fixture
def shown(monkeypatch):
    """Figures as (axes, description), in place of pictures."""
    found = []

    def keep(fig, description):
        found.append((fig.axes, description))
        plt.close(fig)

    monkeypatch.setattr(c15, "show_figure", keep)
    return found


def test_lines_are_labelled_and_hold_the_numbers(shown):
    sizes, errors = torch.tensor([0.1, 1.0]), {"INT8": torch.tensor([0.0, 0.5])}
    c15.plot_relative_errors(sizes, errors)
    c15.plot_outliers([1, 10], {"FP8": [0.1, 0.2]})
    c15.plot_sums([128, 512], {"14 bits": [0.1, 0.2]})
    c15.plot_live({"ternary": [4.0, 2.0]}, 1.0)
    for (axes, description), label in zip(
        shown, ("INT8", "FP8", "14 bits", "ternary"), strict=True
    ):
        line = axes[0].get_lines()[0]
        assert line.get_label() == label and len(line.get_xdata()) == 2
        assert axes[0].get_xlabel() and axes[0].get_ylabel() and len(description) > 60
    assert shown[0][0][0].get_lines()[0].get_ydata()[0] == pytest.approx(c15.LEAST)  # 0 has no log
    assert shown[3][0][0].get_lines()[0].get_ydata().tolist() == [4.0, 3.0]  # running mean


def test_panels_for_models_and_places_for_ways(shown):
    c15.plot_rounding({"dense": {"32 bits": [1.0, 1.1], "2 bits, after": [2.0, 2.1]}})
    c15.plot_caches({"a": {"keys per token, values per token": 1.0}, "b": {"keys per channel": 2}})
    rounding, caches = (axes for axes, _ in shown)
    assert [tick.get_text() for tick in rounding[0].get_xticklabels()] == [
        "32 bits",
        "2 bits\nafter",
    ]
    assert len(caches) == 2
    colours = [axis.patches[0].get_facecolor() for axis in caches]
    assert colours[0] != colours[1]  # keys per token and per channel are told apart


@pytest.mark.parametrize(("form", "worse"), [("INT8", True), ("E4M3", False)])
def test_explorer_tells_what_an_outlier_costs(shown, capsys, form, worse):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    show_blocks = c15.block_explorer(weight)

    def lost(block: int, outlier: float) -> float:
        show_blocks(form, block, outlier)
        return float(capsys.readouterr().out.split("zero: ")[1].split("%")[0])

    assert lost(64, 1) < 2
    assert (lost(64, 1000) > 50) is worse
    assert lost(16, 1e6) < 30 < lost(64, 1e6)  # confined to one block of sixteen, or not
    assert len(shown) == 4
