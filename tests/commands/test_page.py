"""The HTML page of a notebook: formulas are pictures inside it, with their TeX as text."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nbformat
import pytest

from course_utils.commands.page import drawn, write_page

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)


def page_of(folder: Path, markdown: str) -> str:
    path = folder / "one.ipynb"
    cells = [nbformat.v4.new_markdown_cell(markdown), nbformat.v4.new_code_cell("cost = '$5$'")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    page = write_page(path)
    assert page == folder / "one.html"
    return page.read_text(encoding="utf-8")


def size_of(image: str) -> tuple[float, float]:
    width, height = re.findall(r"(?:width|height): ([\d.]+)em", image)
    return float(width), float(height)


def test_a_formula_is_a_picture_with_its_tex_as_text():
    image = drawn(r"\frac{a}{b} < \sqrt{d}")
    assert 'alt="\\frac{a}{b} &lt; \\sqrt{d}"' in image
    data = re.search(r"data:image/svg\+xml;base64,([^\"]+)", image)[1]
    root = ElementTree.fromstring(base64.b64decode(data))
    assert root.tag.endswith("svg") and root.findall(".//{*}path")


def test_the_picture_has_the_size_and_the_baseline_of_the_text():
    (narrow, low), (wide, high) = size_of(drawn("x")), size_of(drawn(r"x + \frac{x}{y}"))
    assert 0.3 < low < 1 < high < 3 and narrow < 1 < wide
    lowered = [float(re.search(r"vertical-align: (-?[\d.]+)em", drawn(t))[1]) for t in "xy"]
    assert abs(lowered[0]) < 0.05 and -0.5 < lowered[1] < -0.05  # only y reaches below the line


def test_the_page_shows_formulas_in_text_alone(tmp_path):
    text = "The sum $\\sum_i x_i$ and\n\n$$\n\\frac{1}{2}\n$$\n\n`$HOME$` and \\$3 and 4 dollars"
    page = page_of(tmp_path, text)
    assert re.findall(r'<img [^>]*alt="([^"]*)"', page) == [r"\sum_i x_i", r"\frac{1}{2}"]
    assert "<code>$HOME$</code>" in page and "$3 and 4 dollars" in page
    assert "$5$" in re.sub("<[^>]+>", "", page)


def test_what_cannot_be_drawn_stays_tex(tmp_path):
    page = page_of(tmp_path, r"$\begin{cases} 1 \end{cases}$ and $x$ and $$\nonsense{x}$$")
    assert r"\begin{cases}" in page and r"$$\nonsense{x}$$" in page
    assert re.findall(r'<img [^>]*alt="([^"]*)"', page) == ["x"]
    with pytest.raises(ValueError, match="nonsense"):
        drawn(r"\nonsense{x}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_formulas_of_the_course_can_be_drawn(path):
    """Where not: braces around every argument (\\sqrt{d}), and no environments."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for block, inline in FORMULA.findall(re.sub(r"`[^`]*`", "", cell.source)):
                assert drawn(block or inline)
