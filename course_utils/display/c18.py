"""The pictures of chapter 18: waits, hits, goodput by limit, published figures, the designer.

Timelines of clusters, and the player, stand in `c18_timelines`.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev

import numpy as np

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.display.tables import show_table
from course_utils.simulation.cluster import Cluster
from course_utils.simulation.costs import break_even_bandwidth
from course_utils.simulation.metrics import goodput, latencies, utilisation
from course_utils.simulation.published import (
    CACHE_TOKENS,
    FLOPS,
    MFU,
    MODEL,
    mooncake_cluster,
    together_cluster,
)
from course_utils.simulation.workloads import BLOCK, TraceRequest

Rows = Sequence[Mapping]


def plot_waits(
    loads: Sequence[float],
    theory: Mapping[str, Sequence[float]],
    counted: Mapping[str, Sequence[float]],
) -> None:
    """Mean wait by load: lines from the formula, dots from the simulator."""
    fig, (axis,) = figure(height=3.2)
    for colour, (name, waits) in zip(COLOURS, theory.items(), strict=False):
        axis.plot(loads, waits, color=colour, label=f"{name}, formula")
        axis.plot(loads, counted[name], "o", color=colour, label=f"{name}, counted")
    axis.axhline(0, color="grey", linestyle="--", label="average load says")
    axis.set(xlabel="load (share of time in which the server works)", ylabel="mean wait (s)")
    axis.set_title("Long before a server is full, requests wait longer than they take")
    axis.legend(loc="upper left")
    show_figure(
        fig,
        "mean wait against load for a service of one second, two rising curves with dots on them; "
        "both turn upward steeply near a load of one.",
    )


def plot_hits(capacities: Sequence[int], ratios: Mapping[str, Sequence[float]]) -> None:
    """Share of blocks hit by the size of the cache."""
    fig, (axis,) = figure(height=3.0)
    for (name, values), mark in zip(ratios.items(), ("x:", "o-", "s-"), strict=False):
        axis.plot(capacities, [100 * value for value in values], mark, label=name, markersize=8)
    for nodes in (1, 10):
        blocks = nodes * CACHE_TOKENS // BLOCK
        axis.axvline(blocks, color="grey", linestyle="--", linewidth=1)
        axis.text(blocks, 2, f" {nodes} node" + "s" * (nodes > 1), color="#444444", fontsize=9)
    axis.set(xscale="log", ylim=(0, None), ylabel="% of blocks found")
    axis.set_xlabel("blocks in the cache (512 tokens each, log scale)")
    axis.set_title("One node's memory finds a part; that of ten finds nearly all there is")
    axis.legend(loc="upper left")
    show_figure(
        fig,
        "share of blocks found against the size of the cache; every line rises and flattens. "
        "Dashed lines mark the memory of one node and of ten.",
    )


def of_setup(rows: Rows, setup: str, load: float, column: str) -> list[float]:
    """A column of the record's runs with one setup, by seed."""
    return [row[column] for row in rows if (row["setup"], row["load"]) == (setup, load)]


def best_of(rows: Rows, setups: Sequence[str], load: float, limit: int) -> tuple[str, list[float]]:
    """The setup with the highest mean goodput at a limit (ms), and its values by seed."""
    found = {setup: of_setup(rows, setup, load, f"goodput_{limit}") for setup in setups}
    best = max(found, key=lambda setup: mean(found[setup]))
    return best, found[best]


def with_spread(rows: Rows, setup: str, column: str) -> str:
    """Mean and standard deviation of a column over the seeds."""
    values = [row[column] for row in rows if row["setup"] == setup]
    return f"{mean(values):.3g} +- {stdev(values):.2g}"


def split_against(
    rows: Rows, groups: Mapping[str, Sequence[str]], other: str, load: float, limit: int
) -> tuple:
    """The best split beside the best of another group; a verdict beyond twice the spread only."""
    (name, a), (name_b, b) = (best_of(rows, groups[g], load, limit) for g in ("split", other))
    gap, noise = mean(a) - mean(b), max(stdev(a), stdev(b))
    says = ("split" if gap > 0 else "together") if abs(gap) > 2 * noise else "no verdict"
    return load, limit, name, f"{mean(a):.0%}", name_b, f"{mean(b):.0%}", says


def plot_limits(
    rows: Rows,
    groups: Mapping[str, Sequence[str]],
    loads: Sequence[float],
    limits: Sequence[int],
) -> None:
    """Goodput by the limit on the time between tokens: the best setup of each group, and spread."""
    fig, axes = figure(columns=len(loads), width=4.6 * len(loads), height=3.4)
    for axis, load in zip(axes, loads, strict=True):
        for colour, (name, setups) in zip(COLOURS, groups.items(), strict=False):
            values = [best_of(rows, setups, load, limit)[1] for limit in limits]
            middle = [100 * mean(one) for one in values]
            spread = [100 * stdev(one) for one in values]
            options = {"color": colour, "label": name, "capsize": 3}
            axis.errorbar(limits, middle, spread, fmt="o-", **options)
        axis.set(xscale="log", ylim=(0, 104), xlabel="limit on time between tokens (ms, log)")
        axis.set_xticks(limits, [str(limit) for limit in limits])
        axis.minorticks_off()
        axis.set_title(f"load {load:g}")
    axes[0].set_ylabel("% of requests within limits")
    axes[0].legend(loc="lower right")
    fig.tight_layout()
    show_figure(
        fig,
        "goodput against the limit on the time between tokens, one panel for each load, one line "
        "for each way to serve; bars show the spread of three seeds.",
    )


def plot_sweep(rows: Rows) -> None:
    """Figure 15 of the paper: TTFT and goodput by prefill nodes of 16, published and ours."""
    fig, axes = figure(columns=2, width=9.0, height=3.0)
    for axis, kind, factor in ((axes[0], "TTFT", 1), (axes[1], "goodput", 100)):
        found = [row for row in rows if str(row["setting"]).endswith(kind)]
        nodes = [int(row["setting"].split()[0]) for row in found]
        for column, mark in (("published", "s--"), ("ours", "o-")):
            axis.plot(nodes, [factor * row[column] for row in found], mark, label=column)
        axis.set_xlabel("prefill nodes of 16")
        axis.legend()
    axes[0].set(title="The knee is there", ylabel="mean TTFT (s)", ylim=(0, None))
    axes[1].set(title="The fall on the right is not", ylabel="% within limits")
    fig.tight_layout()
    show_figure(
        fig,
        "left: mean time to first token by prefill nodes, falling to a plateau, ours below the "
        "published line. Right: goodput; the published line falls at eleven nodes, ours does not.",
    )


def cluster_designer(trace: Sequence[TraceRequest], nodes: int = 8) -> Callable[..., None]:
    """A function of split, bandwidth and limits that serves the trace and shows what came of it."""

    def show_design(reads: int, gigabits: int, ttft_s: float, tbt_ms: int) -> None:
        bandwidth = gigabits / 8 * 1e9
        split = mooncake_cluster(reads, nodes - reads, bandwidth=bandwidth)
        designs = {f"{reads} read, {nodes - reads} write": split}
        designs["together, 256 tokens a step"] = together_cluster(nodes, 256, bandwidth=bandwidth)
        slow = together_cluster(nodes, 256, overlap=False, bandwidth=bandwidth)
        designs["the same without overlap"] = slow
        rows = []
        for name, config in designs.items():
            cluster = Cluster(config, trace).run()
            seen, busy = latencies(cluster), utilisation(cluster)
            kept = goodput(seen, ttft_s, tbt_ms / 1000)
            tbt = 1000 * np.nanmedian(seen.worst_tbt)
            parts = [part for part in (busy[: config.entry], busy[config.entry :]) if len(part)]
            work = " / ".join(f"{part.mean():.0%}" for part in parts)
            rows.append((name, f"{kept:.1%}", seen.ttft.mean(), tbt, work))
        title = f"Within {ttft_s:g} s and {tbt_ms} ms"
        header = ["design", "goodput", "mean TTFT, s", "median TBT, ms", "busy"]
        show_table(title, header, rows)
        needed = break_even_bandwidth(MODEL, 0, 8192, FLOPS * MFU) * 8 / 1e9
        print(f"break-even for 8,192 tokens: {needed:.0f} Gbit/s; you have {gigabits}")

    return show_design
