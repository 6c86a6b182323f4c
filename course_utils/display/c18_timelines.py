"""Timelines of chapter 18: what requests, nodes and links do in a run, as pictures and as a player.

Sums of a whole run hide who waits for whom. Here every bar is a span of the run itself.
"""

from collections.abc import Mapping

import ipywidgets
import numpy as np
from IPython.display import display

from course_utils.display.figures import figure, show_figure
from course_utils.display.timeline import Span, timeline
from course_utils.simulation.cluster import Cluster
from course_utils.simulation.metrics import latencies, token_times, utilisation


def request_spans(cluster: Cluster) -> list[Span]:
    """One row for each request: waiting, prefill, on its way, decode; or rejected."""
    spans = []
    for number, one in enumerate(cluster.served):
        row, arrival = f"request {number}", one.request.arrival
        if one.rejected:
            spans.append(Span(row, arrival, arrival + 0.01 * cluster.events.now, "rejected"))
            continue
        begun, first = cluster.nodes[one.entry].begun[number], token_times(cluster, number)[0]
        spans += [Span(row, arrival, begun, "waiting"), Span(row, begun, first, "prefill")]
        if one.decode >= 0:
            arrived = cluster.nodes[one.decode].begun[number]
            spans.append(Span(row, first, arrived, "transfer"))
            first = arrived
        if one.finished > first:
            spans.append(Span(row, first, one.finished, "decode"))
    return spans


def node_spans(cluster: Cluster) -> list[Span]:
    """One row for each node, and one for each pair between which something was sent."""
    split = bool(cluster.decoders)
    names = {
        node.number: f"node {node.number}"
        + (" (reads)" if split and node in cluster.entries else " (writes)" if split else "")
        for node in cluster.nodes
    }
    spans = [
        Span(names[node.number], i.start, i.end, "prefill" if i.tokens > i.requests else "decode")
        for node in cluster.nodes
        for i in node.intervals
    ]
    moved = sorted(cluster.network.transfers, key=lambda t: (t.sender, t.receiver))
    return spans + [
        Span(f"link {t.sender} to {t.receiver}", t.start, t.end, "transfer") for t in moved
    ]


def plot_requests(clusters: Mapping[str, Cluster]) -> None:
    """Who does what when, one panel for each cluster, one row for each request."""
    fig, axes = figure(columns=len(clusters), width=4.2 * len(clusters), height=3.0)
    end = max(cluster.events.now for cluster in clusters.values())
    for axis, (name, cluster) in zip(axes, clusters.items(), strict=True):
        timeline(axis, request_spans(cluster), legend=axis is axes[-1])
        worst = np.nanmax(latencies(cluster).worst_tbt)
        axis.set(title=f"{name}: worst TBT {worst * 1e3:.0f} ms", xlabel="s", xlim=(0, end))
        if axis is not axes[0]:
            axis.set_yticks([])
    fig.tight_layout()
    show_figure(
        fig,
        "one bar for each request from its arrival to its last token, in parts: waiting, prefill, "
        "transfer, decode; one panel for each way to serve the same requests.",
    )


def plot_nodes(cluster: Cluster, title: str) -> None:
    """The whole run of a small cluster: what each node and each link does."""
    fig, (axis,) = figure(width=9.0, height=3.0)
    timeline(axis, node_spans(cluster))
    shares = ", ".join(f"{share:.0%}" for share in utilisation(cluster))
    axis.set(title=f"{title}; nodes are busy {shares} of the time", xlabel="s")
    show_figure(
        fig, "bars of prefill and decode steps for each node, and of transfers for each link."
    )


def timeline_player(cluster: Cluster, frames: int = 60) -> None:
    """Step through a run: a button that plays, a slider, and the table of who is where."""
    spans, people = node_spans(cluster), request_spans(cluster)
    rows = list(dict.fromkeys(span.row for span in spans))

    def show_moment(frame: int) -> None:
        now = cluster.events.now * frame / frames
        fig, (axis,) = figure(width=9.0, height=3.0)
        timeline(axis, spans, rows, now)
        there: dict[str, list[str]] = {}
        for span in people:
            if span.start <= now < span.end:
                there.setdefault(span.kind, []).append(str(span.row).split()[-1])
        words = "; ".join(f"{kind}: {', '.join(who)}" for kind, who in there.items())
        axis.set(title=f"{now:.2f} s. Requests in {words or 'nothing'}", xlabel="s")
        show_figure(fig, "the run of the nodes and links up to a moment, which a black line marks.")

    slider = ipywidgets.IntSlider(frames // 2, min=0, max=frames, description="moment")
    button = ipywidgets.Play(value=frames // 2, min=0, max=frames, interval=400)
    ipywidgets.jslink((button, "value"), (slider, "value"))
    shown = ipywidgets.interactive_output(show_moment, {"frame": slider})
    display(ipywidgets.HBox([button, slider]), shown)
