"""What notebooks show: as text and as HTML, deterministic, and without a front end."""

import ipywidgets
import pytest
import torch

from course_utils.data.tokenizer import course_tokenizer
from course_utils.display import explore, figures, show_figure, show_table, tokens
from course_utils.display.c00 import plot_weight_bytes
from course_utils.display.c02 import next_token_explorer, plot_scaling
from course_utils.display.tables import as_text
from course_utils.display.timing import alternate
from course_utils.models import DecoderLM, ModelConfig


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0.12345, "0.123"), (1234.5, "1,234"), (True, "True"), ("a", "a")],
)
def test_numbers_in_tables(value, text):
    assert as_text(value) == text


def test_table_as_text(capsys):
    show_table("Sizes", ["model", "bytes"], [("small", 1000), ("large", 2.5)])
    assert capsys.readouterr().out.splitlines() == [
        "Sizes",
        "  model  bytes",
        "  small  1,000",
        "  large  2.5",
    ]


def test_tokens_as_text_and_html():
    strip = tokens.TokenStrip(["a<b", "\n"])
    assert repr(strip) == "a<b|\u23ce"
    assert "a&lt;b" in strip._repr_html_()
    assert "<b" not in strip._repr_html_().replace("&lt;b", "")


@pytest.fixture
def shown(monkeypatch):
    """What figures display, in order."""
    things = []
    monkeypatch.setattr(figures, "display", things.append)
    return things


def test_figure_comes_with_its_description(shown):
    fig, (axis,) = figures.figure()
    axis.plot([1, 2])
    show_figure(fig, "a line that rises & ends.")
    picture, caption = shown
    assert picture.data.startswith(b"\x89PNG")
    assert picture.alt == "a line that rises & ends."
    assert repr(caption) == "Figure: a line that rises & ends."
    assert "rises &amp; ends" in caption._repr_html_()
    assert not figures.plt.get_fignums()


def test_scaling_names_what_it_finds(shown, monkeypatch):
    titles = []
    monkeypatch.setattr(
        figures.plt.Axes, "set", lambda self, **options: titles.append(options.get("title"))
    )
    falling = {"small": [(1e6, 2.0), (1e6, 2.1)], "large": [(4e6, 1.0), (4e6, 1.1)]}
    rising = {"small": [(1e6, 1.0), (1e6, 1.1)], "large": [(4e6, 2.0), (4e6, 2.1)]}
    plot_scaling({"tokens": falling, "compute": rising})
    found = [title for title in titles if title]
    assert found[0].startswith("Same tokens: larger is better")
    assert found[1].startswith("Same compute: smaller is better")


def test_picture_of_bytes_uses_the_function_that_is_handed_in(shown):
    calls = []

    def counting(parameters, bits):
        calls.append((parameters, bits))
        return 1_000_000_000

    plot_weight_bytes({"model": 10}, {"laptop": 8}, counting)
    assert calls == [(10, 16), (10, 8), (10, 4), (10, 2)]
    assert len(shown) == 2


def test_explorer_takes_any_prompt(shown):
    tokenizer = course_tokenizer()
    model = DecoderLM(ModelConfig(tokenizer.vocab_size, 32, 32, 1, 1, 1, 32))
    show_next = next_token_explorer(model, tokenizer, shown=3)
    show_next("And", 0.8, 0.9)
    show_next("", 0.1, 0.05)
    assert len(shown) == 4


def test_widget_runs_once_without_a_front_end(capsys):
    seen = []
    slider = ipywidgets.IntSlider(3)
    explore(lambda count: seen.append(count), count=slider)
    assert seen == [3]
    assert slider.continuous_update is False


def test_alternate_takes_turns():
    order = []
    one, other = alternate(lambda: order.append("a"), lambda: order.append("b"), rounds=2)
    assert order == list("ababab")
    assert one >= 0 and other >= 0


def test_same_weights_same_picture(shown):
    torch.manual_seed(0)
    for _ in range(2):
        plot_weight_bytes({"model": 10}, {"laptop": 8}, lambda parameters, bits: 10**9)
    assert shown[0].data == shown[2].data
