"""A text with its tokens made visible."""

import html
from collections.abc import Sequence

from IPython.display import display

SHADES = ("#0072B233", "#E69F0033", "#009E7333", "#CC79A733")


class TokenStrip:
    """Tokens side by side: shaded in a notebook, between bars as text."""

    def __init__(self, pieces: Sequence[str]):
        self.pieces = [piece.replace("\n", "\u23ce") for piece in pieces]

    def __repr__(self) -> str:
        return "|".join(self.pieces)

    def _repr_html_(self) -> str:
        spans = (
            f'<span style="background: {SHADES[i % len(SHADES)]}; white-space: pre">'
            f"{html.escape(piece)}</span>"
            for i, piece in enumerate(self.pieces)
        )
        return f'<div style="line-height: 1.8; font-family: monospace">{"".join(spans)}</div>'


def show_tokens(pieces: Sequence[str]) -> None:
    """Show the tokens of a text, as `Tokenizer.pieces` gives them; line ends as a bent arrow."""
    display(TokenStrip(pieces))
