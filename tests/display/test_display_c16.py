"""Chapter 16's pictures: rows and bars are those of the log; the widget takes any setting."""

import matplotlib.pyplot as plt
import pytest

from course_utils.display import c16
from course_utils.display.figures import figure
from course_utils.scheduling import SchedulerConfig, share_budget
from course_utils.serving.log import Log, Work, dry_run

PROMPTS, NEW = [[1] * 9, [1] * 5, [2] * 4], [4, 2, 6]


@pytest.fixture
def shown(monkeypatch):
    """The figures that were shown, still open, with their descriptions."""
    kept = []
    monkeypatch.setattr(c16, "show_figure", lambda fig, words: kept.append((fig, words)))
    yield kept
    plt.close("all")


def heights(axis) -> list[float]:
    return [bar.get_height() for bar in axis.patches]


def test_bars_of_a_pass_add_up_to_its_tokens():
    log, _ = dry_run(SchedulerConfig(20, 4, 8, 2), PROMPTS, NEW)
    fig, (axis,) = figure()
    c16.sizes_by_kind(axis, log)
    assert sum(heights(axis)) == log.tokens()
    tops = [bar.get_y() + bar.get_height() for bar in axis.patches]
    assert max(tops) == max(log.sizes())
    plt.close(fig)


def test_a_request_is_a_row():
    log = Log()
    log.add([Work(0, "prefill", 4, True), Work(1, "prefill", 2, True)])
    log.add([Work(0, "decode", 1, True), Work(1, "padding", 1)])
    spans = c16.spans_of(log)
    assert [(span.row, span.kind) for span in spans] == [
        ("request 0", "prefill"),
        ("request 0", "decode"),
        ("request 1", "prefill"),
        ("request 1", "padding"),
    ]


def test_timelines_share_their_axis_and_say_how_many_passes(shown):
    logs = {
        admit: dry_run(SchedulerConfig(20, 4, 8, 2, admit=admit), PROMPTS, NEW)[0]
        for admit in ("batch", "continuous")
    }
    c16.plot_timelines(logs)
    ((fig, words),) = shown
    assert [axis.get_title() for axis in fig.axes] == [
        f"{name}: {len(log.passes)} passes" for name, log in logs.items()
    ]
    assert {axis.get_xlim() for axis in fig.axes} == {(0.0, float(len(logs["batch"].passes)))}
    assert "timeline" in words


def test_the_widget_draws_what_the_scheduler_plans_or_says_why_not(shown, capsys):
    explorer = c16.batch_explorer(PROMPTS, NEW, share_budget)
    explorer(max_requests=2, block_size=4, max_tokens=8, num_blocks=8)
    log, _ = dry_run(SchedulerConfig(8, 4, 8, 2), PROMPTS, NEW)
    title = shown[0][0].axes[0].get_title()
    assert title.startswith(f"{len(log.passes)} passes, {log.tokens()} tokens")
    explorer(block_size=4, num_blocks=2)
    assert "This does not work: request 0" in capsys.readouterr().out and len(shown) == 1


def test_waste_marks_the_largest_block(shown):
    c16.plot_waste({1: 0.0, 16: 0.1, 512: 0.8})
    (axis,) = shown[0][0].axes
    assert axis.texts[0].get_text() == "a room for the longest text"
    assert list(axis.lines[1].get_xdata()) == [512]
