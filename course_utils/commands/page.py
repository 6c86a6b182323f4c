"""An executed notebook as one HTML page that can be read without a network.

Pictures are inside the page. So are formulas: matplotlib's own reader of TeX ("mathtext") draws
each as a small SVG, whose alternative text is the TeX. It knows fractions, roots, sums, Greek and
accents; arguments must stand in braces (`\\sqrt{d}`, not `\\sqrt d`), and there are no environments
such as `cases` or `aligned`. A formula that it cannot read stays as TeX, which MathJax shows where
there is a network. Left out: line breaks in formulas, and fonts other than Computer Modern.

Source: matplotlib's manual, "Writing mathematical expressions".
"""

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

from jinja2 import pass_context
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

_POINTS = 100.0  # of the font: large, because mathtext counts in whole points; scaled to the text
_INLINE, _BLOCK = 1.1, 1.4  # Computer Modern is a small font, and mathtext's fractions are small


def write_page(source: Path) -> Path:
    """Write the page of a notebook beside it; the same name with the ending .html."""
    page, _ = PageExporter().from_filename(str(source))
    target = source.with_suffix(".html")
    target.write_text(page, encoding="utf-8")
    return target


def drawn(formula: str, scale: float = _INLINE) -> str:
    """A formula without its dollars as an `img` element; ValueError if mathtext cannot read it.

    scale: size of its font in that of the text around it.
    """
    tex, image = " ".join(formula.split()), io.BytesIO()
    font = FontProperties(size=_POINTS, math_fontfamily="cm")
    depth = math_to_image(f"${tex}$", image, prop=font, format="svg")
    width, height = re.findall(rb'(?:width|height)="([\d.]+)pt"', image.getvalue())[:2]
    width, height, lower = (float(part) / _POINTS for part in (width, height, -depth))
    style = f"font-size: {scale}em; width: {width:.3f}em; height: {height:.3f}em; "
    style += f"vertical-align: {lower:.3f}em; display: inline; margin: 0"
    data = base64.b64encode(image.getvalue()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<img src="{source}" alt="{html.escape(tex)}" style="{style}">'


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        try:
            return drawn(body)
        except ValueError:
            return super().inline_math(body)

    def block_math(self, body: str) -> str:
        try:
            return f'<div style="text-align: center">{drawn(body, _BLOCK)}</div>'
        except ValueError:
            return super().block_math(body)


class PageExporter(HTMLExporter):
    """nbconvert's exporter with formulas drawn."""

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """The HTML of a Markdown cell."""
        renderer = _Renderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=self.embed_images,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,
            exclude_anchor_links=self.exclude_anchor_links,
            **self.lexer_options,
        )
        return MarkdownWithMath(renderer=renderer).render(source)
