"""Figures in one style, each with a line of text that says what it shows.

The palette is Okabe and Ito's (2008), which colour-blind readers can tell apart. The line of text
stands under the figure and is stored as its alternative text, because most front ends drop that.
"""

import html
import io
import textwrap

import matplotlib.pyplot as plt
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
}


def figure(columns: int = 1, width: float = 7.0, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure with `columns` axes side by side, in the course's style (inches)."""
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False)
    return fig, list(axes[0])


class Caption:
    """A figure's description: plain text in a terminal, small type in a notebook."""

    def __init__(self, text: str):
        self.text = "Figure: " + text

    def __repr__(self) -> str:
        return textwrap.fill(self.text, 100)

    def _repr_html_(self) -> str:
        return f'<div style="font-size: 90%; max-width: 60em">{html.escape(self.text)}</div>'


def show_figure(fig: Figure, description: str) -> None:
    """Show a figure once and close it, then its description as text."""
    picture = io.BytesIO()
    fig.savefig(picture, format="png", bbox_inches="tight", facecolor="white", dpi=110)
    plt.close(fig)
    display(Image(picture.getvalue(), alt=description))
    display(Caption(description))
