"""The pictures of chapter 14: outlier channels, smoothing, two weights, calibration, the ladder.

The chapter's widget stands in `c14_board.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import LogNorm
from torch import Tensor

from course_utils.display.figures import COLOURS, figure, show_figure

MARKS = "osD^vPX"


def plot_channels(amax_LI: Tensor, title: str) -> None:
    """A map of the largest magnitude in each input channel (across) of each layer (down)."""
    fig, (axis,) = figure(width=8.4, height=3.4)
    shading = LogNorm(0.1, float(amax_LI.max()), clip=True)
    picture = axis.imshow(amax_LI.numpy(), aspect="auto", norm=shading, interpolation="none")
    axis.grid(False)
    axis.set(title=title, xlabel="input channel", ylabel="layer")
    fig.colorbar(picture, ax=axis, label="largest magnitude")
    show_figure(
        fig,
        "a map with a row for each layer and a column for each input channel, brighter where the "
        "channel's largest magnitude is larger; an outlier channel is a bright vertical line.",
    )


def plot_two_kinds(channel: Mapping[str, Tensor], spike: Mapping[str, Tensor]) -> None:
    """Magnitudes by token: of a loud and a usual channel, and the largest of each token."""
    fig, axes = figure(2, width=9.2, height=3.2)
    for axis, lines, title in zip(
        axes, (channel, spike), ("A loud channel: every token", "A spike: one token"), strict=True
    ):
        for (name, values_T), colour in zip(lines.items(), COLOURS[1::-1], strict=False):
            axis.plot(values_T.abs().clamp(min=1e-3).tolist(), label=name, color=colour, lw=1.2)
        axis.set(title=title, xlabel="token", yscale="log")
        axis.set_ylim(top=30 * axis.get_ylim()[1])  # room for the legend
        axis.legend(fontsize=8, loc="upper right")
    axes[0].set_ylabel("magnitude of the input")
    fig.tight_layout()
    show_figure(
        fig,
        "magnitudes of inputs against the token's place, logarithmic. Left: one channel lies far "
        "above a usual one at every token. Right: the largest magnitude of a token, which is high "
        "at the first token alone.",
    )


def plot_smoothing(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> None:
    """Largest magnitudes of input channels and weight columns, channels in order of loudness."""
    fig, axes = figure(2, width=9.2, height=3.2)
    order_I = before[0].argsort(descending=True)
    for axis, (inputs_I, weights_I), title in zip(
        axes, (before, after), ("Before: inputs carry it", "After: both sides share"), strict=True
    ):
        axis.plot(inputs_I[order_I].tolist(), label="inputs", lw=1.2)
        axis.plot(weights_I[order_I].tolist(), label="columns of the weight", lw=1.2)
        axis.set(title=title, xlabel="channel, loudest first", yscale="log")
        axis.legend(fontsize=9)
    axes[0].set_ylabel("largest magnitude")
    fig.tight_layout()
    show_figure(
        fig,
        "largest magnitudes of inputs and of weight columns by channel, loudest first. Before "
        "smoothing the inputs fall steeply and the weights are flat; afterwards both lines lie on "
        "each other.",
    )


def plot_alphas(errors: Mapping[str, Sequence[float]]) -> None:
    """AWQ's search: the output's error against alpha, relative to alpha 0 (no scaling)."""
    fig, (axis,) = figure(height=3.2)
    for (name, values), mark in zip(errors.items(), MARKS, strict=False):
        places = np.arange(len(values)) / len(values)
        axis.plot(places, [value / values[0] for value in values], mark + "-", ms=4, label=name)
    axis.axhline(1, color="grey", linestyle=":")
    axis.set(xlabel="alpha", ylabel="error of the output\n(1: no scaling)", ylim=(0, None))
    axis.set(title="Scaling pays where some inputs are loud")
    axis.legend()
    show_figure(
        fig,
        "error of a layer's output against alpha, relative to rounding without scaling: a line "
        "for each layer; the lowest point of a line is what the search keeps.",
    )


def plot_two_weights(weights: Sequence[float], hessian: Tensor) -> None:
    """The sixteen nearest choices of two codes, over the output's error as a landscape."""
    fig, (axis,) = figure(width=5.6, height=4.2)
    line = torch.linspace(-1.5, 2.5, 161)
    first, second = torch.meshgrid(line - weights[0], line - weights[1], indexing="xy")
    moved = torch.stack([first, second], -1)
    error = torch.einsum("abi,ij,abj->ab", moved, hessian, moved)
    levels = [0.02, 0.1, 0.3, 0.7, 1.5, 3, 6, 12]
    axis.contour(line, line, error, levels=levels, colors="grey", linewidths=0.8)
    grid = torch.cartesian_prod(torch.arange(-1.0, 3), torch.arange(-1.0, 3))
    axis.plot(grid[:, 0], grid[:, 1], ".", color="black", label="pairs of codes")
    axis.plot(*weights, "*", ms=13, color=COLOURS[0], label="the weights")
    moved = grid - torch.tensor(weights)
    nearest = grid[moved.square().sum(1).argmin()]
    best = grid[((moved @ hessian) * moved).sum(1).argmin()]
    axis.plot(*nearest, "o", ms=13, mfc="none", color=COLOURS[1], mew=2, label="nearest")
    axis.plot(*best, "s", ms=13, mfc="none", color=COLOURS[2], mew=2, label="least output error")
    axis.set(title="The nearest codes are not the best", aspect="equal")
    axis.set(xlabel="first weight", ylabel="second weight")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    show_figure(
        fig,
        "pairs of codes as dots, the two weights as a star, and long narrow ellipses of equal "
        "output error around it; the dot inside the inner ellipses is not the one nearest to the "
        "star.",
    )


def plot_layer_errors(bits: Sequence[int], errors: Mapping[str, Sequence[float]]) -> None:
    """A layer's output error by method, relative to rounding to nearest, against bits."""
    fig, (axis,) = figure(height=3.4)
    base = next(iter(errors.values()))
    for (name, values), mark in zip(errors.items(), MARKS, strict=False):
        axis.plot(
            bits, [v / b for v, b in zip(values, base, strict=True)], mark + "-", ms=5, label=name
        )
    axis.set(xlabel="bits of a code", ylabel="output error on test text\n(1: rounding to nearest)")
    axis.set(title="One layer: what calibration gains", ylim=(0, None))
    axis.set_xticks(list(bits))
    axis.legend(fontsize=9)
    show_figure(
        fig,
        "error of one layer's output on test text against bits, relative to rounding to nearest: a "
        "line for each method.",
    )


def plot_tokens(
    tokens: Sequence[int], errors: Mapping[str, Sequence[float]], rounding: float, channels: int
) -> None:
    """A layer's test error against calibration tokens, a line for each damping."""
    fig, (axis,) = figure(width=7.6, height=3.6)
    for (name, values), mark in zip(errors.items(), MARKS, strict=False):
        axis.plot(tokens, values, mark + "-", ms=4, label=name)
    axis.axhline(rounding, color="grey", linestyle="--", label="rounding to nearest")
    axis.axvline(channels, color="grey", linestyle=":", label=f"{channels} input channels")
    axis.set(xscale="log", xlabel="calibration tokens", ylim=(0, None))
    axis.set(ylabel="output error on test text", title="Few tokens make GPTQ worse than rounding")
    axis.set_xticks(tokens, [f"{n:,}" for n in tokens], minor=False, fontsize=8)
    axis.minorticks_off()
    axis.legend(fontsize=8)
    show_figure(
        fig,
        "error of a layer's output on test text against the number of calibration tokens. "
        "With little damping the lines rise to a peak near the number of input "
        "channels, far above the dashed line of rounding, and fall below it for many tokens.",
    )


def plot_ladder(lines: Mapping[str, Mapping[float, Sequence[float]]], title: str) -> None:
    """Excess loss in nats against bits, a line for each method through the seeds' mean."""
    fig, (axis,) = figure(width=7.6, height=3.8)
    for (name, by_bits), mark in zip(lines.items(), MARKS, strict=False):
        bits = sorted(by_bits)
        means = [max(float(np.mean(by_bits[b])), 1e-5) for b in bits]
        (line,) = axis.plot(bits, means, mark + "-", ms=5, label=name)
        for b in bits:
            seeds = np.maximum(by_bits[b], 1e-5)
            axis.plot([b] * len(seeds), seeds, "_", color=line.get_color())
    axis.set(xlabel="bits of a code", yscale="log", title=title)
    axis.set_ylabel("loss above 32 bits\n(nats per token)")
    axis.set_xticks(sorted({b for by_bits in lines.values() for b in by_bits}))
    axis.legend(fontsize=9)
    show_figure(
        fig,
        "loss above that of 32 bits against the bits of a code, logarithmic, a line for each "
        "method: all rise steeply from 8 to 2 bits; a short dash for each seed.",
    )


def plot_sensitivity(bars: Mapping[str, Mapping[str, float]]) -> None:
    """Loss that one part adds when it alone has 2 bits: a bar for each part and method."""
    fig, (axis,) = figure(width=8.4, height=3.4)
    parts = list(dict.fromkeys(part for values in bars.values() for part in values))
    width = 0.8 / len(bars)
    for n, (name, values) in enumerate(bars.items()):
        places = [parts.index(part) + (n - (len(bars) - 1) / 2) * width for part in values]
        axis.bar(places, list(values.values()), width, label=name, color=COLOURS[n])
    axis.set_xticks(range(len(parts)), parts, rotation=35, ha="right", fontsize=8)
    axis.set(ylabel="loss added (nats per token)", title="One part in 2 bits, all else in 32")
    axis.legend()
    show_figure(
        fig,
        "bars for each layer and each kind of matrix: the loss that the model gains when this "
        "part alone is rounded to 2 bits.",
    )


def plot_experts(points: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """GPTQ's error of an expert over that of rounding, against the tokens it was calibrated on."""
    fig, (axis,) = figure(width=7.6, height=3.6)
    for n, (name, (tokens, ratios)) in enumerate(points.items()):
        axis.plot(tokens, ratios, MARKS[n], ms=4, color=COLOURS[n], alpha=0.7, label=name)
    axis.axhline(1, color="grey", linestyle="--")
    axis.set(xscale="log", xlabel="calibration tokens that reached the expert")
    axis.set(ylabel="GPTQ's error over rounding's", title="A rare expert is calibrated on little")
    axis.legend(fontsize=8)
    show_figure(
        fig,
        "a dot for each expert: the error of GPTQ relative to rounding to nearest, against the "
        "calibration tokens that the expert saw, logarithmic; the dashed line is 1, no gain.",
    )
