"""The pictures of chapter 09: each function draws one figure and titles it with what it shows."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.generation.acceptance import expected_tokens, speedup


def plot_overlap(p_V: Tensor, q_V: Tensor) -> None:
    """The target's and the draft's probabilities, and what they share."""
    fig, (axis,) = figure(height=2.8)
    places, shared = np.arange(len(p_V)), np.minimum(p_V, q_V)
    axis.bar(places - 0.2, p_V, 0.4, color=COLOURS[0], label="p, the target")
    axis.bar(places + 0.2, q_V, 0.4, color=COLOURS[1], label="q, the draft")
    axis.bar(places, shared, 0.8, color="none", edgecolor="black", hatch="//", label="kept")
    axis.set_xticks(places, [f"token {place}" for place in places])
    axis.set(title=f"The overlap of p and q is what is kept: {float(shared.sum()):.0%}")
    axis.set_ylabel("probability")
    axis.legend()
    show_figure(
        fig,
        "for each token a blue bar p and an orange bar q; a hatched bar as high as the lower of "
        "the two is what the draft proposes and the target keeps.",
    )


def plot_training(losses: Sequence[float], uniform: float) -> None:
    """Training loss of the module, step by step, with the loss of guessing."""
    fig, (axis,) = figure(height=2.8)
    axis.plot(range(1, len(losses) + 1), losses, color=COLOURS[0])
    axis.axhline(uniform, color="grey", linestyle=":")
    axis.text(len(losses), uniform, "guessing among all tokens", ha="right", va="bottom")
    axis.set(title="On a trained trunk the module learns at once", xlabel="step")
    axis.set_ylabel("loss of the second token (nats)")
    show_figure(
        fig,
        "the module's loss begins near the dotted line of guessing and falls steeply within a few "
        "dozen steps.",
    )


def plot_curve(rows: Sequence[Mapping], domains: Sequence[str]) -> None:
    """The recorded training of the shipped module: agreement with the trunk, by domain."""
    fig, (axis,) = figure(height=3.2)
    tokens = [row["tokens"] / 1e6 for row in rows]
    for colour, domain in zip(COLOURS, domains, strict=False):
        shares = [100 * row[f"{domain}_as_trunk"] for row in rows]
        axis.plot(tokens, shares, color=colour, label=domain)
    axis.set(title="How often the module guesses what the trunk will say (recorded)")
    axis.set(xlabel="trained tokens (millions)", ylabel="same token (%)", ylim=(0, 100))
    axis.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    show_figure(
        fig,
        "share of held-out positions at which the module's likeliest token is the trunk's, against "
        "trained tokens, for four domains; each rises fast and then slowly.",
    )


def plot_acceptance(rows: Sequence[Mapping], domains: Sequence[str]) -> None:
    """Recorded acceptance of the first draft token by temperature, and tokens a round."""
    fig, axes = figure(columns=2, width=8.8, height=3.4)
    a = np.linspace(0, 1, 101)
    axes[1].plot(a, [expected_tokens(x, 3) for x in a], color="grey", label="formula")
    for colour, domain in zip(COLOURS, domains, strict=False):
        own = [row for row in rows if row["domain"] == domain]
        warm = sorted({row["temperature"] for row in own})
        means = [np.mean([r["first"] for r in own if r["temperature"] == t]) for t in warm]
        axes[0].scatter([r["temperature"] for r in own], [r["first"] for r in own], s=14, c=colour)
        axes[0].plot(warm, means, color=colour, label=domain)
        points = [(row["first"], row["tokens_per_round"]) for row in own]
        axes[1].scatter(*zip(*points, strict=True), s=14, c=colour)
    axes[0].set(xlabel="temperature", ylabel="first draft token kept", ylim=(0, 1))
    axes[0].set_title("Kept by domain (recorded)")
    axes[1].set(xlabel="first draft token kept", ylabel="tokens a round (k = 3)")
    axes[1].set_title("Measured and by the formula")
    axes[1].legend(loc="upper left")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=4)
    fig.tight_layout(rect=(0, 0.08, 1, 1))
    show_figure(
        fig,
        "left, the share of first draft tokens kept against temperature, a line for each domain "
        "and a dot for each seed; right, the tokens a round against that share, beside a grey "
        "curve of the formula for three draft tokens.",
    )


def plot_costs(costs: Mapping[str, Mapping[int, float]]) -> None:
    """Time of a pass over n tokens, in passes over one token, for several models."""
    fig, (axis,) = figure(height=3.0)
    most = max(n for row in costs.values() for n in row)
    axis.plot([1, most], [1, most], color="grey", linestyle=":", label="n passes")
    axis.axhline(1, color="grey", linewidth=1)
    for name, row in costs.items():
        axis.plot(list(row), list(row.values()), "o-", label=name)
    axis.set(title="What several tokens in one pass cost here", xlabel="tokens in the pass")
    axis.set_ylabel("time (passes over 1 token)")
    axis.legend()
    show_figure(
        fig,
        "time of one pass against the number of its tokens; the grey line at 1 would be tokens for "
        "free, the dotted diagonal no gain at all.",
    )


def show_speedup(acceptance: float, extra_cost: float, draft_cost: float) -> None:
    """Speed against the length of the draft; the best length is marked.

    extra_cost: what each further token adds to the target's pass; draft_cost: one draft token;
    both in passes over one token.
    """
    lengths = np.arange(1, 11)
    speeds = [speedup(acceptance, k, 1 + k * extra_cost, draft_cost) for k in lengths]
    best = int(np.argmax(speeds))
    fig, (axis,) = figure(height=3.0)
    axis.plot(lengths, speeds, "o-", color=COLOURS[0], label="with these costs")
    free = [expected_tokens(acceptance, k) for k in lengths]
    axis.plot(lengths, free, color="lightgrey", label="if draft and check were free")
    axis.axhline(1, color="grey", linestyle=":")
    axis.plot(lengths[best], speeds[best], "o", color=COLOURS[1], markersize=10)
    pays = "pays most" if speeds[best] > 1 else "loses least"
    axis.set_title(f"A draft of {lengths[best]} {pays}: {speeds[best]:.2f} times the speed")
    axis.set(xlabel="draft tokens a round, k", ylabel="speed (plain decoding = 1)", ylim=(0, None))
    axis.set_xticks(lengths)
    axis.legend()
    show_figure(
        fig,
        "speed against the length of the draft: the curve rises, has a highest point, marked in "
        "orange, and falls as long drafts are mostly thrown away; above the dotted line at 1 "
        "speculation pays.",
    )
