"""The pictures of chapter 10: bars that are the numbers, titles that follow them."""

import pytest
import torch

from course_utils.data.tokenizer import course_tokenizer
from course_utils.display import c10
from course_utils.distillation import forward_kl, reverse_kl

shown = []


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    shown.clear()
    monkeypatch.setattr(c10, "show_figure", lambda fig, text: shown.append((fig, text)))


def axis():
    return shown[-1][0].axes[0]


def test_bars_are_the_probabilities():
    rows = {"T = 1": torch.tensor([0.7, 0.2]), "T = 4": torch.tensor([0.4, 0.3])}
    c10.plot_soft([" a", "'"], rows, "a title")
    heights = [bar.get_height() for bar in axis().patches]
    assert heights == pytest.approx([0.7, 0.2, 0.4, 0.3])
    assert axis().get_title() == "a title" and "T = 1, T = 4" in shown[-1][1]


def test_a_pair_has_its_steps():
    c10.plot_pair({"labels alone": [7.0, 6.0], "distilled": [6.5, 5.5]}, every=10)
    assert [list(line.get_xdata()) for line in axis().get_lines()] == [[10, 20]] * 2


def test_modes_are_drawn_over_the_target():
    x = torch.linspace(-1, 1, 5)
    c10.plot_modes(x, x.softmax(-1), {"forward KL": x.softmax(-1), "reverse KL": x.softmax(-1)})
    assert len(axis().get_lines()) == 2


def test_the_grid_names_the_best_and_stands_in_order():
    nats = {"labels alone": [3.0, 3.2], "T=1": [2.0, 2.2], "labels, longer": [2.9, 2.7]}
    c10.plot_grid(nats, "labels alone")
    assert axis().get_title() == "Lowest mean: T=1 (recorded)"
    names = [label.get_text() for label in axis().get_yticklabels()]
    assert names == ["labels alone", "labels, longer", "T=1"]
    base = axis().get_lines()[-1]
    assert list(base.get_xdata()) == pytest.approx([3.1, 3.1])


def test_the_explorer_softens_both_and_names_the_divergences():
    tokenizer = course_tokenizer()
    own_V = torch.zeros(tokenizer.vocab_size)
    teachers_V = torch.linspace(0, 8, tokenizer.vocab_size)
    show = c10.soft_explorer(
        lambda ids: own_V.expand(*ids.shape, -1),
        lambda ids: teachers_V.expand(*ids.shape, -1),
        tokenizer,
    )
    show("And the king", 2.0)
    values = [f(own_V, teachers_V, 2.0).item() for f in (forward_kl, reverse_kl)]
    expected = "T = 2.0: forward KL {:.2f}, reverse KL {:.2f} nats".format(*values)
    assert axis().get_title() == expected
    heights = [bar.get_height() for bar in axis().patches]
    assert heights[0] == pytest.approx((teachers_V / 2).softmax(-1)[-1].item(), rel=1e-4)
    assert heights[10:] == pytest.approx([1 / tokenizer.vocab_size] * 10, rel=1e-4)
    show("", 1.0)  # an empty prompt is the end of a text
