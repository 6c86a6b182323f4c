"""The pictures of chapter 12: each function draws one figure and titles it with what it shows."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import torch
from torch import Tensor

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.display.timing import seconds
from course_utils.models import DecoderLM
from course_utils.pruning import (
    channel_scores,
    keep_best,
    layer_scores,
    magnitude_mask,
    masked,
    model_bytes,
    prunable,
    prune_channels,
    prune_layers,
    wanda_masks,
)
from course_utils.pruning.storage import csr_model_bytes

MEGABYTE = 2**20
METHODS = ("magnitude", "Wanda", "channels", "layers")


def plot_sparsity(
    sparsities: Sequence[float], bits: Mapping[str, Sequence[float]], whole: float
) -> None:
    """Loss against the share of zeros, one line a method, and the whole model as a line."""
    fig, (axis,) = figure(height=3.4)
    for colour, (name, values) in zip(COLOURS, bits.items(), strict=False):
        axis.plot([100 * s for s in sparsities], values, "o-", color=colour, label=name)
    axis.axhline(whole, color="grey", linestyle=":", label="no zeros")
    best = min(bits, key=lambda name: bits[name][-1])
    axis.set(title=f"At {sparsities[-1]:.0%} zeros {best} loses least", xlabel="zeros (%)")
    axis.set_ylabel("test (bits per byte)")
    axis.legend()
    show_figure(
        fig,
        f"bits per byte against the share of zeros for {', '.join(bits)}: nearly flat at first, "
        "then rising steeply.",
    )


def plot_layers(scores: Mapping[str, Sequence[float]]) -> None:
    """Influence of every layer of some models, one panel each."""
    fig, axes = figure(columns=len(scores), width=8.4, height=3.0)
    for axis, (name, values) in zip(axes, scores.items(), strict=True):
        axis.bar(range(1, len(values) + 1), values, color=COLOURS[0])
        lowest = min(range(len(values)), key=values.__getitem__) + 1
        axis.set(title=f"{name}: layer {lowest} turns least", xlabel="layer", yscale="log")
    axes[0].set_ylabel("1 - cosine (log scale)")
    fig.tight_layout()
    show_figure(
        fig,
        "bars of block influence for every layer; the first layer is by far the highest, the "
        "middle is low.",
    )


def plot_cuts(cuts: Mapping[str, Sequence[tuple[float, float]]], whole: float) -> None:
    """Loss against the parameters that are left (%), a line for each way to cut."""
    fig, (axis,) = figure(height=3.6)
    for colour, (name, points) in zip(COLOURS, cuts.items(), strict=False):
        x, y = zip(*points, strict=True)
        axis.plot(x, y, "o-", color=colour, label=name)
    axis.axhline(whole, color="grey", linestyle=":", label="uncut")
    axis.invert_xaxis()
    axis.set(title="Before healing, every cut costs a lot", ylabel="test (bits per byte)")
    axis.set_xlabel("parameters left (% of the model)")
    axis.legend()
    show_figure(
        fig,
        f"bits per byte against the parameters left for {', '.join(cuts)}; the lines rise as less "
        "is left.",
    )


def plot_healing(rows: Sequence[Mapping]) -> None:
    """Recorded bits per byte by cut and way, a dot for each seed; a line for the uncut model."""
    cuts = list(dict.fromkeys(row["cut"] for row in rows))
    ways = list(dict.fromkeys(row["way"] for row in rows))
    fig, axes = figure(columns=len(cuts), width=9.0 if len(cuts) > 1 else 6.5, height=3.6)
    for axis, cut in zip(axes, cuts, strict=True):
        own = [row for row in rows if row["cut"] == cut]
        means = {}
        for place, way in enumerate(ways):
            values = [row["bits_per_byte"] for row in own if row["way"] == way]
            means[way] = mean(values)
            axis.plot([place] * len(values), values, "o", color=COLOURS[place], alpha=0.7)
            axis.hlines(means[way], place - 0.3, place + 0.3, color=COLOURS[place])
        axis.axhline(own[0]["bits_whole"], color="grey", linestyle=":", label="uncut model")
        labels = [way.replace(", ", "\n") for way in ways]
        turned = {"fontsize": 8, "rotation": 30} if len(cuts) > 1 else {}
        axis.set_xticks(range(len(ways)), labels, **turned)
        best = min(means, key=means.__getitem__)
        axis.set_title(f"{cut}, {own[0]['parameters'] / 1e6:.1f} M left: {best} is lowest")
    axes[0].set_ylabel("test (bits per byte)")
    axes[0].legend()
    fig.tight_layout()
    show_figure(
        fig,
        f"one panel a cut: bits per byte after {len(ways)} ways of training, a dot for each of "
        "three seeds and a line at the mean; the dotted line is the uncut model.",
    )


def pruning_board(
    model: DecoderLM, ids_BT: Tensor, bits: Callable[[DecoderLM], float]
) -> Callable[[float], None]:
    """A function (sparsity) that cuts in four ways and shows loss, bytes and seconds of each.

    Bytes: zeros are stored as CSR, cuts as they are. Seconds: one forward pass over the ids,
    measured once.
    """
    layers, channels = layer_scores(model, ids_BT), channel_scores(model, ids_BT)
    done: dict[tuple, tuple] = {}

    def made(method: str, sparsity: float) -> tuple[DecoderLM, int]:
        count, width = model.config.num_hidden_layers, model.config.intermediate_size
        if method == "layers":
            cut = prune_layers(model, keep_best(layers, max(1, round(count * (1 - sparsity)))))
            return cut, model_bytes(cut)
        if method == "channels":
            kept = max(1, round(width * (1 - sparsity)))
            cut = prune_channels(model, [{"mlp": keep_best(s["mlp"], kept)} for s in channels])
            return cut, model_bytes(cut)
        masks = {n: magnitude_mask(w, sparsity) for n, w in prunable(model).items()}
        cut = masked(
            model, masks if method == "magnitude" else wanda_masks(model, ids_BT, sparsity)
        )
        return cut, csr_model_bytes(cut)

    def show_board(sparsity: float) -> None:
        for method in METHODS:
            if (method, sparsity) not in done:
                cut, size = made(method, sparsity)
                with torch.no_grad():
                    cut(ids_BT)
                    taken = seconds(lambda cut=cut: cut(ids_BT))
                done[method, sparsity] = bits(cut), size / MEGABYTE, taken
        columns = list(zip(*(done[method, sparsity] for method in METHODS), strict=True))
        fig, axes = figure(columns=3, width=9.0, height=2.8)
        names = ("test (bits per byte)", "megabytes", "seconds, measured once")
        for axis, values, name in zip(axes, columns, names, strict=True):
            axis.bar(METHODS, values, color=COLOURS[: len(METHODS)])
            axis.set_ylabel(name)
            axis.tick_params(axis="x", labelrotation=30)
        axes[0].set_title(f"sparsity {sparsity:.0%}: {METHODS[_lowest(columns[0])]} loses least")
        axes[1].set_title(f"{METHODS[_lowest(columns[1])]} is smallest")
        axes[2].set_title(f"{METHODS[_lowest(columns[2])]} was fastest")
        fig.tight_layout()
        show_figure(
            fig,
            f"three bar charts at {sparsity:.0%} sparsity, for {', '.join(METHODS)}: bits per "
            "byte, megabytes in memory, seconds of one forward pass.",
        )

    return show_board


def _lowest(values: Sequence[float]) -> int:
    return min(range(len(values)), key=values.__getitem__)


def family_lines(lineages: Mapping[str, Mapping]) -> list[str]:
    """The checkpoints as a tree, each under its base, or its teacher where it has no base: name and
    method, in lines."""
    parents = {name: line.get("base") or line.get("teacher") for name, line in lineages.items()}

    def below(parent: str | None, indent: str) -> list[str]:
        lines = []
        for name in (name for name, own in parents.items() if own == parent):
            lines += [f"{indent}{name}: {lineages[name]['method']}", *below(name, indent + "    ")]
        return lines

    lines = below(None, "")
    for foreign in dict.fromkeys(own for own in parents.values() if own not in {None, *lineages}):
        lines += [f"{foreign} (not shipped)", *below(foreign, "    ")]
    return lines
