"""Writing GGUF, the file format of llama.cpp: the counterpart of `gguf.read_gguf`.

Metadata are typed: a text, a bool, a whole number (unsigned 32 bits, signed if below 0 and in
lists, 64 bits if larger), a fraction (32 bits), or a list of one of these. Tensors are rounded to
the type that is asked for; each begins at a multiple of 32 bytes.

Source: the GGUF specification in the ggml repository (docs/gguf.md), version 3.
Left out: big-endian files, and models too large for memory.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from course_utils.formats.gguf_blocks import TYPES

ALIGNMENT = 32
NUMBERS = {name: number for number, name in ((n, kind.name) for n, kind in TYPES.items())}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64 = 4, 5, 6, 7, 8, 9, 10, 11
CODES = {UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?", UINT64: "Q", INT64: "q"}


def quantize_blocks(weight: Tensor, kind: str) -> np.ndarray:
    """The bytes (N, size) of a tensor in a type such as "Q4_0".

    Raises ValueError for an unknown type, and for rows that blocks do not divide.
    """
    if kind not in NUMBERS:
        raise ValueError(f"unknown tensor type {kind!r}: written are {', '.join(NUMBERS)}")
    entry = TYPES[NUMBERS[kind]]
    if weight.shape[-1] % entry.weights:
        raise ValueError(
            f"rows of {weight.shape[-1]} weights are not made of blocks of {entry.weights}, which "
            f"{kind} has: choose another type for this tensor"
        )
    numbers = weight.detach().cpu().float().contiguous().numpy()
    if not np.isfinite(numbers).all():
        raise ValueError(f"the tensor holds infinities or NaN, which {kind} cannot")
    return entry.quantize(numbers.reshape(-1, entry.weights))


def write_gguf(
    path: Path | str, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[Tensor, str]]
) -> int:
    """Write metadata and tensors, each with its type; returns the file's bytes.

    Raises ValueError as `quantize_blocks`, with the tensor's name, and for metadata without a type.
    """
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    header += b"".join(_string(key) + _typed(key, value) for key, value in metadata.items())
    blobs, offset = [], 0
    for name, (weight, kind) in tensors.items():
        try:
            blob = quantize_blocks(weight, kind).tobytes()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        shape = weight.shape[::-1]  # GGUF counts from the fastest dimension
        header += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        header += struct.pack("<IQ", NUMBERS[kind], offset)
        blobs.append(blob + bytes(-len(blob) % ALIGNMENT))
        offset += len(blobs[-1])
    header += bytes(-len(header) % ALIGNMENT)
    partial = Path(path).with_suffix(".partial")
    with partial.open("wb") as file:
        file.writelines([header, *blobs])
    partial.replace(path)
    return len(header) + offset


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _typed(key: str, value: Any) -> bytes:
    """A value behind its type; a list behind the type of its members."""
    if isinstance(value, list):
        kinds = {_kind(key, member) for member in value}
        kind = max(kinds, default=STRING)
        if len(kinds) > 1 and not kinds <= {UINT32, INT32}:
            raise ValueError(f"metadata {key!r} mixes types: all members of a list need one")
        kind = INT32 if kinds and kinds <= {UINT32, INT32} else kind  # as llama.cpp expects
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(
            _plain(kind, member) for member in value
        )
    kind = _kind(key, value)
    return struct.pack("<I", kind) + _plain(kind, value)


def _kind(key: str, value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        if value < 0:
            return INT32 if value >= -(2**31) else INT64
        return UINT32 if value < 2**32 else UINT64
    if isinstance(value, float | str):
        return FLOAT32 if isinstance(value, float) else STRING
    raise ValueError(f"metadata {key!r} is {value!r}: text, bool, number or a list of one of them")


def _plain(kind: int, value: Any) -> bytes:
    return _string(value) if kind == STRING else struct.pack("<" + CODES[kind], value)
