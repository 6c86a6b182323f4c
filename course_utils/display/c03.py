"""The pictures of chapter 03: each function draws one figure and titles it with what it shows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from course_utils.accounting.catalog import catalog
from course_utils.accounting.tensors import ROUTED, ROUTER, SHARED
from course_utils.display.figures import COLOURS, figure, show_figure

Curve = tuple[int, Sequence[float]]  # the tokens or steps before the first loss, and the losses
NAMED = ("Mixtral-8x7B", "gpt-oss-120b", "Qwen3-235B-A22B", "DeepSeek-V3", "Kimi-K2")
SMOOTH = 8


def plot_live(curves: Mapping[str, Curve]) -> None:
    """Running means of the training loss; a curve may begin at a later step."""
    fig, (axis,) = figure(height=3.2)
    for colour, (name, (first, losses)) in zip(COLOURS, curves.items(), strict=False):
        steps = first + np.arange(1, len(losses) + 1)
        means = [np.mean(losses[max(0, n - SMOOTH) : n]) for n in range(1, len(losses) + 1)]
        axis.plot(steps, means, color=colour, label=name)
    axis.set(title="An upcycled model goes on from where the dense one is", xlabel="step")
    axis.set_ylabel("training loss (nats per token)")
    axis.legend()
    show_figure(
        fig,
        f"training losses, means of the last {SMOOTH} steps: dense and experts from random weights "
        "begin at guessing and fall; the upcycled curve begins at the height that the dense one "
        "has reached.",
    )


def plot_variants(bits: Mapping[str, Sequence[float]], sizes: Mapping[str, tuple]) -> None:
    """Bits per byte of each variant, a dot per seed; sizes are (total, active) parameters."""
    fig, (axis,) = figure(height=2.6)
    names = list(bits)
    for place, values in enumerate(bits.values()):
        axis.scatter(values, [place] * len(values), color=COLOURS[place], s=28, zorder=3)
        axis.plot([np.mean(values)] * 2, [place - 0.25, place + 0.25], color=COLOURS[place])
    labels = [f"{n}\n{sizes[n][0] / 1e6:.1f} M, {sizes[n][1] / 1e6:.1f} M active" for n in names]
    axis.set_yticks(range(len(names)), labels)
    axis.set_ylim(len(names) - 0.5, -0.5)
    best = min(names, key=lambda name: np.mean(bits[name]))
    axis.set(title=f"Lowest mean: {best} (recorded)", xlabel="validation (bits per byte)")
    show_figure(
        fig,
        "a row per model with a dot for each of three seeds and a line at their mean, on an axis "
        "of bits per byte; further left is better.",
    )


def expert_parts(name: str) -> tuple[int, int]:
    """Total and active parameters of all expert layers of a model in the catalog."""
    parts = catalog()[name].spec.by_part()
    found = [parts[part] for part in (ROUTED, SHARED, ROUTER) if part in parts]
    return sum(part.total for part in found), sum(part.activated for part in found)


def plot_design(total: float, active: float) -> None:
    """A design among the open models: total against active parameters of all expert layers."""
    fig, (axis,) = figure(height=3.8)
    known = {name: expert_parts(name) for name in catalog()}
    dots = [dot for dot in known.values() if dot[0]]
    axis.scatter([a for _, a in dots], [t for t, _ in dots], color="grey", s=16, label="open")
    for name in NAMED:
        axis.annotate(name, known[name][::-1], xytext=(5, -3), textcoords="offset points", size=8)
    axis.scatter([active], [total], color=COLOURS[1], marker="*", s=140, label="yours", zorder=3)
    low, high = 2e8, 5e12
    for ratio, text in ((1, "dense"), (4, "4 x"), (16, "16 x"), (64, "64 x")):
        axis.plot([low, high], [ratio * low, ratio * high], color="grey", linewidth=0.6)
        axis.text(low * 1.15, low * 1.3 * ratio, text, rotation=27, size=8, color="grey")
    axis.set(xscale="log", yscale="log", xlim=(low, 3e11), ylim=(low, high))
    billions = f"{total / 1e9:,.1f} billion stored, {active / 1e9:,.1f} used"
    axis.set(title=f"{billions}: {total / active:.1f} times")
    axis.set(xlabel="active parameters of the expert layers", ylabel="total parameters")
    axis.legend(loc="lower right")
    show_figure(
        fig,
        "open models as dots, total against active parameters of their expert layers, on "
        "logarithmic axes; thin lines mark equal ratios, a star the design of the sliders.",
    )


def design_explorer(cost: Callable[..., tuple[int, int, int]]) -> Callable[..., None]:
    """A function (layers, hidden_size, experts, k, width, shared) that plots the design."""

    def show_design(
        layers: int, hidden_size: int, experts: int, k: int, width: int, shared: int = 0
    ) -> None:
        k = min(k, experts)
        total, active, flops = cost(hidden_size, experts, k, width, shared)
        plot_design(layers * total, layers * active)
        memory = 2 * layers * total / 1e9
        print(f"{memory:,.0f} GB in 16 bits, {layers * flops / 1e9:,.1f} GFLOPs a token")

    return show_design
