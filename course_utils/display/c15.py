"""The pictures of chapter 15: errors by size, outliers, sums, rounded training, caches.

`block_explorer` is the chapter's widget: an outlier in a weight, and who pays for it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.quantization import QuantizationArgs, fake_quantize
from course_utils.quantization.fp8 import dequantize_fp8, quantize_fp8

LEAST = 1e-6  # errors below this are drawn here
SMOOTH = 6  # steps in a running mean of losses


def plot_relative_errors(sizes: Tensor, errors: Mapping[str, Tensor]) -> None:
    """Relative error of a number against its size, a line for each format; 1 is the largest."""
    fig, (axis,) = figure(width=7.6, height=3.4)
    for name, values in errors.items():
        axis.plot(sizes, values.clamp(min=LEAST), label=name)
    axis.set(xscale="log", yscale="log", ylim=(1e-3, 2), xlabel="size, as a share of the largest")
    axis.set(ylabel="relative error, worst nearby", title="Floats keep their share")
    axis.legend(fontsize=9)
    show_figure(
        fig,
        "relative error against the size of a number, both logarithmic: that of 8-bit integers "
        "grows steadily as numbers get smaller; those of E4M3 and E5M2 stay flat over several "
        "powers of ten, then rise to 1, where numbers become zero.",
    )


def plot_outliers(sizes: Sequence[float], errors: Mapping[str, Sequence[float]]) -> None:
    """Median relative error of the ordinary numbers against the size of one outlier."""
    fig, (axis,) = figure(width=7.6, height=3.4)
    for name, values in errors.items():
        axis.plot(sizes, values, "o-", label=name)
    axis.set(xscale="log", yscale="log", xlabel="size of one outlier (typical number = 1)")
    axis.set(ylabel="median relative error", title="A scale per block confines an outlier")
    axis.legend(fontsize=9)
    show_figure(
        fig,
        "median relative error of ordinary numbers against the size of one outlier: 8-bit integers "
        "with one scale fail from 100 on, FP8 with one scale from 100,000 on, FP8 in blocks "
        "hardly changes.",
    )


def plot_sums(lengths: Sequence[int], errors: Mapping[str, Sequence[float]]) -> None:
    """Largest relative error of a sum against its length."""
    fig, (axis,) = figure(height=3.2)
    for name, values in errors.items():
        axis.plot(lengths, values, "o-", label=name)
    axis.set(xscale="log", yscale="log", xlabel="products in the sum (K)")
    axis.set_xticks(lengths, [f"{n:,}" for n in lengths], minor=False)
    axis.set(ylabel="largest relative error", title="A long sum needs more bits than its numbers")
    axis.legend()
    show_figure(
        fig,
        "largest relative error of sums against their length: with 14 bits it grows with the "
        "length; moved to 32 bits every 128 products it stays low.",
    )


def plot_live(curves: Mapping[str, Sequence[float]], full: float) -> None:
    """Training losses with rounded weights, and the loss of the model in 32 bits."""
    fig, (axis,) = figure(height=3.0)
    for name, losses in curves.items():
        means = [np.mean(losses[max(0, n - SMOOTH) : n]) for n in range(1, len(losses) + 1)]
        axis.plot(range(1, len(losses) + 1), means, "o-", markersize=3, label=name)
    axis.axhline(full, color="grey", linestyle="--", label="the model in 32 bits")
    axis.set(xlabel="step", ylabel="training loss (nats per token)", ylim=(0, None))
    axis.set_title("Training brings a rounded model back, quickly at first")
    axis.legend()
    show_figure(
        fig,
        "running mean of the training loss with ternary weights: it begins high, far above the "
        "dashed line of the model in 32 bits, and falls fast.",
    )


def plot_rounding(bits: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Bits per byte by kind of model (a panel) and way of rounding, a dot for each seed."""
    fig, axes = figure(len(bits), width=9.0, height=3.4)
    for axis, (title, ways) in zip(axes, bits.items(), strict=True):
        for place, values in enumerate(ways.values()):
            axis.scatter([place] * len(values), values, color=COLOURS[place % 6], s=26, zorder=3)
            axis.hlines(np.mean(values), place - 0.3, place + 0.3, color=COLOURS[place % 6])
        axis.set_xticks(range(len(ways)), [name.replace(", ", "\n") for name in ways], fontsize=8)
        axis.set_xlim(-0.6, len(ways) - 0.4)
        axis.set_title(title)
    axes[0].set_ylabel("test (bits per byte)")
    fig.tight_layout()
    show_figure(
        fig,
        "bits per byte of the test split, a panel for each model: in 32 bits, rounded after "
        "training, and trained with rounded weights; a dot for each of three seeds.",
    )


def plot_caches(losses: Mapping[str, Mapping[str, float]]) -> None:
    """Nats per token above the full cache, a panel for each model, a bar for each choice."""
    fig, axes = figure(len(losses), width=8.6, height=3.2)
    for axis, (title, choices) in zip(axes, losses.items(), strict=True):
        for place, (name, value) in enumerate(choices.items()):
            axis.bar(place, value, color=COLOURS[0 if name.startswith("keys per channel") else 1])
            axis.text(place, value, f"{value:.2f}", ha="center", va="bottom", fontsize=8)
        names = [name.replace(", ", "\n").replace(" per ", ":\n") for name in choices]
        axis.set_xticks(range(len(choices)), names, fontsize=7)
        axis.set_title(title)
    axes[0].set_ylabel("loss above the full cache\n(nats per token)")
    fig.tight_layout()
    show_figure(
        fig,
        "loss that a cache of 2 bits adds, for the course's model and SmolLM2: the two orange bars "
        "(keys per token) are higher than the two blue ones (keys per channel) in both.",
    )


def block_explorer(weight_OI: Tensor) -> Callable[[str, int, float], None]:
    """A function (format, block, outlier) that shows the error of a weight with one outlier.

    format: "E4M3", "E5M2" or "INT8"; block: rows and columns that share a scale; outlier: how many
    times the typical weight the planted one is. Shown are the relative errors, place by place.
    """
    typical = float(weight_OI.abs().median())
    dtypes = {"E4M3": torch.float8_e4m3fn, "E5M2": torch.float8_e5m2}

    def show_blocks(format: str, block: int, outlier: float) -> None:
        planted = weight_OI.clone()
        planted[len(planted) // 3, planted.shape[1] // 3] = outlier * typical
        size = (block, block)
        if format == "INT8":
            args = QuantizationArgs(8, strategy="tensor")
            rounded = _by_tiles(planted, block, lambda tile: fake_quantize(tile, args))
        else:
            codes, scale = quantize_fp8(planted, size, dtypes[format])
            rounded = dequantize_fp8(codes, scale, size)
        error = (rounded - planted).abs() / planted.abs().clamp(min=1e-12)
        lost = ((rounded == 0) & (planted != 0)).float().mean()
        print(f"median relative error {error.median():.1%}, became zero: {lost:.1%} of the weights")
        _error_map(error, f"{format}, blocks of {block}, outlier {outlier:,.0f} times typical")

    return show_blocks


def _by_tiles(weight: Tensor, block: int, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    rows = [torch.cat([rounding(tile) for tile in band.split(block, 1)], 1)
            for band in weight.split(block, 0)]  # fmt: skip
    return torch.cat(rows, 0)


def _error_map(error: Tensor, title: str) -> None:
    fig, (axis,) = figure(width=5.4, height=3.8)
    drawn = error.clamp(0, 1).numpy()
    picture = axis.imshow(drawn, cmap="viridis", vmin=0, vmax=0.3, aspect="auto")
    axis.grid(False)
    axis.set(title=title, xlabel="input", ylabel="output")
    fig.colorbar(picture, ax=axis, label="relative error (0.3 and above: yellow)")
    show_figure(
        fig,
        "a map of a weight matrix, shaded by the relative error of each number; the block that "
        "holds the outlier is brighter than the others when the outlier is large.",
    )
