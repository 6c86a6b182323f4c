"""Chapter 17's pictures: what they say in words follows from the records that they are given."""

import pytest

from course_utils.display import c17
from course_utils.records import load_record
from course_utils.records.load_sweep import (
    ADMISSION,
    RATES,
    SERVER,
    TPOT,
    TTFT,
    VARIATION,
    in_time,
)
from course_utils.serving.mock import NODE
from course_utils.serving.simulated import SimulatedServer
from course_utils.serving.slo import RequestRecord, goodput
from course_utils.simulation.workloads import poisson


@pytest.fixture(scope="module")
def tests():
    return {
        rate: SimulatedServer(SERVER, NODE).run(poisson(10 * rate, rate, 512, 32))
        for rate in (4, 14)
    }


def titles(monkeypatch, draw) -> str:
    """All titles of a picture, and its description."""
    said = []

    def note(fig, description):
        said.extend(axis.get_title() for axis in fig.axes)
        said.append(description)

    monkeypatch.setattr(c17, "show_figure", note)
    draw()
    return "\n".join(said)


def test_columns_are_those_of_answered_requests():
    refused = RequestRecord(0, 0, None, None, 0, 429)
    ttft, tpot = c17.columns([RequestRecord(1, 1, 2, 4, 5, 200), refused])
    assert ttft.tolist() == [1.0] and tpot.tolist() == [0.5]
    assert [len(column) for column in c17.columns([refused])] == [0, 0]


def test_the_title_names_the_last_rate_that_keeps_the_promise(monkeypatch, tests):
    words = titles(monkeypatch, lambda: c17.plot_latencies(tests, 1.0, 0.05))
    assert "up to 4 a second" in words
    assert "up to 0 a second" in titles(
        monkeypatch, lambda: c17.plot_latencies({14: tests[14]}, 1.0, 0.05)
    )


def test_timelines_name_the_longest_wait(monkeypatch):
    records = [RequestRecord(0, 0, 0.5, 1, 3, 200), RequestRecord(0, 0, 1.25, 2, 3, 200)]
    words = titles(monkeypatch, lambda: c17.plot_timelines({"one at a time": records}))
    assert "one at a time: up to 1.25 s" in words


def test_goodput_of_the_record_and_two_tests_are_drawn(monkeypatch, tests):
    rows = load_record("c17_load").rows
    assert "prediction" in titles(monkeypatch, lambda: c17.plot_goodput(rows))
    waits = {str(rate): c17.columns(records)[0] for rate, records in tests.items()}
    assert "found" in titles(monkeypatch, lambda: c17.plot_two_tests(waits, "found"))


def test_the_explorer_counts_the_refused(monkeypatch):
    show = c17.slo_explorer(lambda limit: in_time)
    everybody = titles(monkeypatch, lambda: show(14, 8, 512, 32, "all"))
    assert "0 of 280 refused" in everybody
    assert "0 of 280 refused" not in titles(monkeypatch, lambda: show(14, 8, 512, 32, "prediction"))


def test_aiming_below_the_promise_refuses_some_who_would_have_been_in_time():
    trace = poisson(56, 14, 512, 32, seed=0)
    everybody = SimulatedServer(SERVER, NODE).run(trace)
    some = SimulatedServer(SERVER, NODE, in_time).run(trace)
    assert goodput(everybody, TTFT, TPOT) == 1
    assert [record.status for record in some].count(429) == 4


def test_the_record_has_every_setting_once_and_says_what_the_chapter_says():
    rows = load_record("c17_load").rows
    keys = [(r["arrivals"], r["admission"], r["rate"], r["seed"]) for r in rows]
    wanted = [(a, b, r, s) for a in VARIATION for b in ADMISSION for r in RATES for s in (0, 1, 2)]
    assert sorted(keys) == sorted(wanted)
    good = {key: row["goodput"] for key, row in zip(keys, rows, strict=True)}
    for seed in (0, 1, 2):
        assert good["random", "all", 6, seed] > 0.99
        assert good["random", "all", 20, seed] < 0.05 > good["random", "queue", 20, seed]
        assert 20 * good["random", "prediction", 20, seed] > 10
