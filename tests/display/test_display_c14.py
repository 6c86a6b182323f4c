"""Chapter 14's pictures are drawn from what they are given; the board measures what it shows."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.display import c14, c14_board
from course_utils.models import DecoderLM, ModelConfig
from course_utils.quantization import QuantizationArgs


@pytest.fixture
def shown(monkeypatch):
    """Figures as (axes, description), in place of pictures."""
    found = []

    def keep(fig, description):
        found.append((fig.axes, description))
        plt.close(fig)

    for module in (c14, c14_board):
        monkeypatch.setattr(module, "show_figure", keep)
    return found


@pytest.fixture(scope="module")
def board():
    """Two layers of a tiny model with random weights, measured on random text."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = DecoderLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model, c14_board.Board(model, torch.randint(0, 64, (2, 16)), widths=(2, 8))


def test_lines_are_relative_to_the_first_and_labelled(shown):
    c14.plot_alphas({"layer": [2.0, 1.0]})
    c14.plot_layer_errors((4, 2), {"nearest": [2.0, 4.0], "GPTQ": [1.0, 3.0]})
    c14.plot_ladder({"RTN": {4: [0.1], 2: [0.5, 0.7]}}, "a ladder")
    c14.plot_tokens([24, 96], {"damping 0.01": [0.2, 0.3]}, 0.1, 48)
    alphas, layer, ladder, tokens = (axes[0] for axes, _ in shown)
    assert list(alphas.get_lines()[0].get_ydata()) == [1.0, 0.5]
    assert list(layer.get_lines()[1].get_ydata()) == [0.5, 0.75]
    assert list(ladder.get_lines()[0].get_xdata()) == [2, 4]  # in order, and the seeds' mean
    assert ladder.get_lines()[0].get_ydata()[0] == pytest.approx(0.6)
    assert [line.get_label() for line in tokens.get_lines()][1:] == [
        "rounding to nearest",
        "48 input channels",
    ]
    for axes, description in shown:
        assert axes[0].get_xlabel() and axes[0].get_ylabel() and axes[0].get_title()
        assert len(description) > 60


def test_two_weights_mark_the_nearest_and_the_best(shown):
    c14.plot_two_weights([0.4, 0.4], torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    places = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in shown[0][0][0].get_lines()
    }
    assert places["nearest"] == (0, 0)
    assert sum(places["least output error"]) == 1


def test_maps_and_panels_hold_what_they_are_given(shown):
    c14.plot_channels(torch.rand(3, 5) + 0.2, "a map")
    c14.plot_two_kinds({"loud": torch.rand(4), "usual": torch.rand(4)}, {"one": torch.rand(4)})
    both = torch.tensor([1.0, 9.0]), torch.tensor([2.0, 3.0])
    c14.plot_smoothing(both, both)
    c14.plot_sensitivity({"RTN": {"a": 1.0, "b": 2.0}, "GPTQ": {"a": 0.5}})
    c14.plot_experts({"4 windows": ([10, 20], [1.2, 0.9])})
    channels, kinds, smoothing, bars, experts = (axes for axes, _ in shown)
    assert channels[0].images[0].get_array().shape == (3, 5)
    assert [len(axis.get_lines()) for axis in kinds] == [2, 1]
    assert list(smoothing[0].get_lines()[0].get_ydata()) == [9.0, 1.0]  # the loudest first
    assert list(smoothing[0].get_lines()[1].get_ydata()) == [3.0, 2.0]
    assert sorted(patch.get_height() for patch in bars[0].patches) == [0.5, 1.0, 2.0]
    assert list(experts[0].get_lines()[0].get_xdata()) == [10, 20]


def test_the_board_counts_bits_and_leaves_the_model_alone(board):
    model, measured = board
    before = [weight.clone() for weight in model.parameters()]
    sixteenth = QuantizationArgs(2, False, "group", 32).bits_per_weight((32, 32))
    assert 2 < measured.bits_per_weight([2, 2]) <= sixteenth
    both = (measured.bits_per_weight([8, 8]) + measured.bits_per_weight([2, 2])) / 2
    assert measured.bits_per_weight([8, 2]) == pytest.approx(both)  # layers of one size
    plain = measured.nats()
    eight, two = measured.nats([8, 8]), measured.nats([2, 2])
    assert abs(eight - plain) < abs(two - plain)
    assert measured.nats() == plain == measured.nats(None)  # asked again: nothing is left behind
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_board_says_what_is_spent_and_whether_it_may_be(board, shown):
    show_board = c14_board.allocation_board(board[1])
    show_board(budget=9.0, layer_0=8, layer_1=2)
    show_board(budget=3.0, layer_0=8, layer_1=2)
    (rich,), (poor,) = (axes for axes, _ in shown)
    assert "within budget" in rich.get_title() and "over budget" in poor.get_title()
    assert [bar.get_height() for bar in rich.patches] == [8, 2]
    assert rich.patches[0].get_facecolor() != poor.patches[0].get_facecolor()
    assert "perplexity" in rich.get_title()
