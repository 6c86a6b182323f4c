"""The pictures of chapter 05: variants with seeds, families, specialisation, and where a text goes.

Chinese tokens are shown as HTML alone: the pictures' font has no Chinese letters.
"""

import html
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from IPython.display import display
from torch import Tensor

from course_utils.data.tokenizer import Tokenizer
from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.models import DecoderLM, chosen_experts, moe_layers

LEFT = ("Qwen1.5-MoE-A2.7B", "gpt-oss-120b", "Kimi-K2")  # names that stand left of their point
LONGEST = 200  # tokens of a text that the explorer shows


def plot_variants(bits: Mapping[str, Sequence[float]]) -> None:
    """Bits per byte of recorded variants, a dot for each seed and a line at the mean."""
    fig, (axis,) = figure(width=8.0, height=3.2)
    for place, values in enumerate(bits.values()):
        axis.plot([place] * len(values), values, "o", color=COLOURS[0], alpha=0.7)
        axis.hlines(np.mean(values), place - 0.25, place + 0.25, color=COLOURS[1])
    axis.set_xticks(range(len(bits)), [name.replace(", ", "\n") for name in bits])
    best = min(bits, key=lambda name: np.mean(bits[name]))
    axis.set(title=f"Lowest mean: {best} (recorded)", ylabel="validation (bits per byte)")
    show_figure(
        fig,
        "bits per byte of five variants side by side, a dot for each of three seeds and a line at "
        "the mean; lower is better.",
    )


def plot_families(points: Mapping[str, tuple[int, float]], shared: Collection[str]) -> None:
    """Experts of each model against the share of them that a token uses.

    points: (experts, share) by name; `shared`: the names of models with a shared expert.
    """
    fig, (axis,) = figure(width=8.2, height=4.2)
    groups = (("with a shared expert", "o", 110, True), ("without", "s", 28, False))
    for colour, (label, marker, size, wanted) in zip(COLOURS, groups, strict=False):
        chosen = [point for name, point in points.items() if (name in shared) == wanted]
        x, y = zip(*chosen, strict=True)
        percent = [100 * share for share in y]
        axis.scatter(x, percent, color=colour, marker=marker, s=size, label=label)
    taken: dict[tuple[int, float], int] = {}
    for name, (experts, share) in points.items():
        line = taken[experts, share] = taken.get((experts, share), -1) + 1
        left = name in LEFT
        axis.annotate(
            name,
            (experts, 100 * share),
            xytext=(-8 if left else 8, -3 - 11 * line),
            textcoords="offset points",
            fontsize=8.5,
            ha="right" if left else "left",
        )
    axis.set(xscale="log", yscale="log", xlabel="routed experts in a layer (log scale)")
    axis.set_ylabel("share that a token uses (%)")
    ticks = (8, 16, 32, 64, 128, 256, 512)
    axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axis.set_yticks((2, 5, 10, 25), ["2", "5", "10", "25"], minor=False)
    axis.minorticks_off()
    axis.set_xlim(7, 1400)
    axis.set_title("More experts, and a smaller share of them for each token")
    axis.legend(loc="lower left")
    show_figure(
        fig,
        "share of experts that a token uses against their number, both logarithmic; models run "
        "from 8 experts and 25 percent at the upper left to 512 and 2 percent at the lower right.",
    )


def plot_specialization(
    trained: Sequence[float],
    untrained: Sequence[Sequence[float]],
    chance: Sequence[Sequence[float]],
    first_layer: int = 2,
) -> None:
    """Divergence between domains by layer: the trained model, untrained ones, and chance.

    untrained: for each layer, the divergence at each random start; chance: for each layer, that at
    each shuffle of the labels.
    """
    layers = range(first_layer, first_layer + len(trained))
    fig, (axis,) = figure(height=3.6)
    axis.plot(layers, trained, "o-", color=COLOURS[0], label="trained")
    others = ((untrained, COLOURS[1], "untrained, by seed"), (chance, "grey", "labels shuffled"))
    for rows, colour, label in others:
        axis.plot(layers, [np.mean(row) for row in rows], "--", color=colour, label=label)
        low, high = [min(row) for row in rows], [max(row) for row in rows]
        axis.fill_between(layers, low, high, color=colour, alpha=0.25, linewidth=0)
    more = sum(one > max(row) for one, row in zip(trained, untrained, strict=True))
    axis.set_title(f"Training moved the domains apart in {more} of {len(trained)} layers")
    axis.set(xlabel="layer", ylabel="divergence between domains (bits)", ylim=(0, None))
    axis.set_xticks(list(layers))
    axis.legend()
    show_figure(
        fig,
        "mean divergence between domains for each layer: blue trained; orange untrained, with the "
        "range of random starts; grey at the bottom what shuffled labels give, with its range.",
    )


def plot_expert_maps(shares_GE: Tensor, rows: Sequence[str], title: str) -> None:
    """A map of percentages: a row for each kind of token, a column for each expert.

    shares_GE: share of a kind's tokens that have the expert among their k.
    """
    percent = 100 * shares_GE.numpy()
    fig, (axis,) = figure(width=8.4, height=0.9 + 0.42 * len(rows))
    picture = axis.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(percent):
        colour = "white" if value > 55 else "black"
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(percent.shape[1]))
    axis.set_yticks(range(len(rows)), rows)
    axis.grid(False)
    axis.set(title=title, xlabel="expert")
    fig.colorbar(picture, ax=axis, label="% of tokens", pad=0.02)
    show_figure(
        fig,
        "a table of percentages, shaded: how many of the tokens in a row have the expert in the "
        "column among their chosen ones.",
    )


class RoutedTokens:
    """A text whose tokens are shaded by the weight of one expert; in a terminal, between bars."""

    def __init__(self, pieces: Sequence[str], weights: Sequence[float], experts: Sequence[str]):
        self.parts = list(zip(pieces, weights, experts, strict=True))

    def __repr__(self) -> str:
        return "|".join(
            f"{_visible(piece)}*{weight:.2f}" if weight else _visible(piece)
            for piece, weight, _ in self.parts
        )

    def _repr_html_(self) -> str:
        spans = (
            f'<span title="experts {chosen}" style="background: rgba(0, 114, 178, '
            f'{min(1.0, weight):.2f}); border-left: 1px solid #ccc; white-space: pre">'
            f"{html.escape(_visible(piece))}</span>"
            for piece, weight, chosen in self.parts
        )
        return f'<div style="line-height: 1.9; font-family: monospace">{"".join(spans)}</div>'


def _visible(piece: str) -> str:
    return piece.replace("\n", "\u23ce")


def routing_explorer(model: DecoderLM, tokenizer: Tokenizer) -> Callable[[str, int, int], None]:
    """A function (text, layer, expert) that shows where a text goes.

    Layers are numbered from 1 with the model's dense ones counted. Tokens are shaded by the weight
    that the expert has for them (none: another was chosen); below, a map of how many of the text's
    tokens each expert of each layer takes.
    """
    layers = moe_layers(model)
    first = model.config.num_hidden_layers - len(layers) + 1

    def show_routing(text: str, layer: int, expert: int) -> None:
        ids = tokenizer.encode(text)[:LONGEST] or [tokenizer.end_id]
        chosen_LNK = chosen_experts(model, torch.tensor([ids]))
        routing = layers[layer - first].routing
        weights_N = (routing.weights_TK * (routing.experts_TK == expert)).sum(-1)
        pieces = [tokenizer.inner.decode([number]) for number in ids]
        names = [", ".join(map(str, row)) for row in routing.experts_TK.tolist()]
        taken = int((weights_N > 0).sum())
        print(f"layer {layer}, expert {expert}: {taken} of {len(ids)} tokens (shaded by weight)")
        display(RoutedTokens(pieces, weights_N.tolist(), names))
        choices = model.config.moe.num_choices
        counts = [torch.bincount(row.flatten(), minlength=choices) for row in chosen_LNK]
        shares_LE = torch.stack(counts).double() / len(ids)
        rows = [f"layer {first + number}" for number in range(len(layers))]
        plot_expert_maps(shares_LE, rows, "Which experts this text uses (% of its tokens)")

    return show_routing
