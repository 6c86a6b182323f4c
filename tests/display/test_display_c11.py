"""The pictures of chapter 11: titles that follow the numbers, seeds and rounds kept apart."""

import pytest
import torch

from course_utils.data import puzzles
from course_utils.display import c11
from course_utils.models import DecoderLM, ModelConfig

shown, tables = [], []


@pytest.fixture(autouse=True)
def kept(monkeypatch):
    shown.clear()
    tables.clear()
    monkeypatch.setattr(c11, "show_figure", lambda fig, text: shown.append((fig, text)))
    monkeypatch.setattr(c11, "show_table", lambda *given: tables.append(given))


def titles() -> list[str]:
    return [axis.get_title() for axis in shown[-1][0].axes]


def rows() -> list[dict]:
    """Two methods, two seeds, two rounds of the second; "b" ends above "a"."""
    found = []
    for method, rounds in (("a", (0,)), ("b", (1, 2))):
        for seed in (0.0, 1.0):
            for number in rounds:
                value = {"a": 0.5, "b": 0.4 * number}[method] + 0.1 * seed
                row = {"method": method, "seed": seed, "round": number, "accuracy": value}
                row |= {f"accuracy_{d}": value - 0.05 * d for d in puzzles.DIFFICULTIES}
                row |= {"pass_1": value, "pass_2": value, "mentioned": 0.9, "verified": value}
                found.append(row)
    return found


def test_verdicts_are_in_words_and_take_one_more_verifier():
    question = "a=3;b=a+5;b?"
    texts = ["a=3;b=3+5=8;8.", "8.", "0123456789."]
    c11.show_verdicts(question, texts, yours=lambda q, text: text == "8.")
    ((title, header, found),) = tables
    assert title == question
    assert header == ["completion", "strict", "answer alone", "digit anywhere", "yours"]
    assert [row[1:] for row in found] == [
        ("passes", "passes", "passes", "-"),
        ("-", "passes", "passes", "passes"),
        ("-", "-", "passes", "-"),
    ]


def test_the_last_round_of_each_seed_counts():
    assert c11.by_method(rows(), "accuracy") == {"a": [0.5, 0.6], "b": [0.8, 0.9]}
    c11.plot_methods(rows(), {"accuracy": "right answers", "verified": "right steps"})
    assert titles() == ["Best: b", "Best: b"]


def test_the_highest_score_is_named():
    c11.plot_scores("a=3;", torch.tensor([0.1, 0.0, 2.0, 0.3]), wrong=2)
    assert titles() == ["The teacher objects most to symbol 3, '3'"]
    assert "number 3, is orange" in shown[-1][1]


def test_lines_for_every_method_and_every_k():
    one = [row for row in rows() if row["round"] == 0]
    c11.plot_difficulty(one)
    (axis,) = shown[-1][0].axes
    assert [line.get_label() for line in axis.lines] == ["a"]
    assert list(axis.lines[0].get_ydata()) == pytest.approx([0.55 - 0.05 * d for d in range(1, 7)])
    c11.plot_pass(one)
    assert list(shown[-1][0].axes[0].lines[0].get_xdata()) == [1, 2]
    c11.plot_live([0.4, 0.3])
    c11.plot_hacking([row for row in rows() if row["method"] == "b"])
    assert titles() == ["b"]
    reported, right = shown[-1][0].axes[0].lines
    assert list(reported.get_ydata()) == pytest.approx([0.9, 0.9])
    assert list(right.get_ydata()) == pytest.approx([0.45, 0.85])


def test_the_explorer_asks_questions_of_the_difficulty(monkeypatch):
    asked = []

    def answer(model, prompts, new_tokens, **options):
        asked.append((len(prompts), options["temperature"]))
        return [puzzles.encode("0123456789.")] * len(prompts)

    monkeypatch.setattr(c11, "complete", answer)
    model = DecoderLM(ModelConfig(len(puzzles.SYMBOLS), 16, 16, 1, 2, 2))
    c11.verifier_explorer({"base": model, "teacher": model}, count=5)(1.5, 2)
    assert asked == [(5, 1.5)] * 2 and titles() == ["Temperature 1.5, 2 operations"]
    heights = [bar.get_height() for bar in shown[-1][0].axes[0].patches]
    assert heights == [0, 0, 1, 0, 0, 1]
