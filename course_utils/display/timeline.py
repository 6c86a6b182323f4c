"""A timeline: who does what from when to when, one row each, in colours that everybody can tell.

`timeline(axis, spans)` draws into axes that the caller made. A row is whatever has a life of its
own: a request, a slot of a batch, a node of a cluster. Times are in the caller's unit: forward
passes, or seconds. Kinds that look alike in grey differ in their hatching too.

With `now`, only what began until then is drawn, up to a line at `now`; rows and limits stay those
of the whole run, so that a player shows one picture that fills up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from course_utils.display.figures import COLOURS

LOOKS = {  # colour, hatching
    "waiting": ("#E8E8E8", ""),
    "prefill": (COLOURS[0], ""),
    "decode": (COLOURS[5], ""),
    "padding": ("white", "xxx"),
    "preempted": (COLOURS[1], "///"),
    "transfer": (COLOURS[3], "..."),
    "rejected": ("black", ""),
}


@dataclass(frozen=True)
class Span:
    """One bar: what `row` does from `start` to `end`; `kind` is one of LOOKS."""

    row: str | int
    start: float
    end: float
    kind: str
    text: str = ""  # written inside the bar


def timeline(
    axis: Axes,
    spans: Sequence[Span],
    rows: Sequence[str | int] | None = None,
    now: float | None = None,
    legend: bool = True,
) -> None:
    """Draw spans as bars, the first row on top.

    `rows` gives the order (default: that of their first appearance). Raises ValueError for a kind
    that has no look, or a span that ends before it starts.
    """
    for span in spans:
        if span.kind not in LOOKS or span.end < span.start:
            raise ValueError(
                f"{span}: the kinds are {', '.join(LOOKS)}, and a span ends after its start"
            )
    rows = list(dict.fromkeys(span.row for span in spans)) if rows is None else list(rows)
    for span in spans:
        if now is None or span.start < now:
            _draw(axis, span, rows.index(span.row), now)
    axis.set_yticks(range(len(rows)), [str(row) for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    if spans:
        axis.set_xlim(min(span.start for span in spans), max(span.end for span in spans))
    axis.grid(False)
    if now is not None:
        axis.axvline(now, color="black", linewidth=1)
    if legend:
        _legend(axis, spans)


def _draw(axis: Axes, span: Span, place: int, now: float | None) -> None:
    end = span.end if now is None else min(span.end, now)
    colour, hatch = LOOKS[span.kind]
    bars = [(span.start, end - span.start)]
    looks = {"facecolor": colour, "hatch": hatch, "edgecolor": "#555555", "linewidth": 0.3}
    axis.broken_barh(bars, (place - 0.38, 0.76), **looks)
    if span.text:
        dark = span.kind in ("prefill", "rejected")
        middle = (span.start + end) / 2
        colour = "white" if dark else "black"
        axis.text(middle, place, span.text, ha="center", va="center", fontsize=7, color=colour)


def _legend(axis: Axes, spans: Sequence[Span]) -> None:
    """Below the axes, only the kinds that occur."""
    used = [kind for kind in LOOKS if any(span.kind == kind for span in spans)]
    patches = [
        Patch(facecolor=LOOKS[kind][0], hatch=LOOKS[kind][1], edgecolor="#555555", label=kind)
        for kind in used
    ]
    options = {
        "loc": "upper center",
        "bbox_to_anchor": (0.5, -0.22),
        "fontsize": 9,
        "frameon": False,
    }
    axis.legend(handles=patches, ncols=max(1, len(used)), **options)
