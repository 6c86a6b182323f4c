"""What chapter 01 shows: pictures with a description, budgets that follow the sliders, claims."""

import pytest

from course_utils.accounting.catalog import catalog, find
from course_utils.accounting.claims import claims
from course_utils.accounting.spec import ModelSpec
from course_utils.display import c01, figures
from course_utils.display.c01 import attention_kind, budget_explorer, claim_options, show_claim

V3 = {
    "layers": 61, "width": 7168, "experts": 256, "chosen": 8, "expert_width": 2048,
    "latent_rank": 512,
}  # fmt: skip


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order."""
    things = []
    monkeypatch.setattr(figures, "display", things.append)
    monkeypatch.setattr(c01, "display", things.append)
    return things


@pytest.fixture
def titles(monkeypatch):
    """The titles that axes get."""
    found = []
    set_title = figures.plt.Axes.set_title

    def keep(axis, text, **options):
        found.append(text)
        return set_title(axis, text, **options)

    monkeypatch.setattr(figures.plt.Axes, "set_title", keep)
    return found


def test_every_kind_of_attention_is_named():
    kinds = {name: attention_kind(entry.spec) for name, entry in catalog().items()}
    assert set(kinds.values()) == set(c01.KINDS)
    assert kinds["DeepSeek-V3"] == kinds["GLM-5"] == "MLA"
    assert kinds["gpt-oss-20b"] == "GQA with windows" and kinds["OLMoE-1B-7B"] == "MHA"
    assert kinds["Kimi-Linear-48B-A3B"] == "with linear attention" and kinds["Step-3"] == "other"


def test_pictures_come_with_a_description(shown):
    entries = list(catalog().values())
    c01.plot_activated(entries, 0.03, 0.16)
    c01.plot_caches(entries, "a finding", ["Kimi-K2"])
    c01.plot_parts(find("DeepSeek-V3").spec.by_part(), "a finding")
    c01.plot_cache_growth([find("Qwen3-Next-80B-A3B")], [128, 1024])
    c01.plot_roofline({"decode": 2.0, "prefill": 500.0}, "H800")
    assert len(shown) == 10
    assert all(picture.data.startswith(b"\x89PNG") and picture.alt for picture in shown[::2])
    with pytest.raises(ValueError, match="the balance of Kunlun P800 is not known"):
        c01.plot_roofline({"decode": 2.0}, "Kunlun P800")


def test_the_title_of_shares_says_what_it_is_given(shown, titles):
    c01.plot_activated([find("DeepSeek-V3")], 0.05, 0.5)
    assert titles == ["Large sparse models use 5% to 50% of themselves for a token"]


def test_the_budget_starts_at_the_model_and_follows_each_slider(shown, titles):
    show_budget = budget_explorer(find("DeepSeek-V3").config)
    show_budget(**V3)
    assert titles[-1].startswith("671.0B parameters, 37.6B activated (5.6%)\ncache 70,272 bytes")
    for key, value, changed in (
        ("experts", 512, "total"), ("chosen", 16, "activated"), ("latent_rank", 1024, "cache"),
        ("layers", 30, "cache"), ("width", 1024, "total"), ("expert_width", 512, "total"),
    ):  # fmt: skip
        show_budget(**(V3 | {key: value}))
        assert titles[-1] != titles[0], f"{key} changes no {changed}"
    assert "671.0B" in titles[2], "more experts chosen leave the total as it is"


def test_an_impossible_budget_says_why(shown, capsys):
    budget_explorer(find("DeepSeek-V3").config)(**(V3 | {"experts": 8, "chosen": 32}))
    said = capsys.readouterr().out
    assert "That is no model: num_experts_per_tok is 32: choose from 1 to 8" in said
    assert shown == []


def test_a_budget_changes_no_catalog_entry(shown):
    before = dict(find("DeepSeek-V3").config)
    budget_explorer(find("DeepSeek-V3").config)(**(V3 | {"layers": 4}))
    assert find("DeepSeek-V3").config == before
    assert ModelSpec.from_hf_config(before).count().total == 671_026_419_200


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: str(claim.id))
def test_every_claim_is_shown_in_full(shown, claim):
    show_claim(claim.id)
    text = " ".join(repr(shown[-1]).split())
    assert claim.verdict in text and claim.fact[:30] in text
    assert all(result in text for result in claim.results.values())
    assert ("rests on the source alone" in text) == (not claim.computation)


def test_prices_are_no_formula(shown):
    show_claim(24)
    assert "<span>$</span>0.07" in shown[-1]._repr_html_()
    assert "$0.07" in repr(shown[-1])


def test_the_list_of_claims_is_short_and_complete():
    options = claim_options(claims())
    assert [number for _, number in options] == [claim.id for claim in claims()]
    assert all(len(text) <= 70 for text, _ in options)
    assert c01.shortened("one two three", 8) == "one two ..." and c01.shortened("one", 8) == "one"
