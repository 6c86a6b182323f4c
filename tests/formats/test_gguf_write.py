"""Writing GGUF: what is written is read back, and blocks keep what their bits allow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.formats import read_gguf, write_gguf
from course_utils.formats.gguf_blocks import TYPES
from course_utils.formats.gguf_write import quantize_blocks

ROUNDED = ("Q8_0", "Q4_0", "Q4_1", "Q4_K")
STEPS = {"Q8_0": 254, "Q4_0": 16, "Q4_1": 15, "Q4_K": 15}  # of the widest range of a block
BY_NAME = {kind.name: kind for kind in TYPES.values()}


def test_metadata_of_every_type_and_tensors_come_back(tmp_path):
    metadata = {
        "text": "größe 大",
        "yes": True,
        "count": 7,
        "negative": -7,
        "large": 2**40,
        "lowest": -(2**40),
        "fraction": 0.5,
        "texts": ["a", "二"],
        "numbers": [1, 2, 3],
        "signed": [-1, 2],
        "none": [],
    }
    weights = {kind: torch.randn(3, 256) for kind in BY_NAME}
    tensors = {f"w.{kind}": (weight, kind) for kind, weight in weights.items()}
    size = write_gguf(tmp_path / "x.gguf", metadata, tensors)
    assert size == (tmp_path / "x.gguf").stat().st_size
    file = read_gguf(tmp_path / "x.gguf")
    assert file.metadata == metadata
    for kind, weight in weights.items():
        entry = file.entries[f"w.{kind}"]
        assert entry.kind.name == kind and entry.shape == (3, 256) and entry.start % 32 == 0
        step = (weight.max() - weight.min()) / STEPS.get(kind, 2**12)
        assert (file.tensor(f"w.{kind}") - weight).abs().max() <= step
    assert torch.equal(file.tensor("w.F32"), weights["F32"])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ROUNDED), st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 100.0]))
def test_no_weight_moves_by_more_than_a_step_of_its_block(kind, seed, size):
    weight = torch.randn(2, 512, generator=torch.Generator().manual_seed(seed)) * size
    blocks = weight.reshape(-1, BY_NAME[kind].weights).numpy()
    back = BY_NAME[kind].dequantize(quantize_blocks(weight, kind))
    parts, near = blocks.reshape(-1, 32), back.reshape(-1, 32)
    widest = np.abs(parts).max(1) * 2 if kind in ("Q8_0", "Q4_0") else np.ptp(parts, axis=1)
    allowed = widest / STEPS[kind] * (0.51 if kind != "Q4_0" else 1.01)
    if kind == "Q4_K":  # the steps of sub-blocks are rounded too
        allowed = np.ptp(blocks, axis=1).repeat(8) / 15
    assert (np.abs(near - parts).max(1) <= allowed + 1e-3 * widest).all()


@pytest.mark.parametrize("kind", ROUNDED)
def test_zeros_stay_zeros_and_bytes_are_those_of_the_blocks(kind):
    blocks = quantize_blocks(torch.zeros(2, 256), kind)
    entry = BY_NAME[kind]
    assert blocks.shape == (512 // entry.weights, entry.size) and blocks.dtype == np.uint8
    assert (entry.dequantize(blocks) == 0).all()


@pytest.mark.parametrize("kind", ROUNDED)
def test_writing_what_was_read_changes_nothing(kind):
    """A file that is written again in its own type keeps its weights, but for scales' last bit."""
    entry = BY_NAME[kind]
    once = entry.dequantize(quantize_blocks(torch.randn(4, 256), kind))
    twice = entry.dequantize(quantize_blocks(torch.from_numpy(once).reshape(4, 256), kind))
    assert np.abs(twice - once).max() <= 2e-3 * np.abs(once).max() * (10 if kind == "Q4_K" else 1)


def test_the_largest_magnitude_of_q4_0_is_kept_with_its_sign():
    weight = torch.linspace(-0.3, 0.2, 32)[None]
    weight[0, 5] = 1.0
    back = BY_NAME["Q4_0"].dequantize(quantize_blocks(weight, "Q4_0"))
    assert back[0, 5] == 1.0 and back.min() > -0.9


def test_six_bit_scales_of_q4_k_keep_all_their_bits():
    from course_utils.formats.gguf_blocks import _pack_six_bits, _six_bits

    rng = np.random.default_rng(0)
    scales, minimums = (rng.integers(0, 64, (50, 8)) for _ in range(2))
    packed = _pack_six_bits(scales, minimums)
    assert packed.shape == (50, 12) and packed.dtype == np.uint8
    assert all(
        np.array_equal(a, b) for a, b in zip(_six_bits(packed), (scales, minimums), strict=True)
    )


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({}, {"w": (torch.zeros(2, 33), "Q8_0")}, "w: rows of 33 weights are not made of blocks"),
        ({}, {"w": (torch.zeros(2, 32), "Q9")}, "w: unknown tensor type 'Q9': written are F32"),
        ({}, {"w": (torch.full((1, 32), torch.inf), "Q8_0")}, "w: the tensor holds infinities"),
        ({"k": None}, {}, "metadata 'k' is None"),
        ({"k": [1, "a"]}, {}, "metadata 'k' mixes types"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(tmp_path, metadata, tensors, message):
    with pytest.raises(ValueError, match=message):
        write_gguf(tmp_path / "x.gguf", metadata, tensors)
    assert not (tmp_path / "x.gguf").exists()
