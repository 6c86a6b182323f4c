"""The pictures of chapter 08: shown with a description, titled with what they found."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.accounting.catalog import find
from course_utils.attention import causal_mask
from course_utils.display import c08


@pytest.fixture
def shown(monkeypatch):
    """Titles and description of every figure that a function shows."""
    seen = []

    def keep(fig, description):
        seen.append(([axis.get_title() for axis in fig.axes], description))
        plt.close(fig)

    monkeypatch.setattr(c08, "show_figure", keep)
    return seen


def test_the_context_panels_name_whoever_reads_most(shown):
    specs = {name: find(name).spec for name in ("DeepSeek-V3", "DeepSeek-V3.2-Exp")}
    c08.plot_context_cost(specs, [1024, 65_536])
    assert shown[0][0] == ["Reading costs most in DeepSeek-V3", "What is kept"]


def test_kept_mass_and_loss_say_who_is_ahead(shown):
    c08.plot_kept_mass([4, 8, 16], {"window": [0.2, 0.3, 0.5], "best k": [0.3, 0.6, 0.8]})
    c08.plot_loss_by_k([4, 8], {"window": [3.0, 2.0], "best k": [2.5, 2.1]}, 1.9)
    assert shown[0][0] == ["k = 8: window 30%, best k 60%"]
    assert shown[1][0] == ["With 4 tokens, lowest: best k"]


def test_interference_gives_the_error_at_k(shown):
    c08.plot_interference([2, 4, 8], {"linear": [0.1, 0.9, 1.2]}, K=4)
    assert shown[0][0] == ["Error with 4 pairs: linear 90%"]


def test_the_live_curve_gives_its_ends(shown):
    c08.plot_learning([0, 20], [0.1, 0.9], chance=0.125)
    assert shown[0][0] == ["Right answers: 10% at first, 90% at the end"]


def test_recall_names_the_best_at_the_most_pairs(shown):
    rows = [
        {"variant": name, "pairs": pairs, "accuracy": right / pairs}
        for name, right in (("full", 4), ("window", 1))
        for pairs in (4, 8)
        for _ in range(3)
    ]
    c08.plot_recall(rows, chance=0.1)
    assert shown[0][0] == ["8 pairs: full answers most, 50% right (recorded)"]
    assert "full, window" in shown[0][1]


@pytest.mark.parametrize("rule", ["window", "indexer", "best k"])
@pytest.mark.parametrize("head", [0, 2])
def test_the_viewer_says_what_is_kept(shown, rule, head):
    generator = torch.Generator().manual_seed(0)
    scores_HTT = torch.randn(1, 2, 12, 12, generator=generator)
    weights = scores_HTT.masked_fill(~causal_mask(12, 12), -torch.inf).softmax(-1)
    show_map = c08.attention_viewer([weights], [weights.mean(1)], ["word"] * 12)
    show_map(layer=1, head=head, rule=rule, k=12)
    assert shown[-1][0][0] == "dense"
    assert shown[-1][0][1].endswith("100% of the attention kept")


def test_a_window_of_one_keeps_the_diagonal(shown):
    weights_TT = torch.eye(6) / 2 + 0.1
    kept = c08.plot_map(weights_TT, torch.eye(6, dtype=torch.bool), ["a"] * 6, "window of 1")
    assert kept == pytest.approx(0.6)


def test_no_figure_is_left_open():
    before = plt.get_fignums()
    c08.plot_learning([0, 1], [0.0, 1.0], 0.5)
    assert plt.get_fignums() == before
