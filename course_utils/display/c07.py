"""The pictures of chapter 07: each function draws one figure and titles it with what it shows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from course_utils.accounting.attention import GroupedQueryAttention, LatentAttention
from course_utils.accounting.cache import cache_bytes
from course_utils.accounting.catalog import find
from course_utils.accounting.chips import cards_needed, chip
from course_utils.accounting.spec import ModelSpec
from course_utils.display.figures import COLOURS, figure, show_figure

EXPLORED = ("DeepSeek-LLM-67B", "DeepSeek-V2", "DeepSeek-V3", "Kimi-K2", "Llama-3.1-8B")
EXPLORED += ("Llama-3.1-70B", "Llama-3.1-405B", "Qwen3-8B", "Qwen3-235B-A22B")


def plot_between(matrices: Mapping[int, Tensor]) -> None:
    """The matrix between a query and a latent, for some distances of the two tokens."""
    fig, axes = figure(columns=len(matrices), width=8.6, height=2.9)
    limit = max(float(matrix.abs().max()) for matrix in matrices.values())
    for axis, (distance, matrix) in zip(axes, matrices.items(), strict=True):
        axis.imshow(matrix.numpy(), cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
        axis.grid(visible=False)
        axis.set(title=f"distance {distance}", xlabel="latent", xticks=[], yticks=[])
    axes[0].set_ylabel("token vector of the query")
    fig.suptitle("With RoPE between them the matrix differs at every distance", fontsize=11)
    fig.tight_layout()
    show_figure(
        fig,
        f"{len(matrices)} heat maps of the matrix that takes a query's token to a latent, one for "
        "each distance between the two tokens; their patterns differ.",
    )


def plot_decode(contexts: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> None:
    """Time of a decoded token against the context, in units of the first variant's first time."""
    fig, (axis,) = figure(height=3.6)
    unit = next(iter(seconds.values()))[0]
    for colour, (name, values) in zip(COLOURS, seconds.items(), strict=False):
        axis.plot(contexts, [v / unit for v in values], "o-", color=colour, label=name, ms=4)
    last = {name: values[-1] for name, values in seconds.items()}
    fast = min(last, key=last.get)
    slow = max(last, key=last.get)
    axis.set(title=f"At {contexts[-1]:,} tokens {fast} is fastest here, {slow} slowest")
    axis.set(xscale="log", yscale="log", xlabel="context (tokens)")
    axis.set_xticks(contexts, [f"{c:,}" for c in contexts])
    axis.set_xticks([], minor=True)
    axis.set_ylabel(f"time of a token\n({next(iter(seconds))} at {contexts[0]:,} = 1)")
    axis.legend()
    show_figure(
        fig,
        "time of one decoded token against the length of the context, on logarithmic axes, one "
        f"line for each of {', '.join(seconds)}.",
    )


def plot_ranks(ranks: Sequence[int], shares: Mapping[str, Sequence[float]], chosen: int) -> None:
    """What a cut to a rank loses, against the rank, for some matrices."""
    fig, (axis,) = figure(height=3.2)
    for colour, (name, values) in zip(COLOURS, shares.items(), strict=False):
        axis.plot(ranks, values, "o-", ms=3, color=colour, label=name)
    axis.axvline(chosen, color="grey", linestyle=":")
    axis.text(chosen + 1, 0.9, f"rank {chosen}", color="grey")
    lost = {name: values[list(ranks).index(chosen)] for name, values in shares.items()}
    low = min(lost, key=lost.get)
    axis.set(title=f"Rank {chosen} loses {lost[low]:.0%} of the {low}", ylim=(0, 1))
    axis.set(xlabel="rank that is kept", ylabel="share of the squares lost")
    axis.legend()
    show_figure(
        fig,
        "share of the squared entries that is lost against the rank that is kept, falling to 0 at "
        f"full rank, for {' and '.join(shares)}.",
    )


def plot_conversion(rows: Sequence[Mapping]) -> None:
    """Recorded bits per byte before and after the repair, a dot for each seed."""
    fig, (axis,) = figure(height=3.2)
    names = list(dict.fromkeys(row["variant"] for row in rows))
    for place, name in enumerate(names):
        own = [row for row in rows if row["variant"] == name]
        for key, colour, shift in (
            ("bits_before", COLOURS[1], -0.1),
            ("bits_after", COLOURS[0], 0),
        ):
            label = (
                key.replace("bits_", "").replace("after", "after the repair") if not place else ""
            )
            points = [row[key] for row in own]
            axis.scatter([place + shift] * len(own), points, color=colour, s=22, label=label)
    labels = [
        f"{name}\n{own['kv_elements_per_token']:,.0f} numbers a token"
        for name, own in ((n, next(r for r in rows if r["variant"] == n)) for n in names)
    ]
    axis.set_xticks(range(len(names)), labels)
    axis.set_xlim(-0.5, len(names) - 0.5)
    means = {n: np.mean([r["bits_after"] for r in rows if r["variant"] == n]) for n in names[1:]}
    axis.set(title=f"With half of the cache, {min(means, key=means.get)} is lower (recorded)")
    axis.set_ylabel("test (bits per byte)")
    axis.legend(title="", loc="upper right")
    show_figure(
        fig,
        "bits per byte of three models before and after a short training, three seeds each: the "
        "dense model, and two that keep half as many numbers a token.",
    )


def as_mha(spec: ModelSpec) -> int:
    """Numbers that a token would leave with a key and a value for every query head."""
    total = 0
    for layer in spec.layers:
        kind = layer.attention
        if isinstance(kind, LatentAttention):
            width = kind.v_head_dim
        elif isinstance(kind, GroupedQueryAttention):
            width = kind.head_dim
        else:
            raise ValueError(f"{kind.label}: this kind of attention has no such heads")
        total += 2 * kind.num_attention_heads * width
    return total


def context_explorer() -> Callable[..., None]:
    """A function (model, context, users, card, cache_bits) that draws what fits."""

    def show_context(model: str, context: int, users: int, card: str, cache_bits: int) -> None:
        spec, memory = find(model).spec, chip(card).memory_gb
        count = spec.count()
        weights, cache = count.total * 2, cache_bytes(spec, context, cache_bits, users)
        own, mha = cache_bytes(spec, context, cache_bits), as_mha(spec) * context * cache_bits / 8
        cards = cards_needed(weights, cache, card)
        lengths = 2.0 ** np.arange(10, 21)
        fig, (axis,) = figure(height=3.4)
        kept = [cache_bytes(spec, int(n), cache_bits, users) / 1e9 for n in lengths]
        axis.plot(
            lengths, kept, color=COLOURS[0], label=f"{model} ({spec.layers[-1].attention.label})"
        )
        full = as_mha(spec) * lengths * users * cache_bits / 8e9
        axis.plot(lengths, full, color=COLOURS[1], label="the same heads with MHA")
        axis.axhline(memory, color="grey", linestyle=":", label=f"memory of one {card}")
        axis.plot([context], [cache / 1e9], "o", color=COLOURS[0])
        axis.set(xscale="log", yscale="log", xlabel="context (tokens)", ylabel="cache (GB)")
        axis.set_title(f"{users} x {context:,} tokens: a cache of {cache / 1e9:,.1f} GB")
        axis.legend()
        show_figure(
            fig,
            "gigabytes of cache against the length of the context, for the model as it is and with "
            "a key and value for every head; a dotted line is the memory of one card.",
        )
        print(f"weights in bf16 {weights / 1e9:,.0f} GB; with the cache: {cards:,} x {card}")
        read = count.activated * 2
        print(f"a token of one user reads {read / 1e9:.1f} GB of weights ", end="")
        print(f"and {own / 1e9:.2f} GB of cache ({mha / 1e9:.2f} GB with MHA)")

    return show_context
