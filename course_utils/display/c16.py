"""The pictures of chapter 16: each function draws one figure and titles it with what it shows."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_utils.display.figures import COLOURS, STYLE, figure, show_figure
from course_utils.display.timeline import LOOKS, Span, timeline
from course_utils.scheduling import SchedulerConfig
from course_utils.serving.log import Log, dry_run


def stacked(heights: Sequence[float], width: float = 8.0) -> tuple[Figure, list[Axes]]:
    """Axes below one another with one x-axis, of these heights in inches."""
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            len(heights),
            1,
            figsize=(width, sum(heights)),
            height_ratios=heights,
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
    return fig, list(axes[:, 0])


def plot_pass_costs(costs: Mapping[str, Mapping[int, float]]) -> None:
    """Time of a pass by the number of its tokens, in passes over one token."""
    fig, (axis,) = figure(height=3.0)
    numbers = list(next(iter(costs.values())))
    axis.plot(numbers, numbers, color="grey", linestyle=":", label="n passes over one token")
    for (name, row), mark in zip(costs.items(), "os", strict=False):
        axis.plot(list(row), list(row.values()), mark + "-", label=name)
    axis.set(title="What many tokens in one pass cost here", xscale="log", yscale="log")
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.minorticks_off()
    axis.set(xlabel="tokens in the pass, n", ylabel="time (passes over one token)")
    axis.legend()
    show_figure(
        fig,
        "time of one pass against the number of its tokens, on logarithmic axes, once from one "
        "prompt and once from as many requests; on the dotted diagonal nothing would be gained.",
    )


def plot_ways(names: Sequence[str], rates: Sequence[float], firsts: Sequence[float]) -> None:
    """Tokens a second of all requests together, and the median time to the first token."""
    fig, axes = figure(columns=2, width=8.8, height=2.8)
    places = range(len(names))
    axes[0].barh(places, rates, color=COLOURS[0])
    axes[1].barh(places, [1000 * first for first in firsts], color=COLOURS[1])
    axes[0].set(title="Throughput", xlabel="new tokens a second")
    axes[1].set(title="Time to the first token, median", xlabel="milliseconds")
    for axis, values in zip(axes, (rates, [1000 * first for first in firsts]), strict=True):
        axis.set_yticks(places, names if axis is axes[0] else [""] * len(names))
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        for place, value in zip(places, values, strict=True):
            axis.text(value, place, f" {value:,.0f}", va="center", fontsize=9)
        axis.margins(x=0.15)
    fig.tight_layout()
    show_figure(
        fig,
        "two bar charts with a bar for each way of serving: left the new tokens a second of all "
        "requests, right the median wait for the first token.",
    )


def spans_of(log: Log) -> list[Span]:
    """A log's stays as bars, one row for each request."""
    return [
        Span(f"request {request}", *(stay[:2]), stay[2]) for request, *stay in sorted(log.stays())
    ]


def plot_timelines(logs: Mapping[str, Log]) -> None:
    """Who is where in every pass, for several ways of serving the same requests."""
    rows = max(len({stay[0] for stay in log.stays()}) for log in logs.values())
    fig, axes = stacked([0.19 * rows + (0.6 if len(logs) > 1 else 1.1)] * len(logs))
    for axis, (name, log) in zip(axes, logs.items(), strict=True):
        timeline(axis, spans_of(log), legend=False)
        axis.set_title(f"{name}: {len(log.passes)} passes")
        axis.tick_params(axis="y", labelsize=7)
    axes[-1].set_xlim(0, max(len(log.passes) for log in logs.values()))
    axes[-1].set_xlabel("forward pass")
    _shared_legend(fig, [span.kind for log in logs.values() for span in spans_of(log)])
    show_figure(
        fig,
        "a timeline for each way of serving, a row for each request and a column for each forward "
        "pass; light grey is waiting, dark blue reading the prompt, light blue generating, and "
        "crosses are passes spent on padding; stripes are requests that were sent away.",
    )


def _shared_legend(fig: Figure, kinds: Sequence[str]) -> None:
    patches = [
        plt.Rectangle((0, 0), 1, 1, fc=LOOKS[kind][0], hatch=LOOKS[kind][1], ec="#555555")
        for kind in LOOKS
        if kind in kinds
    ]
    names = [kind for kind in LOOKS if kind in kinds]
    fig.legend(patches, names, loc="outside lower center", ncols=len(names), frameon=False)


def plot_waste(shares: Mapping[int, float]) -> None:
    """Share of the cache that holds nothing, by block size; the last one is a whole room."""
    fig, (axis,) = figure(height=2.8)
    axis.plot(list(shares), [100 * share for share in shares.values()], "o-", color=COLOURS[0])
    largest = max(shares)
    axis.plot(largest, 100 * shares[largest], "s", color=COLOURS[1], markersize=9)
    words = {"ha": "right", "va": "center", "textcoords": "offset points", "xytext": (-10, 0)}
    axis.annotate("a room for the longest text", (largest, 100 * shares[largest]), **words)
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(shares), [str(size) for size in shares])
    axis.set(title="Small blocks waste little memory", ylim=(0, 100))
    axis.set(xlabel="tokens in a block", ylabel="empty slots (%)")
    show_figure(
        fig,
        "share of empty slots against the block size: little for blocks of up to 16 tokens, then "
        "rising, up to four fifths for a block that holds the longest possible text.",
    )


def sizes_by_kind(axis: Axes, log: Log) -> None:
    """Bars of the tokens in every pass: generating below, prompts above."""
    places = [number + 0.5 for number in range(len(log.passes))]
    below = [0] * len(places)
    for kind in ("decode", "prefill", "padding"):
        sizes = [sum(w.tokens for w in work if w.kind == kind) for work in log.passes]
        colour, hatch = LOOKS[kind]
        if any(sizes):
            axis.bar(places, sizes, 1.0, below, color=colour, hatch=hatch, edgecolor="#555555", lw=0.3)  # fmt: skip # noqa: E501
        below = [low + size for low, size in zip(below, sizes, strict=True)]
    axis.set_ylabel("tokens")


def plot_budgets(logs: Mapping[str, Log]) -> None:
    """Tokens of every pass under several budgets, with the prompt that comes in between."""
    fig, axes = stacked([1.25] * len(logs), width=7.5)
    for axis, (name, log) in zip(axes, logs.items(), strict=True):
        sizes_by_kind(axis, log)
        axis.set_title(f"{name}: {max(log.sizes())} tokens in the largest pass")
    axes[-1].set(xlabel="forward pass", xlim=(0, max(len(log.passes) for log in logs.values())))
    _shared_legend(fig, ["prefill", "decode"])
    show_figure(
        fig,
        "a bar for each forward pass, as high as its tokens, for three budgets; the long prompt is "
        "one tall bar under the large budget and many low bars, of equal height, under the small "
        "ones.",
    )


def batch_explorer(
    prompts: Sequence[Sequence[int]], new_tokens: Sequence[int], share: Callable
) -> Callable[..., None]:
    """A function that draws who is in which pass, for the scheduler's settings; no model runs."""

    def show(
        max_requests: int = 4,
        block_size: int = 16,
        max_tokens: int = 64,
        num_blocks: int = 40,
        prefix_cache: bool = True,
        admit: str = "continuous",
    ) -> None:
        config = SchedulerConfig(
            num_blocks,
            block_size,
            max_tokens,
            max_requests,
            prefix_cache=prefix_cache,
            admit=admit,
        )
        try:
            log, scheduler = dry_run(config, prompts, new_tokens, share=share)
        except ValueError as error:
            print(f"This does not work: {error}")
            return
        fig, (above, below) = stacked([0.19 * len(prompts) + 0.4, 1.1])
        timeline(above, spans_of(log), legend=False)
        preempted = sum(w.kind == "preempted" for work in log.passes for w in work)
        above.set_title(
            f"{len(log.passes)} passes, {log.tokens():,} tokens computed, {preempted} preemptions"
        )
        above.tick_params(axis="y", labelsize=7)
        sizes_by_kind(below, log)
        below.axhline(max_tokens, color="grey", linestyle=":")
        below.set(xlabel="forward pass", xlim=(0, len(log.passes)))
        _shared_legend(fig, [span.kind for span in spans_of(log)])
        show_figure(
            fig,
            "above, a row for each request with what it does in every pass; below, the tokens of "
            "each pass, with the budget as a dotted line.",
        )
        print(f"blocks evicted from the prefix cache: {scheduler.pool.evictions}")

    return show
