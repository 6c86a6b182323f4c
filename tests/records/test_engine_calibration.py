"""The simulator beside the engine: same steps, consistent rows, and a recipe that runs here."""

import pytest

from course_utils.records import engine_calibration, load_record
from course_utils.simulation.costs import StepCost
from course_utils.simulation.workloads import TraceRequest

ROWS = load_record("c18_engine").rows


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return engine_calibration.measure("dense", seeds=(0,), requests=4)


def test_recorded_runs_are_complete():
    models = dict.fromkeys(row["model"] for row in ROWS)
    assert "dense" in models
    seen = [tuple(row[key] for key in engine_calibration.KEYS) for row in ROWS]
    assert sorted(seen) == sorted(
        (model, workload, seed, quantity)
        for model in models
        for workload in "AB"
        for seed in engine_calibration.SEEDS
        for quantity in ("ttft", "tpot")
    )


def test_ratios_are_those_of_the_times(rows):
    for row in [*ROWS, *rows]:
        ratio = row["predicted_ms"] / row["measured_ms"]
        assert row["ratio"] == pytest.approx(ratio, rel=2e-3)
        assert row["measured_ms"] > 0 and row["constant_ratio"] > 0


def test_a_small_run_has_every_row(rows):
    assert [(row["workload"], row["quantity"]) for row in rows] == [
        (workload, quantity) for workload in "AB" for quantity in ("ttft", "tpot")
    ]
    assert set(rows[0]) == set(ROWS[0])


def test_engine_and_simulator_take_the_same_steps():
    """All requests are there at the beginning, so that nothing depends on the clock."""
    drawn = engine_calibration.workload("B", 6, 1.0, 3)
    trace = [TraceRequest(0.0, one.input, one.output) for one in drawn]
    works, seconds, found = engine_calibration.serve("dense", trace)
    assert sum(work.tokens for work in works) == sum(r.input + r.output - 1 for r in trace)
    assert len(works) == len(seconds) and found.shape == (6, 2)
    ttft, tpot = engine_calibration.predict(trace, StepCost(1.0))  # a second each: steps
    times = [0.0]
    for second in seconds:
        times.append(times[-1] + second)
    steps = [times.index(min(times, key=lambda t: abs(t - first))) for first in found[:, 0]]
    assert ttft == pytest.approx(sum(steps) / len(steps))
    assert tpot >= 1.0
