"""The pictures of chapter 12: titles that follow the numbers, and the tree of the family."""

import pytest
import torch

from course_utils.display import c12
from course_utils.models import DecoderLM, ModelConfig

shown = []


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    shown.clear()
    monkeypatch.setattr(c12, "show_figure", lambda fig, text: shown.append((fig, text)))


def titles() -> list[str]:
    return [axis.get_title() for axis in shown[-1][0].axes]


def test_titles_name_the_winner():
    c12.plot_sparsity([0.25, 0.5], {"magnitude": [1.0, 3.0], "Wanda": [1.1, 2.0]}, 0.9)
    assert titles() == ["At 50% zeros Wanda loses least"]
    c12.plot_layers({"one": [0.5, 0.1, 0.3], "other": [0.1, 0.2, 0.3]})
    assert titles() == ["one: layer 2 turns least", "other: layer 1 turns least"]


def test_healing_has_a_panel_for_every_cut():
    rows = [
        {"cut": cut, "way": way, "bits_per_byte": bits, "bits_whole": 1.2, "parameters": 2e6}
        for cut, own in (("width", (1.5, 1.6)), ("depth", (1.9, 1.7)))
        for way, bits in zip(("distilled", "data, same compute"), own, strict=True)
    ]
    c12.plot_healing(rows)
    assert titles() == [
        "width, 2.0 M left: distilled is lowest",
        "depth, 2.0 M left: data, same compute is lowest",
    ]


def test_the_board_measures_each_way_once():
    model, calls = DecoderLM(ModelConfig(50, 16, 24, 2, 4, 2)).eval(), []

    def bits(cut) -> float:
        calls.append(cut.count_parameters())
        return 1.0 + len(calls)

    show = c12.pruning_board(model, torch.randint(50, (1, 8)), bits)
    show(0.5)
    assert titles()[0] == "sparsity 50%: magnitude loses least" and len(calls) == 4
    whole = model.count_parameters()
    assert calls[:2] == [whole, whole] and max(calls[2:]) < whole
    show(0.5)
    assert len(calls) == 4


def test_a_tree_under_each_base():
    lineages = {
        "child": {"base": "dense", "method": "cut"},
        "dense": {"base": None, "method": "trained"},
        "grandchild": {"base": "child", "method": "adapted"},
        "other": {"base": "elsewhere", "method": "copied"},
        "student": {"base": None, "teacher": "dense", "method": "distilled"},
    }
    assert c12.family_lines(lineages) == [
        "dense: trained",
        "    child: cut",
        "        grandchild: adapted",
        "    student: distilled",
        "elsewhere (not shipped)",
        "    other: copied",
    ]


def test_cuts_are_drawn():
    c12.plot_cuts({"channels": [(90.0, 1.3), (80.0, 1.5)]}, 1.2)
    assert "parameters left" in shown[-1][1]
