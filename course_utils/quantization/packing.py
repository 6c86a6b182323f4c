"""Codes of b bits packed without gaps: the bytes that quantization promises to save.

A row is a stream of bits, lowest bit first: code i takes the bits b*i to b*i + b - 1, and bit n of
the stream is bit n % 8 of byte n // 8. Eight codes fill exactly b bytes, for every width b, which
is how `pack` works: eight codes are joined into one 64-bit word, whose lower b bytes are stored.
Each row ends on a whole byte. Signed codes are stored with an offset of 2^(b-1), so that they are
not negative.

These are also the bits of compressed-tensors (0.20), which stores them as 32-bit words:
`as_int32` and `from_int32`. Its older versions left gaps for 3, 5 and 6 bits, and GGUF puts nibbles
in another order.
"""

import torch
from torch import Tensor

CODES = 8  # codes that fill whole bytes for every width


def packed_columns(columns: int, num_bits: int) -> int:
    """Bytes of a row: its bits, rounded up to whole bytes."""
    return -(-columns * num_bits // 8)


def pack(codes_OI: Tensor, num_bits: int) -> Tensor:
    """Bytes (..., O, ceil(I * b / 8)), uint8, of codes (..., O, I): int8 is signed, uint8 is not.

    Raises ValueError for another dtype, and for codes that do not fit into b bits.
    """
    if codes_OI.dtype not in (torch.int8, torch.uint8):
        raise ValueError(f"codes are {codes_OI.dtype}: int8 (signed) or uint8 are packed")
    offset = 2 ** (num_bits - 1) if codes_OI.dtype == torch.int8 else 0
    low, high = int(codes_OI.min()) + offset, int(codes_OI.max()) + offset
    if low < 0 or high >= 2**num_bits:
        raise ValueError(
            f"codes from {low - offset} to {high - offset} do not fit into {num_bits} bits "
            f"({-offset} to {2**num_bits - 1 - offset}): clamp them before packing"
        )
    columns = codes_OI.shape[-1]
    stored = (codes_OI.to(torch.int16) + offset).to(torch.uint8)
    padded = torch.nn.functional.pad(stored, (0, -columns % CODES)).unflatten(-1, (-1, CODES))
    words = torch.zeros(padded.shape[:-1], dtype=torch.int64, device=codes_OI.device)
    for k in range(CODES):
        words |= padded[..., k].long() << (num_bits * k)
    stream = torch.empty(*words.shape, num_bits, dtype=torch.uint8, device=codes_OI.device)
    for k in range(num_bits):
        stream[..., k] = (words >> (8 * k)) & 255
    return stream.flatten(-2)[..., : packed_columns(columns, num_bits)].contiguous()


def unpack(packed: Tensor, num_bits: int, columns: int, *, signed: bool = False) -> Tensor:
    """Codes (..., O, columns): uint8 as stored, or int8 with the offset taken off if `signed`.

    Raises ValueError when rows of that many codes do not have that many bytes.
    """
    if packed.shape[-1] != packed_columns(columns, num_bits):
        raise ValueError(
            f"rows of {packed.shape[-1]} bytes do not hold {columns} codes of {num_bits} bits, "
            f"which take {packed_columns(columns, num_bits)}: were bits or columns confused?"
        )
    padding = -packed.shape[-1] % num_bits
    stream = torch.nn.functional.pad(packed, (0, padding)).unflatten(-1, (-1, num_bits))
    words = torch.zeros(stream.shape[:-1], dtype=torch.int64, device=packed.device)
    for k in range(num_bits):
        words |= stream[..., k].long() << (8 * k)
    codes = torch.empty(*words.shape, CODES, dtype=torch.uint8, device=packed.device)
    for k in range(CODES):
        codes[..., k] = (words >> (num_bits * k)) & (2**num_bits - 1)
    codes_OI = codes.flatten(-2)[..., :columns].contiguous()
    if not signed:
        return codes_OI
    return (codes_OI.to(torch.int16) - 2 ** (num_bits - 1)).to(torch.int8)


def as_int32(packed: Tensor) -> Tensor:
    """The same bits as 32-bit words, rows padded to whole words: what `pack_to_int32` of
    compressed-tensors makes. Low byte first, as on every machine that PyTorch runs on today."""
    return torch.nn.functional.pad(packed, (0, -packed.shape[-1] % 4)).view(torch.int32)


def from_int32(words: Tensor, num_bits: int, columns: int) -> Tensor:
    """The bytes that `pack` makes, from 32-bit words. ValueError for another number of words."""
    needed = packed_columns(columns, num_bits)
    if words.shape[-1] != -(-needed // 4):
        raise ValueError(
            f"rows of {words.shape[-1]} words do not hold {columns} codes of {num_bits} bits, "
            f"which take {-(-needed // 4)}: were bits or columns confused?"
        )
    return words.contiguous().view(torch.uint8)[..., :needed].contiguous()
