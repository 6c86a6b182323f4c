"""Reading GGUF, the file format of llama.cpp: metadata, then tensors, many of them quantized.

The file begins with "GGUF", a version and two counts; then key-value pairs with typed values; then
a directory of tensors (name, shape, type, offset); then their bytes, aligned. The file is mapped
into memory, so that only what is asked for is read.

The types of tensors are in `gguf_blocks`, writing in `gguf_write`.

Source: the GGUF specification in the ggml repository (docs/gguf.md), version 3.
Left out: big-endian files.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.formats.gguf_blocks import TYPES, BlockType

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: shape in PyTorch's order, type, first byte in the file."""

    shape: tuple[int, ...]
    kind: BlockType
    start: int

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) // self.kind.weights * self.kind.size


@dataclass(frozen=True)
class GGUFFile:
    """An opened file: `metadata` by key, `entries` by tensor name."""

    path: Path
    metadata: dict[str, Any]
    entries: dict[str, TensorEntry]
    data: np.ndarray

    def tensor(self, name: str) -> Tensor:
        """A tensor by name, dequantized to float32. ValueError names what is unknown."""
        if name not in self.entries:
            raise ValueError(
                f"{self.path} has no tensor {name!r}: it has {', '.join(self.entries)}"
            )
        entry = self.entries[name]
        blocks = self.data[entry.start : entry.start + entry.size].reshape(-1, entry.kind.size)
        return torch.from_numpy(entry.kind.dequantize(blocks).reshape(entry.shape))


class _Reader:
    """Walks through the bytes; running out of them is an error with a remedy, never a crash."""

    def __init__(self, data: np.ndarray, path: Path):
        self.data, self.path, self.place = data, path, 0

    def take(self, size: int) -> bytes:
        if size < 0 or self.place + size > len(self.data):
            raise ValueError(f"{self.path} ends too early: truncated or corrupt, fetch it again")
        self.place += size
        return self.data[self.place - size : self.place].tobytes()

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise ValueError(f"{self.path}: unknown type {kind} of a value at byte {self.place}")
        if depth == 8:
            raise ValueError(f"{self.path}: arrays within arrays, 8 deep: corrupt, fetch it again")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            size = struct.calcsize("<" + SCALARS[inner])
            return list(struct.unpack(f"<{count}{SCALARS[inner]}", self.take(size * count)))
        return [self.value(inner, depth + 1) for _ in range(count)]


def read_gguf(path: Path | str) -> GGUFFile:
    """Open a GGUF file: metadata and directory are read, tensors when asked for.

    Raises FileNotFoundError, or ValueError for a file that is no GGUF, of another version,
    truncated, or with a tensor type that is not read here; the message names file and value.
    """
    path = Path(path)
    if path.stat().st_size < 24:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: too few for a GGUF file")
    reader = _Reader(np.asarray(np.memmap(path, dtype=np.uint8, mode="r")), path)
    if (magic := reader.take(4)) != b"GGUF":
        raise ValueError(f"{path} begins with {magic!r} and not b'GGUF': not a GGUF file")
    if (version := reader.number("I")) not in (2, 3):
        raise ValueError(f"{path} is GGUF version {version}: 2 and 3 are read here")
    tensors, pairs = reader.number("Q"), reader.number("Q")
    metadata = {}
    for _ in range(pairs):
        key = reader.string()
        metadata[key] = reader.value(reader.number("I"))
    directory = [_directory_entry(reader) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"{path}: general.alignment is {alignment!r}: corrupt, fetch it again")
    base = -(-reader.place // alignment) * alignment
    entries = {
        name: TensorEntry(shape, kind, base + offset) for name, shape, kind, offset in directory
    }
    for name, entry in entries.items():
        if entry.start + entry.size > len(reader.data):
            raise ValueError(f"{path} ends inside tensor {name!r}: truncated, fetch it again")
    return GGUFFile(path, metadata, entries, reader.data)


def _directory_entry(reader: _Reader) -> tuple[str, tuple[int, ...], BlockType, int]:
    name, dimensions = reader.string(), reader.number("I")
    shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
    kind = reader.number("I")
    if kind not in TYPES:
        known = ", ".join(entry.name for entry in TYPES.values())
        raise ValueError(f"{reader.path}: tensor {name!r} has type {kind}; read here are {known}")
    if dimensions > 4 or 0 in shape or math.prod(shape[-1:]) % TYPES[kind].weights:
        raise ValueError(
            f"{reader.path}: tensor {name!r} has shape {shape}, which {TYPES[kind].name} cannot "
            "have: corrupt, fetch it again"
        )
    return name, shape, TYPES[kind], reader.number("Q")
