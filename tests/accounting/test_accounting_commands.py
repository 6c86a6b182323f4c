"""`course models` and `course count`: what they print, and how they end."""

import json
from dataclasses import replace

import pytest

from course_utils.accounting.catalog import catalog, find
from course_utils.accounting.overview import attention_kinds, model_row, model_rows
from course_utils.cli import main


def test_the_table_has_a_line_for_every_model(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name in catalog():
        assert sum(line.startswith(name + " ") for line in out.splitlines()) == 1
    assert out.count("0, exact") == 7  # one line for each model with an exact size
    assert "should be exact" not in out


def test_rows_hold_the_exact_figure_where_there_is_one():
    rows = {row.name: row for row in model_rows()}
    assert rows["DeepSeek-V3"].published == 684_531_386_000
    assert rows["DeepSeek-V3"].difference == 0 and rows["DeepSeek-V3"].exact
    assert rows["Kimi-K3"].published is None and rows["Kimi-K3"].difference is None
    assert rows["Qwen2.5-72B"].cache_per_token == 327_680


def test_a_card_shows_parts_conventions_figures_and_sources(capsys):
    assert main(["models", "deepseek-v3"]) == 0
    out = capsys.readouterr().out
    for words in ("671,026,419,200", "684,531,386,000", "routed experts", "as stored", "70,272"):
        assert words in out
    assert "MLA | MoE" in out and "arXiv 2412.19437" in out
    assert "not modelled" not in out


def test_a_card_says_what_is_not_modelled_and_what_is_inferred(capsys):
    assert main(["models", "Kimi-K3"]) == 0
    out = capsys.readouterr().out
    assert "not modelled\n- vision_config is" in out
    assert main(["models", "Ling-1T"]) == 0
    assert "num_key_value_heads: the report says 8, 16 or 32" in capsys.readouterr().out


def test_count_of_any_config(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(find("Qwen3-0.6B").config | {"surprise": 3}))
    assert main(["count", str(path)]) == 0
    out = capsys.readouterr().out
    assert "596,049,920" in out and "28 layers, GQA" in out
    assert "- surprise is 3: an unknown key" in out


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (["models", "qwen3-30"], 2, "unknown model 'qwen3-30': did you mean Qwen3-30B-A3B?"),
        (["count", "no.json"], 1, "there is no file no.json"),
        (["count"], 2, "Missing argument"),
    ],
)
def test_wrong_names_and_files_get_one_line(typed, code, words, capsys):
    assert main(typed) == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model_type": "llama"}', "is missing: add it"),
        ('{"model_type": "gpt2"}', "model_type is 'gpt2', which is not read here"),
        ("{", "is no JSON"),
    ],
)
def test_wrong_configs_get_one_line(tmp_path, text, words, capsys):
    path = tmp_path / "config.json"
    path.write_text(text)
    assert main(["count", str(path)]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_kinds_of_attention_in_words():
    assert attention_kinds(find("gpt-oss-20b").spec) == "12 GQA, window 128 + 12 GQA"
    assert attention_kinds(find("Hunyuan-Large").spec) == "32 GQA + 32 GQA shared"
    assert attention_kinds(find("Qwen1.5-0.5B").spec) == "MHA"


def test_a_row_prefers_an_exact_figure_wherever_it_stands():
    entry = find("Qwen3-30B-A3B")
    turned = replace(entry, published=entry.published[::-1])
    assert not turned.figure("total").exact
    assert model_row(turned).exact
