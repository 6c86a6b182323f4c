"""Packed codes: nothing is lost, nothing is wasted, and what does not fit is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.quantization import pack, packed_columns, unpack
from course_utils.quantization.packing import as_int32, from_int32
from course_utils.quantization.schemes import WIDTHS


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(WIDTHS),
    st.booleans(),
    st.integers(1, 70),
    st.lists(st.integers(1, 4), min_size=1, max_size=2),
    st.integers(0, 2**31),
)
def test_packing_and_unpacking_gives_the_codes_back(bits, signed, columns, rows, seed):
    low = -(2 ** (bits - 1)) if signed else 0
    generator = torch.Generator().manual_seed(seed)
    shape = (*rows, columns)
    codes = torch.randint(low, low + 2**bits, shape, generator=generator)
    codes = codes.to(torch.int8 if signed else torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert (
        packed.shape == (*rows, packed_columns(columns, bits)) == (*rows, -(-columns * bits // 8))
    )
    back = unpack(packed, bits, columns, signed=signed)
    assert back.dtype == codes.dtype and torch.equal(back, codes)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(WIDTHS), st.integers(1, 40), st.integers(0, 2**31))
def test_a_row_is_a_stream_of_bits_lowest_first(bits, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (1, columns), generator=generator).to(torch.uint8)
    stream = 0
    for place, code in enumerate(codes[0].tolist()):
        stream |= code << (bits * place)
    expected = stream.to_bytes(packed_columns(columns, bits), "little")
    assert bytes(pack(codes, bits)[0].tolist()) == expected


def test_two_bits_take_a_quarter_of_a_byte():
    codes = torch.tensor([[0, 1, 2, 3]], dtype=torch.uint8)
    assert pack(codes, 2).tolist() == [[0b11_10_01_00]]
    assert pack(torch.zeros(64, 576, dtype=torch.int8), 2).numel() == 64 * 576 // 4


def test_the_lower_nibble_comes_first_and_signed_codes_have_an_offset():
    assert pack(torch.tensor([[-8, 7]], dtype=torch.int8), 4).tolist() == [[0xF0]]


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        (torch.tensor([[8]], dtype=torch.int8), 4, r"codes from 8 to 8 do not fit.*\(-8 to 7\)"),
        (torch.tensor([[0, 16]], dtype=torch.uint8), 4, r"from 0 to 16 .*\(0 to 15\)"),
        (torch.tensor([[1.0]]), 4, r"codes are torch.float32: int8 .* or uint8"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, bits, message):
    with pytest.raises(ValueError, match=message):
        pack(codes, bits)


def test_bytes_of_another_width_are_refused():
    with pytest.raises(ValueError, match="rows of 4 bytes do not hold 8 codes of 3 bits"):
        unpack(torch.zeros(1, 4, dtype=torch.uint8), 3, 8)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("columns", [1, 10, 32, 33])
def test_words_of_32_bits_are_the_same_bits(bits, columns):
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (3, columns), generator=generator).to(torch.uint8)
    words = as_int32(pack(codes, bits))
    assert words.dtype == torch.int32 and words.shape == (3, -(-columns * bits // 32))
    first = sum(code << (bits * place) for place, code in enumerate(codes[0].tolist()))
    assert words[0, 0].item() & 0xFFFFFFFF == first & 0xFFFFFFFF
    assert torch.equal(from_int32(words, bits, columns), pack(codes, bits))
    with pytest.raises(ValueError, match="were bits or columns confused"):
        from_int32(words, bits, columns + 32)
