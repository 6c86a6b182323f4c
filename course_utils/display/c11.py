"""The pictures of chapter 11: scores along a text, methods compared, a verifier that is hacked."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from torch import Tensor

from course_utils.data import puzzles
from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.display.tables import show_table
from course_utils.distillation.sequence import complete
from course_utils.models import DecoderLM

VERIFIERS = {
    "strict": puzzles.verify,
    "answer alone": puzzles.answer_is_right,
    "digit anywhere": puzzles.mentions_answer,
}
Row = Mapping[str, str | float]


def show_verdicts(question: str, completions: Sequence[str], **more: Callable) -> None:
    """A table: what each verifier says of each completion."""
    judges = VERIFIERS | more
    words = {True: "passes", False: "-"}
    rows = [
        (text, *(words[bool(judge(question, text))] for judge in judges.values()))
        for text in completions
    ]
    show_table(question, ["completion", *judges], rows)


def plot_scores(text: str, values_T: Tensor, wrong: int | None = None) -> None:
    """A teacher's divergence at every symbol of a student's text; `wrong` is the first mistake."""
    fig, (axis,) = figure(width=8.0, height=2.8)
    colours = [COLOURS[1] if place == wrong else COLOURS[0] for place in range(len(text))]
    axis.bar(range(len(text)), values_T.tolist(), color=colours)
    axis.set_xticks(range(len(text)), list(text), fontsize=9, family="monospace")
    highest = int(values_T.argmax())
    axis.set_title(f"The teacher objects most to symbol {highest + 1}, {text[highest]!r}")
    axis.set(xlabel="what the student wrote", ylabel="reverse KL (nats)")
    marked = f" The first wrong symbol, number {wrong + 1}, is orange." if wrong is not None else ""
    show_figure(fig, f"bars of reverse KL, one for each of {len(text)} symbols.{marked}")


def plot_live(losses: Sequence[float]) -> None:
    """The on-policy loss of every step of the live run."""
    fig, (axis,) = figure(height=2.8)
    axis.plot(range(1, len(losses) + 1), losses, color=COLOURS[0])
    axis.set(title="On policy, live: how far the student's own texts are from the teacher")
    axis.set(xlabel="step", ylabel="reverse KL (nats per token)")
    show_figure(fig, "the on-policy loss of a student against the step; it is noisy.")


def by_method(rows: Sequence[Row], column: str) -> dict[str, list[float]]:
    """The column's values of every method, seeds in order; of rounds the last."""
    found: dict[str, dict[str | float, float]] = {}
    for row in rows:  # rounds stand in order, so that the last one stays
        found.setdefault(str(row["method"]), {})[row["seed"]] = float(row[column])
    return {method: list(values.values()) for method, values in found.items()}


def plot_methods(rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """A dot for every seed and a line at the mean; one panel for each column (with its name)."""
    fig, axes = figure(columns=len(columns), width=9.0, height=3.6)
    for axis, (column, name) in zip(axes, columns.items(), strict=True):
        found = by_method(rows, column)
        for place, values in enumerate(found.values()):
            colour = COLOURS[place % len(COLOURS)]
            axis.plot(values, [place] * len(values), "o", color=colour, alpha=0.7)
            axis.vlines(mean(values), place - 0.3, place + 0.3, color=colour)
        axis.set_yticks(range(len(found)), list(found) if axis is axes[0] else [])
        axis.invert_yaxis()
        axis.set_xlabel(name)
        best = max(found, key=lambda method: mean(found[method]))
        axis.set_title(f"Best: {best}")
    fig.tight_layout()
    show_figure(fig, f"one panel each for {', '.join(columns.values())}; a dot for every seed.")


def plot_difficulty(rows: Sequence[Row]) -> None:
    """Accuracy against the number of operations, a line a method, from lowest to highest seed."""
    fig, (axis,) = figure(height=3.6)
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = [row for row in rows if row["method"] == method]
        found = [[float(row[f"accuracy_{d}"]) for row in own] for d in puzzles.DIFFICULTIES]
        colour, means = COLOURS[number % len(COLOURS)], [mean(values) for values in found]
        axis.plot(puzzles.DIFFICULTIES, means, "o-", color=colour, label=method)
        low, high = [min(v) for v in found], [max(v) for v in found]
        axis.fill_between(puzzles.DIFFICULTIES, low, high, color=colour, alpha=0.15)
    axis.set(title="Accuracy by difficulty, recorded", ylabel="right answers (share)")
    axis.set(xlabel="operations that the answer needs", ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    show_figure(fig, "lines of accuracy against difficulty, one a method, with the seeds' range.")


def plot_pass(rows: Sequence[Row]) -> None:
    """pass@k against k, the mean over seeds, a line a method."""
    columns = [column for column in rows[0] if str(column).startswith("pass_")]
    tries = [int(column.removeprefix("pass_")) for column in columns]
    fig, (axis,) = figure(height=3.4)
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        own = [row for row in rows if row["method"] == method]
        means = [mean(float(row[column]) for row in own) for column in columns]
        axis.plot(tries, means, "o-", color=COLOURS[number % len(COLOURS)], label=method)
    axis.set_xscale("log", base=2)
    axis.set_xticks(tries, tries)
    axis.set(title="More tries, recorded", xlabel="k samples", ylabel="pass@k", ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    show_figure(fig, "pass@k against k, one rising line for each method.")


def plot_hacking(rows: Sequence[Row]) -> None:
    """What a sloppy verifier reports against what is right, over rounds; one panel a verifier."""
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    lines = {"mentioned": "the sloppy verifier says", "verified": "the strict one says"}
    fig, axes = figure(columns=len(methods), width=8.6, height=3.2)
    for axis, method in zip(axes, methods, strict=True):
        own = [row for row in rows if row["method"] == method]
        rounds = sorted({float(row["round"]) for row in own})
        for colour, (column, name) in zip(COLOURS, lines.items(), strict=False):
            found = [[float(row[column]) for row in own if row["round"] == r] for r in rounds]
            axis.plot(rounds, [mean(v) for v in found], "o-", color=colour, label=name)
            low, high = [min(v) for v in found], [max(v) for v in found]
            axis.fill_between(rounds, low, high, color=colour, alpha=0.15)
        axis.set(title=method, xlabel="round", ylim=(0, 1.02), xticks=rounds)
    axes[0].set_ylabel("share of test questions")
    axes[0].legend(fontsize=8)
    fig.tight_layout()
    show_figure(
        fig,
        "two panels, one a verifier that chose what the student learned from: the share of texts "
        "that the sloppy and the strict verifier pass, after every round.",
    )


def verifier_explorer(
    models: Mapping[str, DecoderLM], count: int = 24, new_tokens: int = 76
) -> Callable[[float, int], None]:
    """A function (temperature, operations): the share of texts that each verifier lets through."""

    def show_shares(temperature: float, operations: int) -> None:
        asked = puzzles.questions(17, count, (operations,))
        prompts = [puzzles.encode(question) for question in asked]
        fig, (axis,) = figure(height=3.0)
        width = 0.8 / len(models)
        for number, (name, model) in enumerate(models.items()):
            ends = {"end_id": puzzles.END_ID, "pad_id": puzzles.PAD_ID}
            rows = complete(model, prompts, new_tokens, temperature=temperature, **ends)
            texts = [puzzles.decode(row) for row in rows]
            shares = [mean(map(judge, asked, texts)) for judge in VERIFIERS.values()]
            places = [place + width * number for place in range(len(shares))]
            axis.bar(places, shares, 0.95 * width, color=COLOURS[number], label=name)
        middle = 0.4 - width / 2
        axis.set_xticks([place + middle for place in range(len(VERIFIERS))], list(VERIFIERS))
        axis.set(ylim=(0, 1.05), ylabel="texts that pass (share)")
        axis.set_title(f"Temperature {temperature:.1f}, {operations} operations")
        axis.legend()
        names = " and ".join(models)
        show_figure(fig, f"bars for {names}: the share of texts that each verifier lets through.")

    return show_shares
