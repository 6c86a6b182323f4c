"""The pictures of chapter 10: softened distributions, modes covered and sought, pairs, the grid."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from course_utils.data.tokenizer import Tokenizer
from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.distillation import forward_kl, reverse_kl


def plot_soft(pieces: Sequence[str], rows: dict[str, Tensor], title: str) -> None:
    """Bars of several distributions over the same tokens."""
    fig, (axis,) = figure(height=3.0)
    places, width = np.arange(len(pieces)), 0.8 / len(rows)
    for number, (name, values) in enumerate(rows.items()):
        shift = (number - (len(rows) - 1) / 2) * width
        axis.bar(places + shift, values.tolist(), width, color=COLOURS[number], label=name)
    axis.set_xticks(places, [repr(piece).strip("'\"") for piece in pieces], rotation=45, ha="right")
    axis.set(title=title, xlabel="next token", ylabel="probability")
    axis.legend()
    names = ", ".join(rows)
    show_figure(fig, f"bars for the teacher's likeliest next tokens, one colour each: {names}.")


def plot_modes(x_N: Tensor, target_N: Tensor, fits: dict[str, Tensor]) -> None:
    """A target with two humps, and the single humps that two divergences choose."""
    fig, (axis,) = figure(height=3.0)
    axis.fill_between(x_N, target_N, color="lightgrey", label="teacher: two humps")
    for colour, (name, values_N) in zip(COLOURS, fits.items(), strict=False):
        axis.plot(x_N, values_N, color=colour, label=name)
    axis.set(title="Forward KL covers both humps, reverse KL seeks one", xlabel="x")
    axis.set_ylabel("probability of a grid point")
    axis.legend()
    show_figure(
        fig,
        "a grey distribution with two humps; the fit by forward KL is one wide hump over both, the "
        "fit by reverse KL a narrow one on the larger hump.",
    )


def plot_pair(curves: dict[str, Sequence[float]], every: int) -> None:
    """Held-out loss of students against the step."""
    fig, (axis,) = figure(height=3.0)
    for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
        steps = every * np.arange(1, len(values) + 1)
        axis.plot(steps, values, marker="o", color=colour, label=name)
    axis.set(title="One pair, live: same text, same steps, another loss", xlabel="step")
    axis.set_ylabel("held-out loss (nats per token)")
    axis.legend()
    show_figure(fig, "held-out loss against the step for a student on labels and a distilled one.")


def plot_grid(nats: Mapping[str, Sequence[float]], base: str) -> None:
    """Nats per token of recorded variants, a dot for each seed and a line at the mean."""
    fig, (axis,) = figure(width=8.0, height=4.4)
    names = sorted(nats, key=lambda name: mean(nats[name]), reverse=True)
    for place, name in enumerate(names):
        colour = COLOURS[1] if name.startswith("labels") else COLOURS[0]
        axis.plot(nats[name], [place] * len(nats[name]), "o", color=colour, alpha=0.7)
        axis.vlines(mean(nats[name]), place - 0.3, place + 0.3, color=colour)
    axis.axvline(mean(nats[base]), color="grey", linestyle=":")
    axis.set_yticks(range(len(names)), names)
    axis.set(title=f"Lowest mean: {names[-1]} (recorded)", xlabel="test (nats per token)")
    show_figure(
        fig,
        "nats per token of each variant, best at the top, a dot for each of three seeds and a line "
        f"at the mean; on labels in orange, distilled in blue; the dotted line is {base!r}.",
    )


def soft_explorer(
    student: Callable[[Tensor], Tensor],
    teacher: Callable[[Tensor], Tensor],
    tokenizer: Tokenizer,
    shown: int = 10,
) -> Callable[[str, float], None]:
    """A function (prompt, temperature) that plots both next-token distributions and names KLs."""

    def show(prompt: str, temperature: float) -> None:
        ids = torch.tensor([tokenizer.encode(prompt) or [tokenizer.end_id]])
        with torch.no_grad():
            own_V, teachers_V = student(ids)[0, -1], teacher(ids)[0, -1]
        likeliest = teachers_V.topk(shown).indices
        pieces = [tokenizer.inner.decode([number]) for number in likeliest.tolist()]
        pairs = {"teacher": teachers_V, "student": own_V}
        rows = {name: (z / temperature).softmax(-1)[likeliest] for name, z in pairs.items()}
        both = (f(own_V, teachers_V, temperature).item() for f in (forward_kl, reverse_kl))
        title = "T = {:.1f}: forward KL {:.2f}, reverse KL {:.2f} nats".format(temperature, *both)
        plot_soft(pieces, rows, title)

    return show
