"""The catalog: one JSON file for each model, with its config, what was published, and sources.

    entry = find("DeepSeek-V3")
    entry.spec.count(), entry.published

A figure names the convention it follows (see `conventions`) and where it was printed. `exact` marks
figures that the count meets to the last digit; a figure that it misses by more than 1% carries an
`explanation`. Values that no document states, but arithmetic does, are under `inferred`.

Left out: keys of a config that change no count (see `ignorable.json`), so that the files are short.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from course_utils.accounting.conventions import convention
from course_utils.accounting.spec import ModelSpec

FOLDER = Path(__file__).parent
PARAMETERS = ("total", "activated")
CACHE = "cache bytes per token"


@dataclass(frozen=True)
class Figure:
    """One published number: what it counts, under which convention, and who printed it where."""

    what: str
    value: float
    convention: str
    source: str
    exact: bool = False
    digits: int = 0
    explanation: str = ""

    def counted(self, spec: ModelSpec) -> int:
        """Our number for the same thing."""
        if self.what == CACHE:
            from course_utils.accounting.cache import cache_bytes_per_token

            return cache_bytes_per_token(spec)
        count = convention(self.convention)(spec)
        return count.total if self.what == "total" else count.activated

    def difference(self, spec: ModelSpec) -> float:
        """Ours over theirs, minus 1."""
        return self.counted(spec) / self.value - 1


@dataclass(frozen=True)
class Entry:
    """A model of the catalog."""

    name: str
    publisher: str
    config: dict[str, Any]
    config_source: str
    published: tuple[Figure, ...] = ()
    released: str = ""
    license: str = ""
    training: dict[str, dict[str, Any]] = field(default_factory=dict)
    inferred: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def spec(self) -> ModelSpec:
        """The model, read from the entry's config."""
        return ModelSpec.from_hf_config(self.config)

    def figure(self, what: str, exact: bool = False) -> Figure | None:
        """The first published figure of that kind, an exact one if asked for."""
        return next((f for f in self.published if f.what == what and f.exact >= exact), None)


@lru_cache(maxsize=1)
def catalog() -> dict[str, Entry]:
    """All models by name, in alphabetical order. Do not change what is returned."""
    found = {}
    for file in sorted(FOLDER.glob("*.json"), key=lambda path: path.stem.lower()):
        values = json.loads(file.read_text(encoding="utf-8"))
        figures = tuple(Figure(**figure) for figure in values.pop("published"))
        values["notes"] = tuple(values.get("notes", ()))
        found[file.stem] = Entry(published=figures, **values)
    return found


def find(name: str) -> Entry:
    """The model of that name; capitals do not matter. ValueError names what is near."""
    models = catalog()
    exact = {key.lower(): key for key in models}
    if name.lower() in exact:
        return models[exact[name.lower()]]
    near = [key for key in models if name.lower() in key.lower()]
    hint = f"did you mean {', '.join(near)}?" if near else "`course models` lists all"
    raise ValueError(f"unknown model {name!r}: {hint}")
