"""Chapter 05's pictures: titles follow the numbers, and the explorer counts what it shows."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.data.tokenizer import course_tokenizer
from course_utils.display import c05
from course_utils.models import DecoderLM, ModelConfig
from course_utils.moe import MoEConfig


@pytest.fixture
def shown(monkeypatch):
    """Figures as (title, tick labels, description), in place of pictures."""
    found = []

    def keep(fig, description):
        axis = fig.axes[0]
        ticks = [label.get_text() for label in axis.get_yticklabels()]
        found.append((axis.get_title(), ticks, description))
        plt.close(fig)

    monkeypatch.setattr(c05, "show_figure", keep)
    return found


@pytest.fixture(scope="module")
def model():
    experts = MoEConfig(6, 2, 8, first_k_dense_replace=1, n_shared_experts=1)
    sizes = {"intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = ModelConfig(4096, 16, num_key_value_heads=1, moe=experts, **sizes)
    return DecoderLM(config, seed=0).eval()


def test_titles_state_what_the_numbers_say(shown):
    c05.plot_variants({"dense": [2.0, 2.1], "8, top-2": [1.9, 1.8]})
    c05.plot_specialization(
        [0.2, 0.1, 0.3], [[0.1, 0.15], [0.2, 0.05], [0.1, 0.2]], [[0.01, 0.02]] * 3
    )
    assert shown[0][0] == "Lowest mean: 8, top-2 (recorded)"
    assert shown[1][0] == "Training moved the domains apart in 2 of 3 layers"
    assert all(len(description.split()) > 8 for _, _, description in shown)


def test_families_at_one_place_are_all_named(shown):
    c05.plot_families({"a": (64, 0.1), "b": (64, 0.1), "c": (8, 0.25)}, {"a"})
    assert shown[0][0].startswith("More experts")


def test_the_explorer_counts_the_tokens_of_an_expert(shown, model, capsys):
    show = c05.routing_explorer(model, course_tokenizer())
    text = "And the king said\n47"
    for expert in range(6):
        show(text, 3, expert)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("layer 3")]
    taken = [int(line.split(": ")[1].split()[0]) for line in lines]
    tokens = len(course_tokenizer().encode(text))
    assert sum(taken) == 2 * tokens  # each token has two experts
    assert shown[0][1] == ["layer 2", "layer 3"]


def test_an_empty_text_and_a_long_one(shown, model, capsys):
    show = c05.routing_explorer(model, course_tokenizer())
    show("", 2, 0)
    show("word " * 1000, 2, 0)
    out = capsys.readouterr().out
    assert "of 1 tokens" in out and f"of {c05.LONGEST} tokens" in out


def test_tokens_are_escaped_and_shaded():
    tokens = c05.RoutedTokens(["<b>", "\n"], [0.5, 0.0], ["1, 2", "3, 4"])
    page = tokens._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert "0.50)" in page and 'title="experts 3, 4"' in page
    assert repr(tokens) == "<b>*0.50|\u23ce"
    assert torch.is_grad_enabled()
