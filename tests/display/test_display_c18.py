"""Chapter 18's pictures: bars are the spans of the run, verdicts need twice the spread."""

from itertools import pairwise

import matplotlib.pyplot as plt
import pytest

from course_utils.display import c18, c18_timelines
from course_utils.simulation.cluster import Cluster
from course_utils.simulation.metrics import token_times
from course_utils.simulation.published import mooncake_cluster, together_cluster
from course_utils.simulation.workloads import TraceRequest, load_workload

TRACE = [TraceRequest(0.0, 2000, 10), TraceRequest(0.1, 30_000, 5), TraceRequest(0.2, 2000, 10)]


@pytest.fixture
def shown(monkeypatch):
    """The figures and their descriptions, in place of pictures."""
    found = []
    for module in (c18, c18_timelines):
        monkeypatch.setattr(module, "show_figure", lambda fig, text: found.append((fig, text)))
    yield found
    plt.close("all")


@pytest.mark.parametrize(
    "config", [mooncake_cluster(1, 1, bandwidth=12.5e9), together_cluster(2, 512)]
)
def test_a_request_is_somewhere_from_its_arrival_to_its_last_token(config):
    cluster = Cluster(config, TRACE).run()
    spans = c18_timelines.request_spans(cluster)
    for number, request in enumerate(TRACE):
        own = [span for span in spans if span.row == f"request {number}"]
        assert own[0].start == request.arrival
        assert own[-1].end == pytest.approx(token_times(cluster, number)[-1])
        for before, after in pairwise(own):
            assert before.end == after.start
    split = bool(cluster.decoders)
    assert ("transfer" in {span.kind for span in spans}) == split


def test_rejected_requests_are_marked():
    cluster = Cluster(mooncake_cluster(1, 1, ttft_limit=3.0), TRACE).run()
    kinds = [span.kind for span in c18_timelines.request_spans(cluster) if span.row == "request 1"]
    assert kinds == ["rejected"]


def test_nodes_work_on_one_step_at_a_time_and_links_carry_what_was_sent():
    cluster = Cluster(mooncake_cluster(1, 1, bandwidth=12.5e9), TRACE).run()
    spans = c18_timelines.node_spans(cluster)
    links = [span for span in spans if span.kind == "transfer"]
    assert [span.row for span in links] == ["link 0 to 1"] * 3
    seconds = sum(span.end - span.start for span in links)
    assert seconds == pytest.approx(34_000 * 327_680 / 12.5e9)
    reads = [span for span in spans if span.row == "node 0 (reads)"]
    assert {span.kind for span in reads} == {"prefill"} and len(reads) == 3
    assert {span.kind for span in spans if "writes" in span.row} == {"decode"}


def test_pictures_of_runs_say_what_they_show(shown):
    cluster = Cluster(mooncake_cluster(1, 1), TRACE).run()
    c18_timelines.plot_requests({"one": cluster, "two": cluster})
    c18_timelines.plot_nodes(cluster, "title")
    assert len(shown[0][0].axes) == 2 and "worst TBT" in shown[0][0].axes[0].get_title()
    assert "title; nodes are busy" in shown[1][0].axes[0].get_title()


def test_the_player_draws_its_first_moment_without_a_front_end(shown):
    c18_timelines.timeline_player(Cluster(mooncake_cluster(1, 1), TRACE).run())
    (fig, _) = shown[0]
    assert "Requests in" in fig.axes[0].get_title()


def row(setup: str, seed: int, value: float) -> dict:
    return {"setup": setup, "load": 1.0, "seed": seed, "goodput_50": value}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.9, 0.91, 0.92), "split"),
        ((0.5, 0.9, 0.7), "no verdict"),
        ((0.1, 0.11, 0.12), "together"),
    ],
)
def test_a_verdict_needs_twice_the_spread(values, verdict):
    groups = {"split": ["a", "b"], "other": ["c"]}
    rows = [row("a", seed, value) for seed, value in enumerate(values)]
    rows += [row("b", seed, 0.01) for seed in range(3)]
    rows += [row("c", seed, value) for seed, value in enumerate((0.5, 0.51, 0.52))]
    found = c18.split_against(rows, groups, "other", 1.0, 50)
    assert found[-1] == verdict and found[2] == "a"
    assert c18.with_spread(rows, "c", "goodput_50") == "0.51 +- 0.01"
    best = c18.best_of(rows, groups["split"], 1.0, 50)
    assert best == ("a", list(values))


def test_pictures_of_numbers(shown):
    rows = [row(setup, seed, 0.5 + seed / 10) for setup in "ab" for seed in range(3)]
    c18.plot_limits(rows, {"one": ["a"], "two": ["b"]}, (1.0,), (50,))
    c18.plot_waits([0.5], {"x": [1.0]}, {"x": [1.1]})
    c18.plot_hits([10, 100], {"x": [0.1, 0.2]})
    sweep = [
        {"setting": f"{n} prefill nodes, {kind}", "published": 1.0, "ours": 0.9}
        for n in (5, 6)
        for kind in ("TTFT", "goodput", "TBT")
    ]
    c18.plot_sweep(sweep)
    assert [len(fig.axes) for fig, _ in shown] == [1, 1, 1, 2]
    assert all(len(text.split()) > 8 for _, text in shown)
    left, right = shown[-1][0].axes
    assert list(left.lines[1].get_ydata()) == [0.9, 0.9]
    assert list(right.lines[1].get_ydata()) == [90.0, 90.0]


def test_the_designer_serves_with_every_split(capsys):
    design = c18.cluster_designer(load_workload(requests=12), nodes=3)
    for reads, gigabits in ((1, 10), (2, 800)):
        design(reads, gigabits, 10, 100)
        text = capsys.readouterr().out
        assert f"{reads} read, {3 - reads} write" in text
        assert f"28 Gbit/s; you have {gigabits}" in text
