"""The pictures of chapter 17: who waits when, latencies and goodput against load, load tests."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.scheduling import SchedulerConfig
from course_utils.serving.mock import NODE
from course_utils.serving.simulated import Admit, SimulatedServer
from course_utils.serving.slo import RequestRecord, goodput, latencies
from course_utils.simulation.workloads import poisson

WAITS, WRITES = COLOURS[4], COLOURS[0]
MARKS = {"all": "o", "queue": "s", "prediction": "^"}


def columns(records: Sequence[RequestRecord]) -> tuple[np.ndarray, np.ndarray]:
    """TTFT and TPOT (s) of the requests that were answered."""
    found = [latencies(record) for record in records if record.status == 200]
    ttft, tpot = np.array(found, dtype=float).reshape(-1, 2).T
    return ttft, tpot


def plot_timelines(tests: Mapping[str, Sequence[RequestRecord]]) -> None:
    """For each test a panel, for each request a bar: waiting, then writing (s)."""
    fig, axes = figure(columns=len(tests), width=3.9 * len(tests) + 0.6, height=2.8)
    end = max(record.last for records in tests.values() for record in records)
    for axis, (name, records) in zip(axes, tests.items(), strict=True):
        for row, record in enumerate(records):
            axis.barh(row + 1, record.first - record.due, 0.6, record.due, color=WAITS)
            axis.barh(row + 1, record.last - record.first, 0.6, record.first, color=WRITES)
        worst = max(latencies(record)[0] for record in records)
        axis.set(title=f"{name}: up to {worst:.2f} s to the first token", xlim=(0, end * 1.05))
        axis.set(xlabel="seconds", yticks=range(1, len(records) + 1))
        axis.invert_yaxis()
    axes[0].set_ylabel("client")
    fig.tight_layout()
    show_figure(
        fig,
        "for each client a bar: orange while it waits for its first token, blue while its answer "
        "is written. One at a time, the bars form a staircase.",
    )


def plot_latencies(
    tests: Mapping[float, Sequence[RequestRecord]],
    ttft: float,
    tpot: float,
) -> None:
    """TTFT (median and 99th percentile) and mean TPOT by rate, with what is promised (s)."""
    fig, (left, right) = figure(columns=2, width=9.4, height=3.4)
    rates = list(tests)
    found = [columns(records) for records in tests.values()]
    for q, colour in ((50, COLOURS[0]), (99, COLOURS[1])):
        name = "median" if q == 50 else "99th percentile"
        points = [np.percentile(first, q) for first, _ in found]
        left.plot(rates, points, "o-", color=colour, label=name)
    right.plot(rates, [1000 * pace.mean() for _, pace in found], "o-", color=COLOURS[2])
    _limit(left, ttft, f"promise: {ttft:g} s")
    _limit(right, 1000 * tpot, f"promise: {1000 * tpot:g} ms")
    kept = [rate for rate, (first, _) in zip(rates, found, strict=True) if _p99(first) <= ttft]
    left.set(yscale="log", xlabel="requests sent per second", ylabel="time to first token (s)")
    left.set_title(f"99 of 100 are in time up to {max(kept, default=0):g} a second")
    left.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
    right.set(xlabel="requests sent per second", ylabel="time per output token (ms)")
    right.set(title="Time per output token stays bounded", ylim=(0, 1200 * tpot))
    fig.tight_layout()
    show_figure(
        fig,
        "left, time to first token against the rate, logarithmic, median and 99th percentile: "
        "flat, then a steep rise at the knee. Right, mean time per output token, which rises a "
        "little and stays level. Dashed lines are the promises.",
    )


def _p99(values: np.ndarray) -> float:
    return float(np.percentile(values, 99)) if len(values) else float("inf")


def _limit(axis: Axes, value: float, words: str) -> None:
    axis.axhline(value, color="grey", linestyle="--", linewidth=1.2)
    axis.annotate(words, (0.98, value), xycoords=("axes fraction", "data"), ha="right", va="bottom")


def plot_goodput(rows: Sequence[Mapping[str, str | float]]) -> None:
    """Requests a second within the promise, by rate and admission, one panel for each arrival."""
    kinds = list(dict.fromkeys(row["arrivals"] for row in rows))
    fig, axes = figure(columns=len(kinds), width=4.6 * len(kinds), height=3.6)
    for axis, kind in zip(axes, kinds, strict=True):
        own = [row for row in rows if row["arrivals"] == kind]
        rates = sorted({row["rate"] for row in own})
        ends = rates[0], 0.6 * rates[-1]
        axis.plot(ends, ends, ":", color="black", linewidth=1, label="everybody in time")
        for colour, (name, mark) in zip(COLOURS, MARKS.items(), strict=False):
            seeds = np.array([_good(own, name, rate) for rate in rates])
            axis.plot(rates, seeds.mean(1), mark + "-", color=colour, label=name)
            axis.fill_between(rates, seeds.min(1), seeds.max(1), color=colour, alpha=0.25)
        last = {name: np.mean(_good(own, name, rates[-1])) for name in MARKS}
        words = ", ".join(f"{value:.1f} ({name})" for name, value in last.items())
        axis.set(title=f"{kind}; at {rates[-1]:g} a second:\n{words}", xlabel="requests sent per s")
        axis.set_ylim(0, 0.8 * rates[-1])
    axes[0].set_ylabel("requests per s within the promise")
    axes[0].legend(loc="upper left", ncol=2, fontsize=9)
    fig.tight_layout()
    show_figure(
        fig,
        "requests a second that were served within the promise, against requests sent a second. "
        "All lines follow the diagonal up to the knee. Past it, with random arrivals, prediction "
        "stays level and the other two fall to zero; in bursts the queue lies between them. Bands "
        "show the smallest and largest of three seeds.",
    )


def _good(rows: Sequence[Mapping[str, str | float]], admission: str, rate: float) -> list[float]:
    return [
        rate * row["goodput"]
        for row in rows
        if row["admission"] == admission and row["rate"] == rate
    ]


def plot_two_tests(tests: Mapping[str, Sequence[float]], title: str) -> None:
    """Which share of the requests waited at most so long (s), a line for each test."""
    fig, (axis,) = figure(height=3.2)
    for name, waits in tests.items():
        ordered = np.sort(waits)
        axis.plot(ordered, 100 * np.arange(1, len(ordered) + 1) / len(ordered), label=name)
    axis.axhline(99, color="grey", linestyle="--", linewidth=1)
    axis.set(xscale="log", xlabel="time to first token (s, log scale)", title=title)
    axis.set_ylabel("% of requests, at most")
    axis.legend(loc="lower right")
    show_figure(
        fig,
        "share of the requests against the time to first token within which they were answered, "
        "one line for each load test; the dashed line marks 99 of 100.",
    )


def slo_explorer(in_time: Callable[[float], Admit]) -> Callable[..., None]:
    """A function of sizes and admission that draws latencies and goodput over ten rates.

    `in_time(limit)` gives the admission that refuses what would take longer (s).
    """

    def show(rate: float, slots: int, budget: int, answer: int, admission: str) -> None:
        config = SchedulerConfig(slots * 64, 16, budget, slots)
        admit = in_time(0.8) if admission == "prediction" else None
        tests = {
            each: SimulatedServer(config, NODE, admit).run(
                poisson(round(20 * each), each, 512, answer)
            )
            for each in sorted({2, 6, 10, 14, 18, 22, 26, rate})
        }
        _draw_explorer(tests, rate)

    return show


def _draw_explorer(tests: Mapping[float, Sequence[RequestRecord]], rate: float) -> None:
    fig, (left, right) = figure(columns=2, width=9.4, height=3.4)
    rates = list(tests)
    first = [_p99(columns(records)[0]) for records in tests.values()]
    pace = [_p99(columns(records)[1]) for records in tests.values()]
    left.plot(rates, first, "o-", color=COLOURS[1], label="TTFT")
    left.plot(rates, pace, "s-", color=COLOURS[2], label="TPOT")
    left.set(yscale="log", ylabel="99th percentile (s)", xlabel="requests sent per s")
    _limit(left, 1.0, "TTFT promised")
    _limit(left, 0.05, "TPOT promised")
    good = {each: each * goodput(records, 1.0, 0.05) for each, records in tests.items()}
    right.plot(rates, rates, ":", color="black", linewidth=1)
    right.plot(rates, list(good.values()), "o-", color=COLOURS[0])
    right.set(xlabel="requests sent per s", ylabel="requests per s within the promise")
    right.set_ylim(0, 1.1 * max(rates))
    for axis in (left, right):
        axis.axvline(rate, color="grey", linewidth=1)
    refused = sum(record.status == 429 for record in tests[rate])
    left.set_title(f"At {rate:g} per s: TTFT {first[rates.index(rate)]:.2f} s in 99 of 100")
    right.set_title(f"{good[rate]:.1f} per s in time, {refused} of {len(tests[rate])} refused")
    left.legend(loc="center left")
    fig.tight_layout()
    show_figure(
        fig,
        "left, 99th percentiles of time to first token and time per output token against the rate, "
        "logarithmic, with the promises dashed; right, requests a second within the promise. The "
        "vertical line is the chosen rate.",
    )
