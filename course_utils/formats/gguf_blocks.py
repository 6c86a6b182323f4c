"""The tensor types of GGUF: blocks of weights in few bits, as llama.cpp stores them.

A block of 32 weights shares a 16-bit scale d, in Q4_1 also a minimum m:

    Q8_0   d, 32 signed bytes q               w = d q          34 bytes, 8.5 bits a weight
    Q4_0   d, 32 four-bit q                   w = d (q - 8)    18 bytes, 4.5 bits
    Q4_1   d, m, 32 four-bit q                w = d q + m      20 bytes, 5 bits

The low halves of a block's 16 bytes are weights 0 to 15, the high halves 16 to 31. In Q4_0 the
weight of largest magnitude, with its sign, becomes -8: of the 16 codes none is wasted on it.

Q4_K has 256 weights in eight sub-blocks; scales s and minimums m of sub-blocks have 6 bits and are
multiples of two 16-bit numbers d and e: w = d s q - e m. 144 bytes, 4.5 bits a weight.

The bytes of Q8_0, Q4_0 and Q4_1 are those of ggml's reference quantizer. llama.cpp searches for
better scales in Q4_K; here they are the plain ones. Left out: the other K- and I-quants.
Source: ggml-quants.c and ggml-common.h in the ggml repository.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SUB, SUBS = 32, 8  # weights of a sub-block of Q4_K, and sub-blocks


@dataclass(frozen=True)
class BlockType:
    """A tensor type: its name, weights per block, bytes per block, and both directions.

    dequantize: (N, bytes) uint8 to (N, weights) float32; quantize: the other way.
    """

    name: str
    weights: int
    size: int
    dequantize: Callable[[np.ndarray], np.ndarray]
    quantize: Callable[[np.ndarray], np.ndarray]


def _halves(blocks: np.ndarray) -> np.ndarray:
    """(N, 16) bytes to (N, 32) numbers of 4 bits."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=1)


def _nibbles(codes: np.ndarray) -> np.ndarray:
    """(N, 32) numbers of 4 bits to (N, 16) bytes."""
    low, high = np.split(codes.astype(np.uint8), 2, axis=1)
    return low | high << 4


def _float16(blocks: np.ndarray) -> np.ndarray:
    """(N, 2 n) bytes to (N, n) float32."""
    return np.ascontiguousarray(blocks).view(np.float16).astype(np.float32)


def _bytes16(values: np.ndarray) -> np.ndarray:
    """(N, n) numbers to (N, 2 n) bytes of float16."""
    return np.ascontiguousarray(values.astype(np.float16)).view(np.uint8)


def _inverse(scale: np.ndarray) -> np.ndarray:
    """1 / scale, and 0 for a block of zeros."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def dequantize_q8_0(blocks: np.ndarray) -> np.ndarray:
    """(N, 34) bytes to (N, 32) float32: w = d q."""
    return _float16(blocks[:, :2]) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)


def quantize_q8_0(weights: np.ndarray) -> np.ndarray:
    """(N, 32) float32 to (N, 34) bytes; halves are rounded away from 0."""
    d = np.abs(weights).max(1, keepdims=True) / np.float32(127)
    scaled = weights * _inverse(d)
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    return np.concatenate([_bytes16(d), codes.view(np.uint8)], axis=1)


def dequantize_q4_0(blocks: np.ndarray) -> np.ndarray:
    """(N, 18) bytes to (N, 32) float32: w = d (q - 8)."""
    return _float16(blocks[:, :2]) * (_halves(blocks[:, 2:]).astype(np.float32) - 8)


def quantize_q4_0(weights: np.ndarray) -> np.ndarray:
    """(N, 32) float32 to (N, 18) bytes; the largest magnitude has code 0, that is -8."""
    largest = np.abs(weights).argmax(1, keepdims=True)
    d = np.take_along_axis(weights, largest, 1) / np.float32(-8)
    scaled = weights.astype(np.float64) * _inverse(d)
    return np.concatenate([_bytes16(d), _nibbles(np.clip(np.trunc(scaled + 8.5), 0, 15))], axis=1)


def dequantize_q4_1(blocks: np.ndarray) -> np.ndarray:
    """(N, 20) bytes to (N, 32) float32: w = d q + m."""
    return _float16(blocks[:, :2]) * _halves(blocks[:, 4:]) + _float16(blocks[:, 2:4])


def quantize_q4_1(weights: np.ndarray) -> np.ndarray:
    """(N, 32) float32 to (N, 20) bytes: codes from the smallest weight to the largest."""
    low, high = weights.min(1, keepdims=True), weights.max(1, keepdims=True)
    d = (high - low) / np.float32(15)
    codes = np.clip(np.trunc((weights - low) * _inverse(d) + np.float32(0.5)), 0, 15)
    return np.concatenate([_bytes16(d), _bytes16(low), _nibbles(codes)], axis=1)


def dequantize_q4_k(blocks: np.ndarray) -> np.ndarray:
    """(N, 144) bytes to (N, 256) float32: w = d s q - e m."""
    d, e = np.split(_float16(blocks[:, :4]), 2, axis=1)
    scales, minimums = _six_bits(blocks[:, 4:16])
    pairs = blocks[:, 16:].reshape(-1, SUBS // 2, SUB)  # two sub-blocks share 32 bytes
    codes = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(-1, SUBS, SUB)
    weights = (d * scales)[..., None] * codes - (e * minimums)[..., None]
    return weights.reshape(-1, SUBS * SUB).astype(np.float32)


def quantize_q4_k(weights: np.ndarray) -> np.ndarray:
    """(N, 256) float32 to (N, 144) bytes: scales and minimums of sub-blocks rounded to 6 bits."""
    parts = weights.reshape(-1, SUBS, SUB)
    low = np.minimum(parts.min(2), 0)
    steps, lows = (parts.max(2).clip(min=0) - low) / 15, -low
    d, e = (x.max(1, keepdims=True).astype(np.float32) / 63 for x in (steps, lows))
    stored = _bytes16(np.concatenate([d, e], axis=1))
    d, e = np.split(_float16(stored), 2, axis=1)  # codes are chosen for what is stored
    scales, minimums = (
        np.clip(np.rint(x * _inverse(unit)), 0, 63) for x, unit in ((steps, d), (lows, e))
    )
    step, low = (d * scales)[..., None], (e * minimums)[..., None]
    codes = np.clip(np.rint((parts + low) * _inverse(step)), 0, 15).astype(np.uint8)
    pairs = codes.reshape(-1, SUBS // 2, 2, SUB)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, SUBS * SUB // 2)
    return np.concatenate([stored, _pack_six_bits(scales, minimums), nibbles], axis=1)


def _six_bits(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and minimums (N, 8) of (N, 12) bytes: the first four of each in the lower 6 bits of
    bytes 0 to 7, whose upper 2 bits complete the nibbles of bytes 8 to 11 to the other four."""
    first, second, third = np.split(packed, 3, axis=1)
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    return scales, np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)


def _pack_six_bits(scales: np.ndarray, minimums: np.ndarray) -> np.ndarray:
    """The inverse of `_six_bits`."""
    s0, s1 = np.split(scales.astype(np.uint8), 2, axis=1)
    m0, m1 = np.split(minimums.astype(np.uint8), 2, axis=1)
    upper = [s0 | (s1 >> 4) << 6, m0 | (m1 >> 4) << 6, (s1 & 15) | (m1 & 15) << 4]
    return np.concatenate(upper, axis=1)


TYPES = {
    0: BlockType(
        "F32",
        1,
        4,
        lambda blocks: blocks.copy().view(np.float32),
        lambda w: w.copy().view(np.uint8),
    ),
    1: BlockType("F16", 1, 2, _float16, _bytes16),
    2: BlockType("Q4_0", 32, 18, dequantize_q4_0, quantize_q4_0),
    3: BlockType("Q4_1", 32, 20, dequantize_q4_1, quantize_q4_1),
    8: BlockType("Q8_0", 32, 34, dequantize_q8_0, quantize_q8_0),
    12: BlockType("Q4_K", 256, 144, dequantize_q4_k, quantize_q4_k),
}
