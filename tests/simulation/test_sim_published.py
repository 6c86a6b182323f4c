"""Published figures: identities close, fits fit, predictions hold, and shapes are as published."""

import math

import pytest

from course_utils.simulation.published import (
    FIGURE_5,
    FIGURE_15B,
    LABELS,
    Figure,
    deepseek,
    figure_5,
    figure_8,
    figure_9,
    figure_13,
    figure_15b,
    not_tried,
)

FIGURE_9 = {  # cache in tokens: as published, and as the released trace gives it
    "conversation_trace": {
        1e5: (0.0731, 0.0425),
        1e6: (0.0866, 0.0542),
        4e6: (0.2149, 0.1778),
        1e7: (0.3263, 0.2908),
        math.inf: (0.4006, 0.3736),
    },
    "synthetic_trace": {
        1e5: (0.0117, 0.0116),
        1e6: (0.1461, 0.1421),
        4e6: (0.3805, 0.3745),
        1e7: (0.5886, 0.5768),
        math.inf: (0.6582, 0.6512),
    },
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
    trace = request.getfixturevalue(name)
    figures = figure_9(trace, {size: paper for size, (paper, _) in FIGURE_9[name].items()})
    for figure, (size, (paper, released)) in zip(figures, FIGURE_9[name].items(), strict=True):
        if size < math.inf:
            assert figure.ours == pytest.approx(released, abs=1.5e-4)
            assert figure.label == "not reproduced"
        else:
            assert figure.label == "predicted"
            assert figure.ours == pytest.approx(paper, abs=6e-4)
            gained = figure.ours - released
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


def test_figure_15b_has_the_published_knee(synthetic_trace):
    five, seven, eleven = figure_15b(synthetic_trace)
    assert five.ours > 3 * seven.ours and five.published > 3 * seven.published
    assert seven.ours < 1.35 * eleven.ours and seven.published < 1.35 * eleven.published
    assert 0.2 < FIGURE_15B[11] - eleven.ours < 0.5


def test_labels_are_the_four():
    with pytest.raises(ValueError, match="label is 'close': choose one of identity"):
        Figure("x", 1, 1, "close")
    assert len(LABELS) == 4 and all(why for _, why in not_tried())
