"""What notebooks teach is the library's own code; and the comparison itself is tested."""

import ast

import pytest
import specimen
from chapter import NOTEBOOKS, Chapter
from specimen import code
from sync import common_form, definitions_of_library, differences

LIBRARY = '''
def norm(x_TD: "Tensor", eps: float = 1e-6) -> "Tensor":
    """Divide by the root mean square."""
    if x_TD.ndim != 2:
        raise ValueError(f"x has shape {x_TD.shape}")
    if eps <= 0:
        raise ValueError(f"eps is {eps}")
    scale: float = (x_TD**2).mean(-1, keepdim=True)  # one for each token
    if scale is None:
        raise ValueError
    return x_TD / (scale + eps).sqrt()
'''
NOTEBOOK = """
def norm(x_TD, eps=1e-6):
    scale = (x_TD ** 2).mean(-1, keepdim=True)

    if scale is None:
        raise ValueError
    return x_TD / (scale + eps).sqrt()
"""


def _form(source: str) -> str:
    (definition,) = ast.parse(source).body
    return common_form(definition)


@pytest.fixture(scope="module")
def library():
    return definitions_of_library()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_taught_definitions_are_those_of_the_library(path, library):
    problems = list(differences(Chapter(path), library))
    assert not problems, "\n".join(problems)


def test_annotations_docstrings_comments_and_guards_do_not_count():
    assert _form(LIBRARY) == _form(NOTEBOOK)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1e-6", "1e-5"),
        ("+ eps", "- eps"),
        (".mean(-1,", ".mean(0,"),
        ("x_TD, eps", "x, eps"),
        ("keepdim=True", "keepdim=False"),
        ("    if scale is None:\n        raise ValueError\n", ""),
    ],
)
def test_every_change_of_code_counts(old, new):
    assert old in NOTEBOOK
    assert _form(NOTEBOOK.replace(old, new)) != _form(LIBRARY)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("class A:\n    'Doc.'\n    x: int = 1", "class A:\n    x = 1", True),
        ("class A:\n    x: int", "class A:\n    x: float", True),
        ("class A:\n    x: int", "class A:\n    y: int", False),
        ("class A(B):\n    pass", "class A(C):\n    pass", False),
        ("def f(x):\n    'Doc.'", "def f(x):\n    pass", True),
        ("@a\ndef f(): pass", "def f(): pass", False),
        (
            "class A:\n    def f(self, x: int):\n        if x:\n            raise E\n        x()",
            "class A:\n    def f(self, x):\n        x()",
            True,
        ),
        (
            "def f(x):\n    if x:\n        raise E\n    else:\n        y()\n    return x",
            "def f(x):\n    return x",
            False,
        ),
    ],
)
def test_common_form(one, other, same):
    assert (_form(one) == _form(other)) is same


def _told(tmp_path, source: str, *tags: str) -> list[str]:
    library = {"norm": [("layers/norm.py", _form(LIBRARY))]}
    return list(differences(specimen.chapter(tmp_path, [code(source, *tags)]), library))


def test_differences_are_told_by_name_and_file(tmp_path):
    assert _told(tmp_path, NOTEBOOK) == []
    (other,) = _told(tmp_path, NOTEBOOK.replace("1e-6", "1e-5"))
    assert "defines norm otherwise than layers/norm.py" in other
    (unknown,) = _told(tmp_path, "def nothing_like_it(x):\n    return x")
    assert "nothing_like_it, which the library does not have" in unknown


@pytest.mark.parametrize("tag", ["exercise", "naive", "step", "widget"])
def test_cells_that_differ_on_purpose_are_left_out(tmp_path, tag):
    assert _told(tmp_path, "def nothing_like_it(x):\n    return x", tag) == []


def test_the_library_is_read(library):
    assert any(file == "paths.py" for file, _ in library["cache_dir"])
