"""The pictures of chapter 04: each function draws one figure and titles it with what it shows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.moe import max_violation
from course_utils.moe.drifting_router import DriftingRouter, simulate_loads


def plot_loads(runs: Mapping[str, Tensor]) -> None:
    """Share of the tokens by step and expert, one panel per run of loads (S, E)."""
    fig, axes = figure(columns=len(runs), width=4.4 * len(runs) + 0.8, height=3.2)
    for axis, (name, loads_SE) in zip(axes, runs.items(), strict=True):
        shares_ES = (loads_SE.double() / loads_SE.double().mean(1, keepdim=True)).T.numpy()
        picture = axis.imshow(
            shares_ES, aspect="auto", cmap="magma", vmin=0, vmax=8, interpolation="nearest"
        )
        unused = float((loads_SE[-20:] == 0).double().mean())
        axis.set(title=f"{name}: {unused:.0%} idle at the end", xlabel="step")
        axis.set(ylabel="expert")
        axis.grid(False)
    fig.colorbar(picture, ax=axes, label="load / mean load")
    show_figure(
        fig,
        "heat maps of load by expert and training step. A dark cell is an expert without tokens, a "
        "bright one an expert with many times its share. Idle: share of experts without a token "
        "in a batch, over the last twenty steps.",
    )


def plot_violations(runs: Mapping[str, Sequence[float]], most: float) -> None:
    """MaxVio by step, one line per run, with the largest value that there can be."""
    fig, (axis,) = figure(height=3.0)
    for name, values in runs.items():
        axis.plot(np.arange(1, len(values) + 1), values, label=name)
    axis.axhline(most, color="grey", linestyle=":")
    axis.text(0, most, "all tokens on the same k experts", va="bottom")
    last = {name: np.mean(values[-10:]) for name, values in runs.items()}
    ends = ", ".join(f"{name} {value:.1f}" for name, value in last.items())
    axis.set(title=f"Mean of the last ten steps: {ends}", xlabel="step", ylim=(0, most * 1.3))
    axis.set_ylabel("MaxVio of the batch")
    axis.legend(loc="upper right", ncols=len(runs))
    show_figure(
        fig,
        "MaxVio against the training step, one line per run; 0 is perfect balance, the dotted line "
        "complete collapse.",
    )


RECORDED = {
    "max_violation_batch": "MaxVio of one batch",
    "max_violation": "MaxVio of 100 batches together",
    "bits_per_byte": "bits per byte (validation)",
}


def plot_recorded(rows: Sequence[Mapping]) -> None:
    """Balance and loss of each way to balance: a dot per seed, a line at the mean."""
    fig, axes = figure(columns=3, width=9.6, height=2.9)
    names = list(dict.fromkeys(row["variant"] for row in rows))
    for axis, (column, label) in zip(axes, RECORDED.items(), strict=True):
        for place, name in enumerate(names):
            values = [row[column] for row in rows if row["variant"] == name]
            axis.scatter(values, [place] * len(values), color=COLOURS[1], s=20, zorder=3)
            mean = float(np.mean(values))
            axis.plot([mean, mean], [place - 0.3, place + 0.3], color=COLOURS[0])
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))
        axis.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    axes[0].set_xlim(0, None)
    axes[1].set_xlim(0, None)
    axes[1].set_title("Balance differs by far, the loss within the scatter of seeds (recorded)")
    fig.tight_layout()
    show_figure(
        fig,
        "three panels with a row for each way to balance, a dot for each of three seeds and a line "
        "at the mean: MaxVio of single batches, MaxVio of a hundred batches together, bits per "
        "byte. Lower is better in all.",
    )


def plot_simulation(settings: Mapping[str, DriftingRouter]) -> None:
    """MaxVio of the drifting router by step, one line per setting."""
    fig, (axis,) = figure(height=3.2)
    ends = {}
    for name, setting in settings.items():
        values = np.array([max_violation(counts_E) for counts_E in simulate_loads(setting)])
        ends[name] = values[-len(values) // 3 :].mean()
        steps, label = np.arange(1, len(values) + 1), f"{name}: {ends[name]:.2f}"
        axis.plot(steps, values, label=label, linewidth=1.2)
    axis.set(title=f"Most even in the last third: {min(ends, key=ends.get)}", xlabel="step")
    axis.set(ylabel="MaxVio of the batch", ylim=(0, axis.get_ylim()[1] * 1.4))
    axis.legend(ncols=2, title="mean of the last third", loc="upper right")
    show_figure(
        fig,
        "MaxVio against the step for a router whose preferences drift; one line for each way to "
        "balance it.",
    )


def balance_simulator() -> Callable[..., None]:
    """A function of the setting that plots the drifting router, left alone and balanced."""

    def show_balance(
        experts: int, per_token: int, skew: float, drift: float, u: float, alpha: float
    ) -> None:
        common = {
            "num_experts": experts,
            "num_experts_per_tok": min(per_token, experts),
            "skew": skew,
            "drift": drift,
        }
        settings = {
            "alone": DriftingRouter(**common),
            f"bias, u = {u:g}": DriftingRouter(**common, bias_speed=u),
            f"loss, alpha = {alpha:g}": DriftingRouter(**common, coefficient=alpha),
        }
        plot_simulation(settings)

    return show_balance
