"""Chapter 07's pictures: titles follow the numbers, and the explorer counts what fits."""

import matplotlib.pyplot as plt
import pytest
import torch

from course_utils.accounting.catalog import find
from course_utils.display import c07


@pytest.fixture
def shown(monkeypatch):
    """Figures as (first title, description), in place of pictures."""
    found = []

    def keep(fig, description):
        found.append((fig.axes[0].get_title(), description))
        plt.close(fig)

    monkeypatch.setattr(c07, "show_figure", keep)
    return found


def test_titles_state_what_the_numbers_say(shown):
    c07.plot_decode((256, 4096), {"MHA": [1.0, 4.0], "MLA naive": [3.0, 50.0], "MQA": [0.9, 1.5]})
    c07.plot_ranks([16, 32], {"weights": [0.6, 0.4], "values": [0.2, 0.05]}, 32)
    rows = [
        {"variant": name, "kv_elements_per_token": 8.0, "bits_before": 2.0, "bits_after": after}
        for name, after in (("dense", 1.0), ("a", 1.5), ("b", 1.4), ("a", 1.7), ("b", 1.6))
    ]
    c07.plot_conversion(rows)
    c07.plot_between({0: torch.eye(3), 4: -torch.eye(3)})
    titles = [title for title, _ in shown]
    assert titles[0] == "At 4,096 tokens MQA is fastest here, MLA naive slowest"
    assert titles[1] == "Rank 32 loses 5% of the values"
    assert titles[2] == "With half of the cache, b is lower (recorded)"
    assert titles[3] == "distance 0"
    assert all(len(description.split()) > 8 for _, description in shown)


def test_the_cache_of_full_heads():
    assert c07.as_mha(find("DeepSeek-V2").spec) == 60 * 2 * 128 * 128
    assert c07.as_mha(find("Llama-3.1-8B").spec) == 32 * 2 * 32 * 128
    with pytest.raises(ValueError, match="no such heads"):
        c07.as_mha(find("Kimi-Linear-48B-A3B").spec)


@pytest.mark.parametrize("model", c07.EXPLORED)
def test_the_explorer_counts_cards_and_bytes(shown, capsys, model):
    show = c07.context_explorer()
    show(model, 1024, 1, "H200", 16)
    show(model, 1_048_576, 256, "H200", 16)
    few, many = (
        int(line.split(": ")[1].split(" x ")[0].replace(",", ""))
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("weights")
    )
    assert few < many
    assert shown[0][0].startswith("1 x 1,024 tokens: a cache of")


def test_the_explorer_says_what_a_token_reads(shown, capsys):
    c07.context_explorer()("DeepSeek-V3", 32_768, 32, "H200", 16)
    text = capsys.readouterr().out
    assert "2.30 GB of cache (131.00 GB with MHA)" in text
    assert shown[0][0] == "32 x 32,768 tokens: a cache of 73.7 GB"
