"""Published figures: identities close, fits fit, predictions hold, and shapes are as published."""

import math

import pytest

from course_utils.simulation.published import (
    FIGURE_5,
    FIGURE_9,
    FIGURE_15A,
    FIGURE_15B,
    LABELS,
    Figure,
    deepseek,
    figure_5,
    figure_8,
    figure_9,
    figure_10,
    figure_13,
    figure_15,
    not_tried,
)

RELEASED = {  # by cache in tokens, as the released trace gives it
    "conversation": (0.0425, 0.0542, 0.1778, 0.2908, 0.3736),
    "synthetic": (0.0116, 0.1421, 0.3745, 0.5768, 0.6512),
}


def test_deepseeks_fleet_closes():
    figures = {figure.name: figure for figure in deepseek()}
    for figure in figures.values():
        assert figure.label == "identity"
        if not math.isnan(figure.published):
            assert figure.ours == pytest.approx(figure.published, rel=0.0015), figure.name
    assert figures["dollars a day"].ours == 87_072
    assert round(figures["nodes on average"].ours, 1) == 226.9
    assert round(figures["GB of cache a GPU, implied"].ours) == 31


@pytest.mark.parametrize("name", FIGURE_9)
def test_figure_9_as_the_trace_gives_it_and_its_residual(name, request):
    *found, best = figure_9(request.getfixturevalue(f"{name}_trace"), name)
    assert [figure.ours for figure in found] == pytest.approx(RELEASED[name], abs=1.5e-4)
    assert {figure.label for figure in found} == {"not reproduced"} and best.label == "predicted"
    assert [figure.published for figure in (*found[:-1], best)] == list(FIGURE_9[name].values())
    assert best.ours == pytest.approx(best.published, abs=6e-4)
    gained = best.ours - found[-1].ours
    assert gained == pytest.approx({"c": 0.0270, "s": 0.0075}[name[0]], abs=1e-4)


def test_figure_8_after_fitting_one_mfu(conversation_trace):
    plain, cached = figure_8(conversation_trace)
    assert "59.2%" in plain.note and plain.ours == pytest.approx(1.661)
    assert cached.ours / plain.ours == pytest.approx(0.648, abs=1e-3)
    assert cached.ours == pytest.approx(cached.published, rel=0.02)


def test_figure_5_has_the_published_order(conversation_trace):
    figures = figure_5(conversation_trace[:3000])
    assert [figure.name for figure in figures] == list(FIGURE_5)
    ours = [figure.ours for figure in figures]
    assert ours == sorted(ours) and ours[2] > 1.3 * ours[1] and ours[3] > 3 * ours[2]


def test_figure_13_has_the_published_order(synthetic_trace):
    figures = figure_13(synthetic_trace)
    slow, middle, fast, without = (figure.ours for figure in figures)
    assert slow > without > middle > fast
    slow, middle, fast, without = (figure.published for figure in figures)
    assert slow > without > middle > fast


def test_figure_10_global_caches_are_predicted_and_local_ones_not(synthetic_trace):
    local, everywhere = figure_10(synthetic_trace, "synthetic")
    assert everywhere.ours == pytest.approx(everywhere.published, abs=0.013)
    assert local.ours < everywhere.ours and local.ours > 1.5 * local.published


def test_figure_15_has_the_published_knee_and_not_the_fall(synthetic_trace):
    found = {figure.name: figure for figure in figure_15(synthetic_trace)}
    five, seven, eleven = (found[f"{n} prefill nodes, TTFT"] for n in (5, 7, 11))
    assert five.ours > 3 * seven.ours and five.published > 3 * seven.published
    assert seven.ours < 1.35 * eleven.ours and seven.published < 1.35 * eleven.published
    assert 0.2 < FIGURE_15B[11] - eleven.ours < 0.5
    five, seven, eleven = (found[f"{n} prefill nodes, goodput"] for n in (5, 7, 11))
    assert five.ours < 0.9 < 0.98 < seven.ours and five.published < 0.9 < 0.98 < seven.published
    assert eleven.ours > 0.98 and FIGURE_15A[11] < 0.9  # the fall that is not reproduced
    ends = [found[f"{n} prefill nodes, TBT"] for n in (5, 11)]
    assert ends[1].ours < 1.1 * ends[0].ours and ends[1].published > 1.5 * ends[0].published


def test_labels_are_the_four():
    with pytest.raises(ValueError, match="label is 'close': choose one of identity"):
        Figure("x", 1, 1, "close")
    assert len(LABELS) == 4 and all(why for _, why in not_tried())
