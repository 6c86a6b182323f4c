"""The pictures of chapter 13: error by bits and by group, quality, the roofline, number formats.

`format_explorer` is the chapter's widget: the values that a format can write, laid over the weights
of one block.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.quantization import QuantizationArgs, choose_qparams, dequantize, quantize
from course_utils.quantization.metrics import relative_error
from course_utils.quantization.mxfp4 import dequantize_mxfp4, e2m1_table, quantize_mxfp4
from course_utils.quantization.nf4 import NF4_VALUES, dequantize_nf4, quantize_nf4

FORMATS = ("int4", "int4 with zero point", "int2", "int8", "fp8", "mxfp4", "nf4")
E4M3_LARGEST = 448.0


def plot_rounding(weight_I: Tensor, restored_I: Tensor, title: str) -> None:
    """Weights of a row in order, and the values that they are rounded to."""
    fig, (axis,) = figure(height=3.0)
    axis.plot(weight_I.tolist(), "o", markersize=4, label="weight")
    axis.step(range(len(restored_I)), restored_I.tolist(), where="mid", label="restored")
    axis.set(title=title, xlabel="place in the row", ylabel="weight")
    axis.legend(loc="upper right")
    show_figure(
        fig,
        "dots for the weights of a row and a line of steps for what their codes stand for; the "
        "line can only take evenly spaced values.",
    )


def plot_sqnr(bits: Sequence[int], measured: Mapping[str, Sequence[float]]) -> None:
    """Signal to noise in dB against bits, a line for each scheme."""
    fig, (axis,) = figure(height=3.4)
    for (name, values), style in zip(measured.items(), ("o-", "s-", "--"), strict=False):
        axis.plot(bits, values, style, label=name)
    axis.set(title="A further bit gains about 6 dB", xlabel="bits of a code")
    axis.set_ylabel("signal to noise (dB)")
    axis.set_xticks(list(bits))
    axis.legend()
    show_figure(
        fig,
        "signal to quantization noise against bits from 2 to 8: nearly straight lines that rise by "
        "about six decibels a bit, finer groups above coarser ones, theory close to measurement.",
    )


def plot_quality(lines: Mapping[str, Sequence[tuple[float, float]]], original: float) -> None:
    """Bits per byte of text against bits of a weight, scales counted, a line for each scheme."""
    fig, (axis,) = figure(width=7.6, height=3.6)
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        ordered = sorted(points)
        axis.plot(*zip(*ordered, strict=True), "o-", color=colour, label=name)
    axis.axhline(original, color="grey", linestyle=":")
    axis.text(8.5, original, "32 bits", ha="right", va="bottom", color="grey")
    axis.set(title="Free down to 5 bits, dear below 4 (recorded)", yscale="log")
    axis.set(xlabel="bits of a weight, scales counted", ylabel="test text (bits per byte)")
    axis.set_yticks([1.3, 1.5, 2, 3], ["1.3", "1.5", "2", "3"], minor=False)
    axis.minorticks_off()
    axis.legend()
    show_figure(
        fig,
        "bits per byte of text against bits of a weight: flat from 8 to 5 bits, a small rise at 4, "
        "a larger one at 3 and a steep one at 2, where small groups and zero points help most.",
    )


def plot_roofline(
    rows: Sequence[int], seconds: Mapping[str, Sequence[float]], crossings: Mapping[str, float]
) -> None:
    """Least time of one product against its rows, a line for each width of the weights."""
    fig, (axis,) = figure(width=7.6, height=3.6)
    for colour, (name, values) in zip(COLOURS, seconds.items(), strict=False):
        axis.plot(rows, [1e3 * value for value in values], color=colour, label=name)
        axis.axvline(crossings[name], color=colour, linestyle=":", linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="rows: tokens that use the weight at once")
    axis.set(ylabel="least time (ms)", title="Fewer bits are faster until arithmetic decides")
    axis.set_xticks(rows, [str(n) for n in rows], minor=False)
    axis.minorticks_off()
    axis.legend()
    show_figure(
        fig,
        "least time of a product against its rows, both logarithmic: lines for 32, 8 and 4.5 bits "
        "start flat at different heights, bend at a dotted line and join one rising line.",
    )


def plot_measured(rows: Sequence[int], ratios: Mapping[str, Sequence[float]]) -> None:
    """How many times as fast as 32 bits a kernel was, against the rows."""
    fig, (axis,) = figure(width=7.6, height=3.2)
    for name, values in ratios.items():
        axis.plot(rows, values, "o-", label=name)
    axis.axhline(1, color="grey", linestyle=":")
    axis.set(xscale="log", yscale="log", xlabel="rows: tokens that use the weight at once")
    axis.set(ylabel="times as fast as 32 bits", title="Measured on this machine")
    axis.set_xticks(rows, [str(n) for n in rows], minor=False)
    axis.set_yticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"], minor=False)
    axis.minorticks_off()
    axis.legend()
    show_figure(
        fig,
        "measured speed of packed kernels relative to 32 bits, against the number of rows; the "
        "dotted line is 1, no gain.",
    )


def _integer(block_1I: Tensor, args: QuantizationArgs) -> tuple[Tensor, Tensor]:
    scale, zero = choose_qparams(block_1I, args)
    codes = torch.arange(args.q_min, args.q_max + 1)[None]
    codes = codes.to(torch.int8 if args.symmetric else torch.uint8)
    grid = dequantize(codes, scale, zero, args)[0]
    return grid, dequantize(quantize(block_1I, scale, zero, args), scale, zero, args)


def format_grid(block_1I: Tensor, kind: str) -> tuple[Tensor, Tensor, float]:
    """What a format can write for a block (1, I), the block restored, and bits of a weight.

    I is a multiple of 32. Integers and fp8 have one 16-bit scale for the block, mxfp4 a power of
    two for every 32, nf4 a scale of 32 bits. ValueError for an unknown format.
    """
    columns = block_1I.shape[1]
    if kind.startswith("int"):
        args = QuantizationArgs(int(kind[3]), symmetric="zero point" not in kind)
        return *_integer(block_1I, args), args.bits_per_weight((1, columns))
    if kind == "fp8":
        every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        scale = block_1I.abs().max() / E4M3_LARGEST
        restored = (block_1I / scale).to(torch.float8_e4m3fn).float() * scale
        return every[every.isfinite()] * scale, restored, 8 + 16 / columns
    if kind == "mxfp4":
        packed, exponents = quantize_mxfp4(block_1I)
        steps = torch.ldexp(torch.ones(exponents.numel()), exponents.flatten().int() - 127)
        grid = (e2m1_table()[None] * steps[:, None]).flatten()
        return grid, dequantize_mxfp4(packed, exponents), 4 + 8 / 32
    if kind == "nf4":
        packed, scale = quantize_nf4(block_1I, columns)
        grid = torch.tensor(NF4_VALUES) * scale
        return grid, dequantize_nf4(packed, scale, block_1I.shape), 4 + 32 / columns
    raise ValueError(f"unknown format {kind!r}: there are {', '.join(FORMATS)}")


def format_explorer(weight_OI: Tensor) -> Callable[[str, int, int], None]:
    """A function (format, row, block) that lays a format's values over the first weights of a row.

    A block of 32, 64 or more weights shares a scale (mxfp4 always has blocks of 32).
    """

    def show_format(format: str, row: int, block: int) -> None:
        weights_1I = weight_OI[row, :block][None].detach().float()
        grid, restored_1I, bits = format_grid(weights_1I, format)
        error = relative_error(weights_1I, restored_1I)
        fig, (axis,) = figure(width=8.0, height=2.6)
        for value in grid.unique().tolist():
            axis.axvline(value, color="lightgrey", linewidth=0.8)
        spread = np.linspace(0.2, 0.8, block)
        axis.plot(weights_1I[0].tolist(), spread, "o", markersize=4, label="weights")
        axis.plot(restored_1I[0].tolist(), spread, "|", color=COLOURS[1], label="restored")
        largest = 1.15 * float(weights_1I.abs().max())
        axis.set(xlim=(-largest, largest), ylim=(0, 1), yticks=[], xlabel="weight")
        used = len(restored_1I.unique())
        axis.set_title(f"{format}: {used} values used, {bits:.2f} bits a weight, error {error:.1%}")
        axis.legend(loc="upper left", fontsize=8)
        show_figure(
            fig,
            "grey lines at the values that the format can write, blue dots for the weights of a "
            "block in their order from bottom to top, orange marks where rounding puts them.",
        )

    return show_format
