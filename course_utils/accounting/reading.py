"""Reads the keys of one config and remembers which, so that no key is passed over in silence.

A key is one of three: read (it changes the count), known to change nothing (`ignorable.json`), or
unknown. Unknown keys are listed with their values in `ModelSpec.not_modelled`, unless the value
switches the thing off. Keys are strict about values: a number must be a whole number above zero, so
that a wrong config ends with the key's name and not with a wrong count.
"""

import json
from collections.abc import Mapping
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from course_utils.accounting.tensors import Weight

_OFF = (None, False, 0, "", [], {}, 0.0)
_REQUIRED = object()


@cache
def ignorable() -> frozenset[str]:
    """Keys that change no count: names, dropout, initialisation, RoPE, routing without weights."""
    file = Path(__file__).with_name("ignorable.json")
    return frozenset(key for group in json.loads(file.read_text()).values() for key in group)


def load(config: "Mapping[str, Any] | str | PathLike[str]") -> dict[str, Any]:
    """The config as a dict; a path is read. ValueError says what is wrong with the file."""
    if isinstance(config, Mapping):
        return dict(config)
    path = Path(config)
    if path.is_dir():
        path = path / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}: give the path of a config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}): give a model's config.json") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}: a config.json holds an object")
    return found


class Keys:
    """The keys of one config. Every read is remembered; `unread` lists the rest."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.seen: set[str] = set()
        self.notes: list[str] = []
        self.inside: list[Keys] = []

    def __contains__(self, key: str) -> bool:
        return self.config.get(key) is not None

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of `key`; a missing key without a default raises ValueError."""
        self.seen.add(key)
        value = self.config.get(key)
        if value is None:
            if default is _REQUIRED:
                raise ValueError(f"{key} is missing: add it, the count depends on it")
            return default
        return value

    def whole(self, *names: str, default: Any = _REQUIRED, least: int = 1) -> Any:
        """A whole number of at least `least`, under the first of `names` that is there."""
        self.seen.update(names)
        name = next((key for key in names if key in self), names[0])
        if default is _REQUIRED and name not in self:
            raise ValueError(f"{' or '.join(names)} is missing: add it, the count depends on it")
        value = self.get(name, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}: it must be a whole number of {least} or more")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{key} is {value!r}: it must be true or false")
        return value

    def per_layer(self, key: str, layers: int, default: Any = _REQUIRED) -> Any:
        """A list with one entry for each layer."""
        value = self.get(key, default)
        if value is default:
            return value
        if not isinstance(value, list) or len(value) < layers:
            size = len(value) if isinstance(value, list) else "no list"
            raise ValueError(f"{key} has {size} entries: there are {layers} layers")
        return value[:layers]

    def same(self, key: str, default: Any = _REQUIRED, least: int = 1) -> int:
        """A whole number, or a list that repeats one (Hunyuan writes one entry for each layer)."""
        value = self.get(key, default)
        if isinstance(value, list):
            if not value or any(entry != value[0] for entry in value):
                raise ValueError(f"{key} is {value}: only equal entries can be read")
            self.config[key] = value[0]
        return self.whole(key, default=default, least=least)

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        """A word."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{key} is {_short(value)}: it must be a text")
        return value

    def nested(self, key: str) -> "Keys":
        """The keys of an object inside the config; its unread keys are listed with the others."""
        value = self.get(key)
        if not isinstance(value, dict):
            raise ValueError(f"{key} is {_short(value)}: it must be an object with keys")
        self.inside.append(Keys(value))
        return self.inside[-1]

    def numbers(self, key: str, default: Any = _REQUIRED) -> list[int]:
        """Whole numbers from 0, as a list or as a text with commas (Step-3's spelling)."""
        value = self.get(key, default)
        try:
            found = value.split(",") if isinstance(value, str) else list(value)
            found = [int(entry) if isinstance(entry, str) else entry for entry in found]
        except (TypeError, ValueError):
            raise ValueError(f"{key} is {_short(value)}: it must list whole numbers") from None
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in found):
            raise ValueError(f"{key} is {_short(value)}: it must list whole numbers")
        return found

    def note(self, key: str, why: str) -> None:
        """Put a key that is switched on, but has no model here, on the list."""
        self.seen.add(key)
        value = self.config.get(key)
        if not any(value is off or value == off for off in _OFF):
            self.notes.append(f"{key} is {_short(value)}: {why}")

    def unread(self) -> list[str]:
        """Notes, then a line for each key that is neither read nor known to change nothing."""
        rest = sorted(set(self.config) - self.seen - ignorable())
        for key in rest:
            self.note(key, "an unknown key, its weights, if any, are not counted")
        return self.notes + [line for keys in self.inside for line in keys.unread()]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def plain_vector(name: str, part: str, shape: tuple[int, ...]) -> Weight:
    """A weight of any shape that is no matrix product."""
    return Weight(name, part, shape, product=False)
