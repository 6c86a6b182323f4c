"""The pictures of chapter 08: each function draws one figure and titles it with what it shows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from course_utils.accounting.cache import cache_bytes
from course_utils.accounting.flops import attention_flops, product_elements
from course_utils.accounting.spec import ModelSpec
from course_utils.attention import choose_tokens, window_mask
from course_utils.display.figures import COLOURS, figure, show_figure


def plot_context_cost(specs: Mapping[str, ModelSpec], contexts: Sequence[int]) -> None:
    """Operations of reading the past, relative to all the weights', and bytes of the cache."""
    fig, (left, right) = figure(columns=2, width=9.4, height=3.6)
    last = {}
    for number, (name, spec) in enumerate(specs.items()):
        style = {"color": COLOURS[number % 6], "linestyle": "--" if number > 5 else "-"}
        weights = 2 * product_elements(spec)
        reading = [attention_flops(spec, context, absorbed=True) / weights for context in contexts]
        left.plot(contexts, reading, label=name, **style)
        right.plot(contexts, [cache_bytes(spec, c) / 2**30 for c in contexts], **style)
        last[name] = reading[-1]
    left.axhline(1, color="grey", linestyle=":")
    left.set(xscale="log", yscale="log", xlabel="context (tokens)")
    most = max(last, key=last.get)
    left.set(ylabel="reading the past / all weights", title=f"Reading costs most in {most}")
    right.set(xscale="log", yscale="log", xlabel="context (tokens)", ylabel="cache (GiB, 16 bits)")
    right.set_title("What is kept")
    fig.legend(loc="lower center", ncols=4, bbox_to_anchor=(0.5, -0.16))
    fig.tight_layout()
    show_figure(
        fig,
        "two panels against the context length, both axes logarithmic: left the operations for "
        "reading the past relative to those of all weights, with a dotted line at 1; right the "
        "cache of one text. One line for each model.",
    )


def plot_kept_mass(ks: Sequence[int], kept: Mapping[str, Sequence[float]]) -> None:
    """Share of the attention that lies on k tokens, one line for each way to choose them."""
    fig, (axis,) = figure(height=3.2)
    for colour, (name, values) in zip(COLOURS, kept.items(), strict=False):
        axis.plot(ks, values, "o-", ms=4, color=colour, label=name)
    middle = len(ks) // 2
    found = ", ".join(f"{name} {values[middle]:.0%}" for name, values in kept.items())
    axis.set(title=f"k = {ks[middle]}: {found}", ylim=(0, 1), xscale="log")
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="k, tokens that are read", ylabel="share of dense attention kept")
    axis.legend(loc="lower right")
    show_figure(
        fig,
        f"share of the attention weights on k tokens against k, for {', '.join(kept)}; all rise "
        "towards 1.",
    )


def plot_loss_by_k(ks: Sequence[int], losses: Mapping[str, Sequence[float]], dense: float) -> None:
    """Loss of the language model when its attention reads k tokens only."""
    fig, (axis,) = figure(height=3.2)
    for colour, (name, values) in zip(COLOURS, losses.items(), strict=False):
        axis.plot(ks, values, "o-", ms=4, color=colour, label=name)
    axis.axhline(dense, color="grey", linestyle=":")
    axis.text(ks[-1], dense, "dense attention", ha="right", va="top", color="grey")
    axis.set_ylim(bottom=dense - 0.1 * (max(map(max, losses.values())) - dense))
    ends = {name: values[0] for name, values in losses.items()}
    axis.set(title=f"With {ks[0]} tokens, lowest: {min(ends, key=ends.get)}", xscale="log")
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="k, tokens that are read", ylabel="loss (nats per token)")
    axis.legend()
    show_figure(
        fig,
        "loss per token against the number of tokens that attention reads, one line for each way "
        "to choose them, and a dotted line for dense attention.",
    )


def plot_interference(pairs: Sequence[int], errors: Mapping[str, Sequence[float]], K: int) -> None:
    """Relative error of what a state gives back, against the number of pairs stored in it."""
    fig, (axis,) = figure(height=3.2)
    for colour, (name, values) in zip(COLOURS, errors.items(), strict=False):
        axis.plot(pairs, values, "o-", ms=4, color=colour, label=name)
    axis.axvline(K, color="grey", linestyle=":")
    axis.text(K * 1.03, 0.02, f"K = {K}", color="grey")
    place = list(pairs).index(K)
    found = ", ".join(f"{name} {values[place]:.0%}" for name, values in errors.items())
    axis.set(title=f"Error with {K} pairs: {found}", ylim=(0, None), xscale="log")
    axis.set_xticks(pairs, [str(n) for n in pairs])
    axis.set_xticks([], minor=True)
    axis.set(xlabel="pairs stored in one K x K state", ylabel="relative error of what is read")
    axis.legend(loc="upper left")
    show_figure(
        fig,
        f"relative error of the values read back against the number of stored pairs, for "
        f"{' and '.join(errors)}; both rise, and a dotted line marks as many pairs as channels.",
    )


def plot_learning(steps: Sequence[int], right: Sequence[float], chance: float) -> None:
    """Share of right answers during the live run."""
    fig, (axis,) = figure(height=2.8)
    axis.plot(steps, right, "o-", ms=4)
    axis.axhline(chance, color="grey", linestyle=":")
    axis.text(steps[-1], chance, "guessing a value", ha="right", va="bottom", color="grey")
    axis.set(title=f"Right answers: {right[0]:.0%} at first, {right[-1]:.0%} at the end")
    axis.set(xlabel="step", ylabel="share of right answers", ylim=(0, 1.03))
    show_figure(
        fig, "share of right answers against the training step, with a dotted line at guessing."
    )


def plot_recall(rows: Sequence[Mapping], chance: float) -> None:
    """Recorded recall against the number of pairs: kinds of attention, and the sparse stages."""
    stages = [row for row in rows if row["variant"].startswith(("latent", "sparse"))]
    kinds = [row for row in rows if row not in stages]
    fig, (left, right) = figure(columns=2, width=9.8, height=4.6)
    names = _recall_panel(left, "Kinds of attention", kinds, chance)
    names += " | " + _recall_panel(right, "Latent attention made sparse", stages, chance)
    left.set_ylabel("share of right answers (recorded)")
    fig.tight_layout()
    show_figure(
        fig,
        "recorded share of right answers against the number of pairs, a line through the means and "
        f"a band over the seeds; a dotted line at guessing. From left to right: {names}.",
    )


def _recall_panel(axis: Axes, title: str, rows: Sequence[Mapping], chance: float) -> str:
    """Draw means, and bands from the lowest seed to the highest; the names, joined.

    What is called "x + full" is dashed, in the colour of x.
    """
    pairs, ends, colours = sorted({row["pairs"] for row in rows}), {}, {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        base = name.removesuffix(" + full")
        colour = colours.setdefault(base, COLOURS[len(colours)])
        seeds = np.array([_accuracies(rows, name, count) for count in pairs])
        style = {"color": colour, "linestyle": "-" if base == name else "--"}
        axis.plot(pairs, seeds.mean(1), "o", ms=3.5, label=name, **style)
        axis.fill_between(pairs, seeds.min(1), seeds.max(1), color=colour, alpha=0.2, lw=0)
        ends[name] = seeds[-1].mean()
    low, high = min(ends, key=ends.get), max(ends, key=ends.get)
    found = f"{ends[low]:.0%} ({low}) to {ends[high]:.0%} ({high})"
    axis.set_title(f"{title}, {pairs[-1]:g} pairs:\n{found}", fontsize=10)
    axis.axhline(chance, color="grey", linestyle=":")
    axis.text(pairs[0], chance - 0.02, "guessing", va="top", color="grey")
    axis.set(xscale="log", ylim=(-0.03, 1.05), xlabel="pairs in the text")
    axis.set_xticks(pairs, [f"{count:g}" for count in pairs])
    axis.set_xticks([], minor=True)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return "; ".join(ends)


def _accuracies(rows: Sequence[Mapping], name: str, pairs: float) -> list[float]:
    return [row["accuracy"] for row in rows if (row["variant"], row["pairs"]) == (name, pairs)]


def plot_map(
    weights_TT: Tensor, read_TT: Tensor, pieces: Sequence[str], title: str, shown: int = 48
) -> float:
    """One map of attention weights, and the same with what is skipped greyed out.

    Returns the share of the attention that is kept, averaged over the later half of the queries.
    """
    half = len(weights_TT) // 2
    kept = float((weights_TT * read_TT)[half:].sum(-1).mean())
    part = slice(max(0, len(weights_TT) - shown), None)
    strength = weights_TT[part, part].sqrt().numpy()
    skipped = ~read_TT[part, part].numpy() & np.tri(len(strength), dtype=bool)
    fig, axes = figure(columns=2, width=9.6, height=4.8)
    for axis, words in zip(axes, ("dense", title), strict=True):
        axis.imshow(strength, cmap="magma_r", vmin=0, vmax=1, interpolation="nearest")
        axis.grid(False)
        axis.set(title=words, xlabel="token that is read")
        labels = [piece.strip() or " " for piece in list(pieces)[part]]
        places = range(0, len(labels), 3)
        axis.set_xticks(places, [labels[p] for p in places], rotation=90, fontsize=6)
        axis.set_yticks(places, [labels[p] for p in places], fontsize=6)
    overlay = np.zeros((*skipped.shape, 4))
    overlay[skipped] = (0.6, 0.75, 0.9, 0.85)
    axes[1].imshow(overlay, interpolation="nearest")
    axes[1].set_title(f"{title}: {kept:.0%} of the attention kept")
    axes[0].set_ylabel("token that reads")
    fig.tight_layout()
    show_figure(
        fig,
        f"attention weights of the last {len(strength)} tokens, a row for each token that reads, "
        "dark where it looks; on the right, blue covers what is skipped. The share kept is the "
        "mean over the later half of the text.",
    )
    return kept


def attention_viewer(
    weights: Sequence[Tensor], scores: Sequence[Tensor], pieces: Sequence[str]
) -> Callable[[int, int, str, int], None]:
    """A function (layer, head, rule, k) that shows a map and what the rule would skip.

    `weights`: for each layer (1, H, T, T); `scores`: the indexer's (1, T, T). Head 0 is the mean
    of all heads. Rules: "window", "indexer", "best k".
    """

    def show_map(layer: int, head: int, rule: str, k: int) -> None:
        weights_HTT = weights[layer - 1][0]
        mean_TT = weights_HTT.mean(0)
        shown_TT = mean_TT if head == 0 else weights_HTT[head - 1]
        place_T = torch.arange(len(mean_TT))
        causal_TT = place_T[:, None] >= place_T
        if rule == "window":
            read_TT = window_mask(place_T, place_T, k)
        else:
            ranked_TT = scores[layer - 1][0] if rule == "indexer" else mean_TT
            read_TT = choose_tokens(ranked_TT[None], k, causal_TT)[0]
        name = f"window of {k}" if rule == "window" else f"{rule}, k = {k}"
        plot_map(shown_TT, read_TT, pieces, name.replace("best k, ", "best, "))

    return show_map
