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


def recalled(**right_by_variant: float) -> list[dict]:
    """Rows of 4 and 8 pairs and three seeds that differ by 0.01."""
    return [
        {"variant": name.replace("_", " "), "pairs": pairs, "accuracy": right / pairs + seed / 100}
        for name, right in right_by_variant.items()
        for pairs in (4, 8)
        for seed in (-1, 0, 1)
    ]


def test_recall_names_worst_and_best_at_the_most_pairs(shown):
    c08.plot_recall(recalled(full=4, window=1, latent=2, sparse=3), chance=0.1)
    titles, description = shown[0]
    assert titles[0] == "Kinds of attention, 8 pairs:\n12% (window) to 50% (full)"
    assert titles[1] == "Latent attention made sparse, 8 pairs:\n25% (latent) to 38% (sparse)"
    assert "full; window | latent; sparse" in description


def test_recall_shows_every_seed_and_draws_a_hybrid_like_its_cheap_layers(monkeypatch):
    drawn = []
    monkeypatch.setattr(c08, "show_figure", lambda fig, _: drawn.append(fig))
    hybrid = [row | {"variant": "window + full"} for row in recalled(full=3)]
    c08.plot_recall(recalled(full=4, window=1) + hybrid + recalled(latent=2), chance=0.1)
    axis, _ = drawn[0].axes
    full, window, mixed = axis.lines[:3]
    assert mixed.get_color() == window.get_color() != full.get_color()
    assert mixed.get_linestyle() == "--" != window.get_linestyle()
    heights = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.49, 1.01))
    plt.close(drawn[0])


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
