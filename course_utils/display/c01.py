"""What chapter 01 shows: models as points, a model's parts, caches, budgets, and claims.

Every number comes from `accounting`; here they are only drawn, in type large enough to project.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from IPython.display import display
from matplotlib.axes import Axes

from course_utils.accounting.cache import cache_bytes, cache_bytes_per_token
from course_utils.accounting.catalog import Entry
from course_utils.accounting.chips import cards_needed, chip
from course_utils.accounting.claims import Claim, find_claim
from course_utils.accounting.flops import decode_flops
from course_utils.accounting.formats import stored_bytes
from course_utils.accounting.spec import ModelSpec
from course_utils.accounting.tensors import Count
from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.display.tables import as_text
from course_utils.exercises.panel import Labelled, Panel, Table

FAMILIES = ("DeepSeek", "Qwen", "Moonshot AI", "Meta", "OpenAI")
KINDS = ("MHA", "GQA", "GQA with windows", "MLA", "with linear attention", "other")
MARKERS = ("o", "s", "^", "D", "P", "X")
Offset = tuple[int, int]
RIGHT: Offset = (7, -3)
NAMED: dict[str, Offset] = {
    "Llama-3.1-405B": (-88, -3),
    "DeepSeek-V3": (-20, -48),
    "Kimi-K2": (16, -34),
    "Qwen3-30B-A3B": (-10, -16),
    "gpt-oss-120b": RIGHT,
    "Mixtral-8x7B": (-24, 9),
}
LARGE = 13  # points, for text that a class reads from the wall


def _name(axis: Axes, text: str, point: tuple[float, float], offset: Offset) -> None:
    """A name beside a point; one that stands far off gets a thin line."""
    far = abs(offset[1]) > 20
    line = {"arrowstyle": "-", "color": "grey", "linewidth": 0.7} if far else None
    place = {"textcoords": "offset points", "xytext": offset, "arrowprops": line}
    axis.annotate(text, point, fontsize=8.5, **place)


def plot_activated(entries: Sequence[Entry], low: float, high: float) -> None:
    """Activated against total parameters; low, high: shares of the large sparse ones."""
    fig, (axis,) = figure(width=8.2, height=4.6)
    groups = {family: [e for e in entries if e.publisher == family] for family in FAMILIES}
    groups["others"] = [entry for entry in entries if entry.publisher not in FAMILIES]
    for colour, marker, (family, group) in zip(COLOURS, MARKERS, groups.items(), strict=True):
        counts = [entry.spec.count() for entry in group]
        points = [[c.total / 1e9 for c in counts], [c.activated / 1e9 for c in counts]]
        axis.scatter(*points, color=colour, marker=marker, s=34, label=family, zorder=3)
    axis.axline((1, 1), (10, 10), color="grey", linestyle=":", linewidth=1)
    axis.text(14, 150, "dotted: dense,\na token uses all", fontsize=9, color="dimgrey", ha="right")
    for entry in entries:
        if entry.name in NAMED:
            count = entry.spec.count()
            point = (count.total / 1e9, count.activated / 1e9)
            _name(axis, entry.name, point, NAMED[entry.name])
    axis.set(xscale="log", yscale="log", xlabel="total parameters (billions)")
    axis.set(ylabel="activated parameters (billions)")
    axis.set_title(f"Large sparse models use {low:.0%} to {high:.0%} of themselves for a token")
    axis.legend(loc="upper left", fontsize=9)
    show_figure(
        fig,
        "activated against total parameters on logarithmic axes, a point for each model, coloured "
        "by publisher; dense models lie on the dotted diagonal, sparse ones far below it.",
    )


def plot_parts(parts: Mapping[str, Count], title: str) -> None:
    """Stored and activated parameters of each part, on a logarithmic axis."""
    fig, (axis,) = figure(width=8.2, height=3.8)
    places = range(len(parts))
    for shift, what, colour in ((-0.19, "total", COLOURS[5]), (0.19, "activated", COLOURS[0])):
        values = [getattr(count, what) / 1e9 for count in parts.values()]
        bars = axis.barh([p + shift for p in places], values, 0.36, color=colour, label=what)
        axis.bar_label(bars, [as_text(value) for value in values], fontsize=8.5, padding=2)
    axis.set_yticks(places, list(parts))
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="parameters (billions, log scale)", title=title)
    axis.set_xlim(None, max(count.total for count in parts.values()) / 1e9 * 4)
    axis.legend(loc="lower right")
    show_figure(
        fig,
        "two bars for each part of the model, all parameters and those that one token uses; they "
        "differ for the routed experts and the MTP module alone.",
    )


def attention_kind(spec: ModelSpec) -> str:
    """One of KINDS: what a model keeps of a text."""
    labels = [layer.attention.label for layer in spec.layers]
    if any(label in ("lightning", "Gated DeltaNet", "KDA") for label in labels):
        return "with linear attention"
    if all(label.startswith("MLA") for label in labels):
        return "MLA"
    if all(label.startswith("GQA") and "indexer" not in label for label in labels):
        return "GQA with windows" if any("window" in label for label in labels) else "GQA"
    return "MHA" if all(label == "MHA" for label in labels) else "other"


def plot_caches(entries: Sequence[Entry], title: str, named: Sequence[str]) -> None:
    """Cache bytes of a token against total parameters, coloured by the kind of attention.

    named: the models whose names stand beside their points.
    """
    fig, (axis,) = figure(width=8.2, height=4.4)
    for colour, marker, kind in zip(COLOURS, MARKERS, KINDS, strict=True):
        specs = [entry.spec for entry in entries if attention_kind(entry.spec) == kind]
        sizes = [spec.count().total / 1e9 for spec in specs]
        kept = [cache_bytes_per_token(spec) / 1e3 for spec in specs]
        axis.scatter(sizes, kept, color=colour, marker=marker, s=34, label=kind, zorder=3)
    for entry in entries:
        if entry.name in named:
            point = (entry.spec.count().total / 1e9, cache_bytes_per_token(entry.spec) / 1e3)
            _name(axis, entry.name, point, (-20, 9))
    axis.set(xscale="log", yscale="log", xlabel="total parameters (billions)", title=title)
    axis.set_ylabel("cache of a token in bf16 (KB)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=9)
    show_figure(
        fig,
        "cache per token against model size on logarithmic axes, a point for each model, coloured "
        "by kind of attention; models with latents or linear attention lie low at any size.",
    )


def plot_cache_growth(entries: Sequence[Entry], tokens: Sequence[int]) -> None:
    """Bytes of the whole cache against the length of the text."""
    fig, (axis,) = figure(width=8.2, height=3.8)
    for entry, colour in zip(entries, COLOURS, strict=False):
        kept = [cache_bytes(entry.spec, number) / 1e9 for number in tokens]
        label = f"{entry.name}: {attention_kind(entry.spec)}"
        axis.plot(tokens, kept, color=colour, marker="o", markersize=4, label=label)
    axis.set(xscale="log", yscale="log", xlabel="tokens of text", ylabel="cache in bf16 (GB)")
    axis.set_title("Every token adds the same, except where windows or states stop it")
    axis.legend(fontsize=9)
    show_figure(
        fig,
        "gigabytes of cache against tokens, both logarithmic; grouped queries rise steepest, "
        "latents lie below, linear attention starts flat because its state is there from the first "
        "token.",
    )


def plot_roofline(intensities: Mapping[str, float], name: str) -> None:
    """Operations per byte of some kinds of work beside the balance of a chip."""
    fig, (axis,) = figure(width=8.2, height=2.8)
    balance = chip(name).balance
    if balance is None:
        raise ValueError(f"the balance of {name} is not known: choose another chip")
    colours = [COLOURS[0] if value >= balance else COLOURS[1] for value in intensities.values()]
    bars = axis.barh(list(intensities), list(intensities.values()), 0.6, color=colours)
    axis.bar_label(bars, [as_text(value) for value in intensities.values()], padding=3)
    axis.axvline(balance, color="black", linestyle="--", linewidth=1)
    axis.text(balance, 0, f"  {name}: {balance:.0f}", fontsize=9, va="center")
    axis.set(xscale="log", xlabel="operations for each byte read (log scale)")
    axis.set_xlim(0.5, max(intensities.values()) * 6)
    axis.set_title("Left of the line the chip waits for memory")
    axis.invert_yaxis()
    show_figure(
        fig,
        f"bars of operations per byte on a logarithmic axis, with a dashed line for the balance of "
        f"the {name}; decoding lies left of the line, reading a long prompt right of it.",
    )


FORMATS = {"bf16": "weights, bf16", "fp8": "weights, FP8", "int4": "weights, 4 bits"}
LONG = 131_072
CARD = "H100"


def plot_budget(spec: ModelSpec) -> None:
    """What a model costs, in large type: parameters, cache, operations, bytes, cards."""
    cache = cache_bytes(spec, LONG)
    sizes = {label: stored_bytes(spec, recipe) for recipe, label in FORMATS.items()}
    notes = [
        f"{as_text(size / 1e9)} GB, {cards_needed(size, cache, CARD)} x {CARD}"
        for size in sizes.values()
    ]
    bars = {label: size / 1e9 for label, size in sizes.items()} | {
        "cache, 128K tokens": cache / 1e9
    }
    fig, (axis,) = figure(width=9.0, height=4.2)
    colours = [COLOURS[0]] * len(sizes) + [COLOURS[1]]
    drawn = axis.barh(range(len(bars)), list(bars.values()), 0.62, color=colours)
    axis.bar_label(drawn, [*notes, f"{as_text(cache / 1e9)} GB"], padding=4, fontsize=LARGE)
    memory = chip(CARD).memory_gb
    axis.axvline(memory, color="grey", linestyle=":")
    axis.text(memory, len(bars) - 0.7, f" one {CARD}", fontsize=11, color="dimgrey")
    axis.set_xscale("log")
    axis.set_xlim(min(bars.values()) / 2, max(bars.values()) * 30)
    axis.set_xlabel("GB (log scale)", fontsize=LARGE)
    axis.set_yticks(range(len(bars)), list(bars), fontsize=LARGE)
    axis.invert_yaxis()
    axis.set_title(_budget_title(spec, spec.count()), fontsize=LARGE, loc="left", pad=12)
    show_figure(
        fig,
        "bars of gigabytes for the weights in three formats, with the number of cards that hold "
        "them together with the cache, and for the cache of a text of 128K tokens.",
    )


def _budget_title(spec: ModelSpec, count: Count) -> str:
    share = count.activated / count.total
    return (
        f"{count.total / 1e9:,.1f}B parameters, {count.activated / 1e9:,.1f}B activated "
        f"({share:.1%})\ncache {cache_bytes_per_token(spec):,} bytes a token, "
        f"{decode_flops(spec, 4096) / 1e9:,.0f} GFLOPs a token after 4,096"
    )


def budget_explorer(config: Mapping[str, Any]) -> Callable[..., None]:
    """A function of six sizes that shows what the model `config` would cost with them."""

    def show_budget(
        layers: int, width: int, experts: int, chosen: int, expert_width: int, latent_rank: int
    ) -> None:
        changes = {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "n_routed_experts": experts,
            "num_experts_per_tok": chosen,
            "moe_intermediate_size": expert_width,
            "kv_lora_rank": latent_rank,
        }
        try:
            spec = ModelSpec.from_hf_config({**config, **changes})
        except ValueError as error:
            print(f"That is no model: {error}")
            return
        plot_budget(spec)

    return show_budget


class Projected:
    """A panel in large type: plain text in a terminal."""

    def __init__(self, panel: Panel):
        self.panel = panel

    def __repr__(self) -> str:
        return repr(self.panel)

    def _repr_html_(self) -> str:
        inside = self.panel._repr_html_().replace("<table", '<table class="projected"')
        inside = inside.replace("$", "<span>$</span>")  # or MathJax takes two prices for a formula
        style = "<style>table.projected td, table.projected th {font-size: 135% !important}</style>"
        return f'{style}<div style="font-size: 135%; max-width: 52em">{inside}</div>'


def show_claim(number: int) -> None:
    """One claim in large type: where it was made, the computation run now, verdict, source."""
    claim = find_claim(number)
    blocks: list[Any] = [
        Labelled("where", "; ".join(claim.where)),
        Labelled("verdict", claim.verdict),
        Labelled("the fact", claim.fact),
    ]
    if claim.computation:
        rows = tuple(claim.recompute().items())
        blocks.append(Table(("computed now", ""), rows))
    else:
        blocks.append(Labelled("computed now", "nothing: this rests on the source alone"))
    blocks.append(Labelled("source", claim.source))
    tone = {"true": "good", "false": "bad"}.get(claim.verdict, "note")
    display(Projected(Panel(f"{claim.id}. {claim.claim}", tuple(blocks), tone)))


def claim_options(claims: Sequence[Claim]) -> list[tuple[str, int]]:
    """What the claim checker's list offers: a short text and the claim's number."""
    return [(f"{claim.id}. {shortened(claim.claim, 60)}", claim.id) for claim in claims]


def shortened(text: str, most: int) -> str:
    """The text, cut at a word when it is longer than `most` characters."""
    return text if len(text) <= most else text[:most].rpartition(" ")[0] + " ..."
