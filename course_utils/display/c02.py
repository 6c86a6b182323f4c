"""The pictures of chapter 02: each function draws one figure and titles it with what it shows."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from course_utils.data.tokenizer import Tokenizer
from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.generation import top_p_probabilities
from course_utils.models import DecoderLM


def plot_rope(cos_Td: Tensor) -> None:
    """Cosines of a few channel pairs against the position."""
    fig, (axis,) = figure(height=2.8)
    half = cos_Td.shape[-1] // 2
    for number, pair in enumerate((0, half // 4, half // 2, half - 1)):
        axis.plot(cos_Td[:, pair], color=COLOURS[number], label=f"pair {pair}")
    axis.set(title="Early pairs turn fast, late pairs slowly", xlabel="position (tokens)")
    axis.set_ylabel("cosine of the angle")
    axis.legend(loc="lower left", ncols=2)
    show_figure(
        fig,
        "four cosine waves over the positions; pair 0 swings through many periods, the last pair "
        "barely moves.",
    )


def plot_training(losses: Sequence[float], uniform: float) -> None:
    """Training loss step by step, with the loss of guessing."""
    fig, (axis,) = figure(height=3.0)
    steps = np.arange(1, len(losses) + 1)
    smooth = [np.mean(losses[max(0, step - 10) : step]) for step in steps]
    axis.plot(steps, losses, color="lightgrey", label="one batch")
    axis.plot(steps, smooth, color=COLOURS[0], label="mean of the last ten")
    axis.legend(loc="lower left")
    axis.axhline(uniform, color="grey", linestyle=":")
    axis.text(len(losses), uniform, "guessing among all tokens", ha="right", va="bottom")
    axis.set(title="The loss starts at guessing and falls", xlabel="step")
    axis.set_ylabel("training loss (nats per token)")
    show_figure(
        fig,
        "the training loss begins at the dotted line of guessing and falls; single batches jump up "
        "and down, because the domains differ, and their running mean falls steadily.",
    )


def plot_curve(rows: Sequence[dict], domains: Sequence[str]) -> None:
    """The recorded curve of the shipped checkpoint, by domain."""
    fig, (axis,) = figure(height=3.4)
    tokens = [row["tokens"] / 1e6 for row in rows]
    for colour, domain in zip(COLOURS, domains, strict=False):
        values = [row[f"{domain}_bits"] for row in rows]
        axis.plot(tokens, values, color=colour, label=domain)
    axis.set(title="Each domain settles at its own height (recorded)", ylim=(0, None))
    axis.set(xlabel="trained tokens (millions)", ylabel="validation (bits per byte)")
    axis.legend(ncols=4, loc="upper right")
    show_figure(
        fig,
        "validation bits per byte against trained tokens for four domains; Chinese is highest, "
        "English and code lie in the middle, arithmetic is lowest. All flatten.",
    )


def plot_scaling(groups: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Loss against size: one axis per budget, a dot per seed, a line through the means."""
    fig, axes = figure(columns=2, width=8.6, height=3.4)
    for axis, (budget, sizes) in zip(axes, groups.items(), strict=True):
        dots = [dot for values in sizes.values() for dot in values]
        axis.scatter([x for x, _ in dots], [y for _, y in dots], color=COLOURS[1], s=18, zorder=3)
        means = [np.mean(values, axis=0) for values in sizes.values()]
        axis.plot([x for x, _ in means], [y for _, y in means], color=COLOURS[0])
        finding = "larger is better" if means[-1][1] < means[0][1] else "smaller is better"
        axis.set(title=f"Same {budget}: {finding} (recorded)", xscale="log")
        axis.set(xlabel="parameters (millions)", ylabel="validation (bits per byte)")
        axis.set_xticks([x for x, _ in means], [f"{x / 1e6:.2g}" for x, _ in means], minor=False)
        axis.set_xticks([], minor=True)
    low = min(axis.get_ylim()[0] for axis in axes)
    high = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(low, high)
    fig.tight_layout()
    show_figure(
        fig,
        "two panels of bits per byte against parameters, three sizes with three seeds each; left "
        "all sizes saw the same tokens, right they spent the same operations.",
    )


def plot_next_token(pieces: Sequence[str], before: Sequence[float], after: Sequence[float]) -> None:
    """Probabilities of the likeliest next tokens, as the model gives them and as they are drawn."""
    fig, (axis,) = figure(height=3.0)
    places = np.arange(len(pieces))
    axis.bar(places - 0.2, before, 0.4, color="lightgrey", label="the model's")
    axis.bar(places + 0.2, after, 0.4, color=COLOURS[0], label="after temperature and top-p")
    labels = [repr(piece).strip("'\"") for piece in pieces]
    axis.set_xticks(places, labels, rotation=45, ha="right")
    axis.set(title="Top-p cuts the tail, temperature sharpens the head", ylabel="probability")
    axis.legend()
    show_figure(
        fig,
        "bars for the likeliest next tokens: grey as the model gives them, blue as they are drawn; "
        "tokens outside the nucleus have no blue bar.",
    )


def next_token_explorer(
    model: DecoderLM, tokenizer: Tokenizer, shown: int = 12
) -> Callable[[str, float, float], None]:
    """A function (prompt, temperature, top_p) that plots the `shown` likeliest next tokens."""

    def show_next(prompt: str, temperature: float, top_p: float) -> None:
        ids = tokenizer.encode(prompt) or [tokenizer.end_id]
        with torch.no_grad():
            logits_V = model(torch.tensor([ids]))[0, -1]
        before_V = logits_V.softmax(-1)
        after_V = top_p_probabilities(logits_V, temperature, top_p)
        likeliest = before_V.topk(shown).indices
        pieces = [tokenizer.inner.decode([number]) for number in likeliest.tolist()]
        plot_next_token(pieces, before_V[likeliest].tolist(), after_V[likeliest].tolist())

    return show_next


def plot_cache_work(prompt: int, new: int) -> None:
    """Tokens processed against tokens generated, with and without a cache."""
    fig, (axis,) = figure(height=3.0)
    steps = np.arange(1, new + 1)
    axis.plot(steps, np.cumsum(prompt + steps - 1), label="without a cache")
    axis.plot(steps, prompt + steps - 1, label="with a cache")
    axis.set(title="Without a cache the work grows with the square", xlabel="new tokens")
    axis.set_ylabel("tokens processed")
    axis.legend()
    show_figure(
        fig,
        "tokens processed against new tokens: a steep bent curve without a cache, an almost flat "
        "line with one.",
    )
