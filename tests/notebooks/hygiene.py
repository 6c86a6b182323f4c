"""What no notebook may contain: installs, shell lines, a machine's paths, chance without a seed."""

import ast
import re
from collections.abc import Iterator

from chapter import Cell, Chapter

SHELL = re.compile(r"^\s*(?:!|%pip|%conda|%%bash|%%sh)", re.MULTILINE)
PATHS = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|usr|opt|var|mnt|work|workspace|private)/|\b[A-Z]:\\\\?\w"
)
EMOJI = re.compile("[\U0001f000-\U0001faff\u2705\u274c\u26a0\u2728]")
TORCH_CHANCE = frozenset("rand randn randint randperm normal bernoulli multinomial".split())
CHANCE_METHODS = frozenset("normal_ uniform_ random_ bernoulli_ exponential_ multinomial".split())


def no_shell(chapter: Chapter) -> Iterator[str]:
    """No installs and no shell lines: they differ between machines and fail without a network."""
    for cell in chapter.code:
        if SHELL.search(cell.source):
            yield f"{cell.place} has a shell or install line"


def no_machine_paths(chapter: Chapter) -> Iterator[str]:
    """No absolute path of some machine, neither in sources nor in outputs."""
    for cell in chapter.cells:
        if found := PATHS.search(cell.source + "\n" + cell.text):
            yield f"{cell.place} has the path {found.group()}..."


def no_emoji(chapter: Chapter) -> Iterator[str]:
    """Plain words."""
    for cell in chapter.cells:
        if found := EMOJI.search(cell.source + cell.text):
            yield f"{cell.place} has {found.group()!r}"


def seeded(chapter: Chapter) -> Iterator[str]:
    """Chance has a seed: an own generator, or torch.manual_seed further up."""
    torch_seeded = False
    for cell in chapter.code:
        for call in _calls_in_order(cell):
            name = ast.unparse(call.func)
            if name in ("torch.manual_seed", "manual_seed"):
                torch_seeded = True
            elif _is_unseeded(call, name, torch_seeded):
                yield f"{cell.place}: {name}(...) without a seed"


def _calls_in_order(cell: Cell) -> list[ast.Call]:
    calls = [node for node in ast.walk(cell.tree) if isinstance(node, ast.Call)]
    return sorted(calls, key=lambda call: (call.lineno, call.col_offset))


def _is_unseeded(call: ast.Call, name: str, torch_seeded: bool) -> bool:
    first, _, last = name.rpartition(".")
    has_generator = any(word.arg in ("generator", "rng", "seed") for word in call.keywords)
    if first in ("np.random", "numpy.random"):
        makes_one = last in ("default_rng", "RandomState", "Generator")
        return not (makes_one and call.args) and not has_generator
    if first == "random":
        return not (last == "Random" and call.args)
    if (first == "torch" and last in TORCH_CHANCE) or (first and last in CHANCE_METHODS):
        return not (torch_seeded or has_generator)
    return False
