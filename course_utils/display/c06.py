"""The pictures of chapter 06: copies per token, load of each rank, tokens per expert by ranks."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.moe.placement import (
    Placement,
    balancedness,
    device_loads,
    place,
    place_contiguously,
)

COPIED = COLOURS[1]


def plot_needed(needed: Mapping[str, Tensor]) -> None:
    """How many ranks a token needs: for each name a tensor (T,) of whole numbers."""
    fig, (axis,) = figure(height=3.2)
    most = max(int(numbers_T.max()) for numbers_T in needed.values())
    width = 0.8 / len(needed)
    for row, (name, numbers_T) in enumerate(needed.items()):
        shares = numbers_T.bincount(minlength=most + 1).double() / len(numbers_T)
        offset = (row - (len(needed) - 1) / 2) * width
        axis.bar(np.arange(most + 1) + offset, 100 * shares.numpy(), width, label=name)
    means = ", ".join(f"{float(n.double().mean()):.1f} ({name})" for name, n in needed.items())
    axis.set(
        title=f"Nodes that a token needs, mean: {means}",
        xlabel="nodes that a token needs",
        ylabel="% of tokens",
    )
    axis.set_xticks(range(1, most + 1))
    axis.set_xlim(0.4, most + 0.6)
    axis.legend()
    show_figure(
        fig,
        "share of tokens by the number of nodes that host their experts, a group of bars for each "
        "number; a limit leaves no bar beyond it.",
    )


def plot_ranks(
    loads_E: Sequence[float], placements: Mapping[str, Placement], title: str = ""
) -> None:
    """Load of each rank as a stack of its experts, one panel per placement; copies in orange."""
    fig, axes = figure(columns=len(placements), width=4.0 * len(placements) + 0.6, height=3.6)
    even = sum(loads_E) / len(next(iter(placements.values())))
    highest = max(max(device_loads(loads_E, each)) for each in placements.values()) / even
    for axis, (name, placement) in zip(axes, placements.items(), strict=True):
        _stack(axis, loads_E, placement, even)
        value = balancedness(loads_E, placement)
        axis.set(title=f"{name}: balancedness {value:.2f}", xlabel="rank", ylim=(0, highest * 1.05))
    axes[0].set_ylabel("load / even share")
    if title:
        fig.suptitle(title)
    fig.tight_layout()
    show_figure(
        fig,
        "stacked bars of load for each rank; each part is an expert with its number, orange where "
        "it has several copies. The dotted line is the even share; all wait for the highest bar.",
    )


def _stack(axis, loads_E: Sequence[float], placement: Placement, even: float) -> None:
    """Draw one placement: heavy experts at the bottom, numbered where there is room."""
    hosted = [e for row in placement for e in row]
    copies = [hosted.count(e) for e in range(len(loads_E))]
    numbered = len(hosted) <= 48 and len(placement) <= 8
    for rank, row in enumerate(placement):
        bottom = 0.0
        for e in sorted(row, key=lambda e: -loads_E[e] / copies[e]):
            part = loads_E[e] / copies[e] / even
            colour = COPIED if copies[e] > 1 else COLOURS[0]
            axis.bar(rank, part, 0.8, bottom, color=colour, edgecolor="white", linewidth=0.8)
            if numbered and part > 0.08:
                middle = bottom + part / 2
                axis.text(rank, middle, e, ha="center", va="center", fontsize=8, color="white")
            bottom += part
    axis.axhline(1, color="black", linestyle=":", linewidth=1.2)
    if len(placement) <= 16:
        axis.set_xticks(range(len(placement)))
    axis.grid(False)


def plot_tokens_per_expert(
    ranks: Sequence[int], tokens: Mapping[str, Sequence[float]], enough: float
) -> None:
    """Tokens of an expert per step against the number of ranks, and how many fill the chip."""
    fig, (axis,) = figure(height=3.4)
    for name, values in tokens.items():
        axis.plot(ranks, values, "o-", label=name)
    axis.axhline(enough, color="grey", linestyle="--")
    note = f"{enough:.0f} tokens keep the chip busy"
    axis.text(ranks[0], enough * 1.08, note, ha="left", va="bottom", fontsize=9, color="#444444")
    axis.set(xscale="log", yscale="log", xlabel="GPUs that share the experts (log scale)")
    axis.set_xticks(ranks, [str(number) for number in ranks], minor=False)
    axis.minorticks_off()
    axis.set_ylabel("tokens per expert and step")
    reached = [
        f"{name}: from {next((r for r, v in zip(ranks, values, strict=True) if v >= enough), '-')}"
        for name, values in tokens.items()
    ]
    axis.set_title("GPUs needed to keep an expert busy: " + "; ".join(reached))
    axis.legend(loc="upper left")
    show_figure(
        fig,
        "tokens per expert and step against the number of GPUs, both logarithmic, one rising line "
        "for each kind of work; the dashed line is where a chip's arithmetic is used in full.",
    )


def placement_board(loads: Mapping[str, Sequence[float]]) -> Callable[..., None]:
    """A function of traffic, ranks and copies that draws the ranks without and with a plan."""

    def show_board(traffic: str, planned_for: str, ranks: int, copies: int) -> None:
        loads_E = list(loads[traffic])
        slots = len(loads_E) + copies
        slots += -slots % ranks  # each rank has the same number of slots
        plan = place(list(loads[planned_for]), slots, ranks)
        neighbours = place_contiguously(len(loads_E), ranks)
        placements = {"neighbours": neighbours, f"plan for {planned_for}": plan}
        plot_ranks(loads_E, placements, f"{traffic}: {slots} slots on {ranks} ranks")

    return show_board
