"""The pictures of chapter 04: shown with a description, titled with what they found."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.display import c04
from course_utils.moe.drifting_router import DriftingRouter


@pytest.fixture
def shown(monkeypatch):
    """Titles, description and labels of the lines of every figure that a function shows."""
    seen = []

    def keep(fig, description):
        titles = [axis.get_title() for axis in fig.axes]
        labels = [line.get_label() for axis in fig.axes for line in axis.get_lines()]
        seen.append((titles, description, labels))
        plt.close(fig)

    monkeypatch.setattr(c04, "show_figure", keep)
    return seen


def test_loads_say_how_many_experts_are_idle_at_the_end(shown):
    even_SE = torch.full((30, 4), 5)
    collapsed_SE = torch.tensor([[10, 10, 0, 0]] * 30)
    c04.plot_loads({"even": even_SE, "alone": collapsed_SE})
    titles, description, _ = shown[0]
    assert titles[0].startswith("even: 0%") and titles[1].startswith("alone: 50%")
    assert len(description.split()) >= 5


def test_violations_title_gives_the_last_ten(shown):
    c04.plot_violations({"alone": [7.0] * 5 + [2.0] * 10, "bias": [1.0] * 15}, most=7)
    assert shown[0][0] == ["Mean of the last ten steps: alone 2.0, bias 1.0"]


def test_recorded_rows_stand_in_three_panels(shown):
    columns = dict.fromkeys(c04.RECORDED, 1.0)
    c04.plot_recorded([{"variant": name, **columns} for name in ("none", "bias") for _ in "012"])
    assert len(shown[0][0]) == 3


def test_the_simulator_draws_for_more_experts_per_token_than_there_are(shown):
    c04.balance_simulator()(experts=4, per_token=8, skew=1, drift=0, u=0.01, alpha=1)
    assert shown[0][2] == ["alone: 0.00", "bias, u = 0.01: 0.00", "loss, alpha = 1: 0.00"]


def test_the_title_names_the_most_even_setting(shown):
    settings = {"alone": DriftingRouter(), "bias": DriftingRouter(bias_speed=0.01)}
    c04.plot_simulation(settings)
    assert shown[0][0] == ["Most even in the last third: bias"]


def test_no_figure_is_left_open():
    before = plt.get_fignums()
    c04.plot_simulation({"alone": DriftingRouter(steps=6), "bias": DriftingRouter(steps=6)})
    assert plt.get_fignums() == before
