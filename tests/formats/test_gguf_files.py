"""GGUF files written here byte by byte, read back, cut short and corrupted."""

import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.formats import read_gguf

F32, F16, Q4_0, Q4_1, Q8_0 = 0, 1, 2, 3, 8
SCALARS = {
    0: ("B", 200),
    1: ("b", -100),
    2: ("H", 60_000),
    3: ("h", -30_000),
    4: ("I", 4_000_000_000),
    5: ("i", -2_000_000_000),
    6: ("f", 0.5),
    7: ("?", True),
    10: ("Q", 2**63),
    11: ("q", -(2**62)),
    12: ("d", 1 / 3),
}


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def gguf(
    pairs: list[bytes] = (),
    tensors: list[tuple[str, tuple[int, ...], int, bytes]] = (),
    alignment: int = 32,
    version: int = 3,
    magic: bytes = b"GGUF",
) -> bytes:
    """A file of these pairs and tensors (name, PyTorch shape, type, bytes), padded."""

    def padding(size: int) -> bytes:
        return bytes(-size % alignment)

    head = magic + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    body = b""
    for name, shape, kind, data in tensors:
        sizes = struct.pack(f"<{len(shape)}Q", *shape[::-1])
        head += string(name) + struct.pack("<I", len(shape)) + sizes
        head += struct.pack("<IQ", kind, len(body))
        body += data + padding(len(data))
    return head + padding(len(head)) + body


@pytest.fixture
def write(tmp_path):
    def to_file(data: bytes) -> Path:
        path = tmp_path / "small.gguf"
        path.write_bytes(data)
        return path

    return to_file


def nibbles(numbers: list[int]) -> bytes:
    """32 numbers of 4 bits: the first 16 in the low halves, the others in the high halves."""
    return bytes(low | high << 4 for low, high in zip(numbers[:16], numbers[16:], strict=True))


def half(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}e", *numbers)


RANDOM = np.random.default_rng(0)
FOURS = [RANDOM.integers(0, 16, 32).tolist() for _ in range(4)]
BYTES = [RANDOM.integers(-128, 128, 32).tolist() for _ in range(4)]
SCALES, MINIMA = (0.5, -0.25, 2.0, 0.125), (-1.0, 0.5, 3.0, 0.0)


def blocks(kind: int) -> tuple[bytes, list[list[float]]]:
    """Four blocks of a quantized type, and the weights they mean."""
    if kind == Q8_0:
        data = [half(d) + struct.pack("<32b", *q) for d, q in zip(SCALES, BYTES, strict=True)]
        return b"".join(data), [[d * x for x in q] for d, q in zip(SCALES, BYTES, strict=True)]
    if kind == Q4_0:
        data = [half(d) + nibbles(q) for d, q in zip(SCALES, FOURS, strict=True)]
        means = [[d * (x - 8) for x in q] for d, q in zip(SCALES, FOURS, strict=True)]
        return b"".join(data), means
    three = list(zip(SCALES, MINIMA, FOURS, strict=True))
    return b"".join(half(d, m) + nibbles(q) for d, m, q in three), [
        [d * x + m for x in q] for d, m, q in three
    ]


@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q8_0], ids=["Q4_0", "Q4_1", "Q8_0"])
def test_quantized_blocks(write, kind):
    data, expected = blocks(kind)
    file = read_gguf(write(gguf(tensors=[("w", (2, 64), kind, data)])))
    got = file.tensor("w")
    assert got.dtype == torch.float32 and got.shape == (2, 64)
    assert got.tolist() == np.array(expected).reshape(2, 64).tolist()
    assert file.entries["w"].size == len(data)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize(("kind", "code"), [(F32, "f"), (F16, "e")])
def test_plain_numbers_in_pytorchs_order(write, shape, kind, code):
    numbers = [0.0, -0.5, 1.25, 3.0, -65504.0, 2.0**-14]
    data = struct.pack(f"<6{code}", *numbers)
    got = read_gguf(write(gguf(tensors=[("w", shape, kind, data)]))).tensor("w")
    assert got.dtype == torch.float32
    assert torch.equal(got, torch.tensor(numbers).view(shape))


def test_what_is_read_can_be_written_to(write):
    file = read_gguf(write(gguf(tensors=[("w", (2,), F32, struct.pack("<2f", 1, 2))])))
    file.tensor("w").zero_()
    assert file.tensor("w").tolist() == [1, 2]


@pytest.mark.parametrize("alignment", [8, 32, 64, 256])
def test_alignment(write, alignment):
    pairs = [pair("general.alignment", 4, struct.pack("<I", alignment))]
    names = ("a", "longer name", "c")
    tensors = [(name, (3,), F32, struct.pack("<3f", n, n, n)) for n, name in enumerate(names)]
    file = read_gguf(write(gguf(pairs, tensors, alignment)))
    assert all(entry.start % alignment == 0 for entry in file.entries.values())
    assert [file.tensor(name).tolist() for name in names] == [[n] * 3 for n in range(3)]


def test_all_types_of_values(write):
    pairs = [pair(f"n{k}", k, struct.pack("<" + c, v)) for k, (c, v) in SCALARS.items()]
    pairs += [
        pair(f"a{k}", 9, struct.pack(f"<IQ3{c}", k, 3, v, v, v)) for k, (c, v) in SCALARS.items()
    ]
    words = ["", "Ġthe", "巴黎 🙂"]
    pairs += [
        pair("text", 8, string("two\nlines")),
        pair("words", 9, struct.pack("<IQ", 8, 3) + b"".join(map(string, words))),
        pair("none", 9, struct.pack("<IQ", 5, 0)),
        pair("nested", 9, struct.pack("<IQ", 9, 2) + struct.pack("<IQ2B", 0, 2, 1, 2) * 2),
    ]
    expected = {f"n{k}": v for k, (_, v) in SCALARS.items()}
    expected |= {f"a{k}": [v] * 3 for k, (_, v) in SCALARS.items()}
    expected |= {"text": "two\nlines", "words": words, "none": [], "nested": [[1, 2], [1, 2]]}
    file = read_gguf(write(gguf(pairs)))
    assert file.metadata == expected
    assert {type(file.metadata[f"n{k}"]) for k in (6, 12)} == {float}
    assert file.metadata["n7"] is True and file.entries == {}


@given(st.dictionaries(st.text(), st.text(), max_size=5))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_text_in_keys_and_values(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "text.gguf"
    path.write_bytes(gguf([pair(key, 8, string(value)) for key, value in texts.items()]))
    assert read_gguf(path).metadata == texts


def whole_file() -> bytes:
    pairs = [pair("general.name", 8, string("a small file"))]
    pairs += [pair("list", 9, struct.pack("<IQ4I", 4, 4, 1, 2, 3, 4))]
    pairs += [pair("words", 9, struct.pack("<IQ", 8, 2) + string("one") + string("two"))]
    tensors = [("w", (2, 64), Q4_1, blocks(Q4_1)[0]), ("norm", (8,), F32, bytes(32))]
    return gguf(pairs, tensors)


def test_every_truncation_is_told_by_name(write):
    data = whole_file()
    read_gguf(write(data))
    for length in range(len(data)):
        path = write(data[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_gguf(path)


def test_another_magic(write):
    path = write(gguf(magic=b"GGML"))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} begins with b'GGML'"):
        read_gguf(path)


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_another_version(write, version):
    with pytest.raises(ValueError, match=f"GGUF version {version}: 2 and 3 are read here"):
        read_gguf(write(gguf(version=version)))


def test_version_2_is_read(write):
    assert read_gguf(write(gguf([pair("k", 8, string("v"))], version=2))).metadata == {"k": "v"}


@pytest.mark.parametrize("kind", [10, 14, 99])
def test_unknown_tensor_type_names_the_known_ones(write, kind):
    with pytest.raises(
        ValueError, match=rf"tensor 'w' has type {kind}; read here are F32, F16, Q4_0"
    ):
        read_gguf(write(gguf(tensors=[("w", (256,), kind, bytes(144))])))


@pytest.mark.parametrize("kind", [13, 255])
def test_unknown_type_of_a_value(write, kind):
    path = write(gguf([pair("k", kind, bytes(8))]))
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(path))}: unknown type {kind} of a value"
    ):
        read_gguf(path)


def test_missing_tensor_lists_those_there_are(write):
    path = write(gguf(tensors=[("w", (2,), F32, bytes(8)), ("v", (2,), F32, bytes(8))]))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} has no tensor 'x': it has w, v"):
        read_gguf(path).tensor("x")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        read_gguf(tmp_path / "none.gguf")


def test_a_count_beyond_the_file_is_no_endless_work(write):
    for data in (
        gguf([pair("k", 9, struct.pack("<IQ", 4, 2**60))]),
        gguf([pair("k", 8, struct.pack("<Q", 2**63))]),
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(64),
        gguf(tensors=[("w", (2**40, 2**40), F32, bytes(8))]),
    ):
        path = write(data)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_gguf(path)


@pytest.mark.parametrize(
    "value",
    [struct.pack("<II", 4, 0), struct.pack("<Ii", 5, -32), struct.pack("<Id", 12, math.inf)],
)
def test_an_alignment_that_cannot_be(write, value):
    path = write(gguf([string("general.alignment") + value], [("w", (2,), F32, bytes(8))]))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: general.alignment is"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((3,), Q8_0), ((64, 2), Q8_0), ((), Q4_0), ((0,), F32), ((1, 1, 1, 1, 2), F32)],
)
def test_a_shape_that_cannot_be(write, shape, kind):
    path = write(gguf(tensors=[("w", shape, kind, bytes(256))]))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: tensor 'w' has shape"):
        read_gguf(path)


def test_arrays_within_arrays_without_end(write):
    path = write(gguf([pair("k", 9, struct.pack("<IQ", 9, 1) * 3000)]))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: arrays within arrays"):
        read_gguf(path)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_told_and_never_crash(tmp_path_factory, changes):
    data = bytearray(whole_file())
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(data)
    try:
        file = read_gguf(path)
        tensors = [file.tensor(name) for name in file.entries]
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert sum(math.prod(t.shape) for t in tensors) <= 8 * len(data)
