"""Affine integers and their packing as others compute them: torchao and compressed-tensors.

These run in the oracles' environment (`make oracles`).
"""

import pytest
import torch

from course_utils.quantization import (
    PackedWeight,
    QuantizationArgs,
    choose_qparams,
    dequantize,
    pack,
    quantize,
)
from course_utils.quantization.packing import as_int32, from_int32
from course_utils.quantization.schemes import WIDTHS

torchao = pytest.importorskip(
    "torchao.quantization.quant_primitives", reason="the oracles' environment has it: make oracles"
)
packing = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers")
theirs = pytest.importorskip("compressed_tensors.quantization")
forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")

SHARINGS = [("tensor", None), ("channel", None), ("group", 32)]
ROWS, COLUMNS = 24, 96


@pytest.fixture(name="weight_OI")
def weight():
    """Random weights, one row of them far off 0, one constant, one with an outlier."""
    weight_OI = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    weight_OI[1] += 5
    weight_OI[2] = 0.25
    weight_OI[3, 7] = 40
    return weight_OI


def all_schemes():
    return [
        QuantizationArgs(bits, symmetric, *sharing)
        for bits in WIDTHS
        for symmetric in (True, False)
        for sharing in SHARINGS
    ]


@pytest.mark.parametrize("args", all_schemes(), ids=str)
def test_torchao_chooses_the_same_scales_and_codes(args, weight_OI):
    block = {"tensor": (ROWS, COLUMNS), "channel": (1, COLUMNS), "group": (1, 32)}[args.strategy]
    kind = torchao.MappingType
    mapping = kind.SYMMETRIC if args.symmetric else kind.ASYMMETRIC
    dtype = torch.int8 if args.symmetric else torch.uint8
    limits = (args.q_min, args.q_max)
    scale, zero = torchao.choose_qparams_affine(
        weight_OI, mapping, block, dtype, *limits, eps=1e-12, scale_dtype=torch.float32
    )
    codes = torchao.quantize_affine(weight_OI, block, scale, zero, dtype, *limits)
    back = torchao.dequantize_affine(codes, block, scale, zero, dtype, *limits)

    scale_OS, zero_OS = choose_qparams(weight_OI, args)
    torch.testing.assert_close(scale_OS.flatten(), scale.flatten(), rtol=1e-6, atol=0)
    if not args.symmetric:
        assert torch.equal(zero_OS.flatten(), zero.flatten())
    ours = quantize(weight_OI, scale.view_as(scale_OS), zero_OS, args)
    # torchao multiplies by 1 / scale: at a half (largest weights, the constant row) the last bit
    # decides
    per_weight = scale.view_as(scale_OS).repeat_interleave(COLUMNS // scale_OS.shape[-1], -1)
    tie = ((weight_OI / per_weight).remainder(1) - 0.5).abs() < 1e-4
    assert torch.equal(ours[~tie], codes[~tie]) and tie.float().mean() < 0.1
    assert (ours.int() - codes.int()).abs().max() <= 1
    torch.testing.assert_close(dequantize(codes, scale.view_as(scale_OS), zero_OS, args), back)


@pytest.mark.parametrize("args", all_schemes(), ids=str)
def test_compressed_tensors_chooses_the_same_codes(args, weight_OI):
    """Its codes are signed in either case: an asymmetric one is ours less half the range."""
    their_args = theirs.QuantizationArgs(
        num_bits=args.num_bits,
        symmetric=args.symmetric,
        strategy=args.strategy,
        group_size=args.group_size,
    )
    scale_OS, zero_OS = choose_qparams(weight_OI, args)
    groups = weight_OI.view(ROWS, -1, 32) if args.strategy == "group" else weight_OI[:, None]
    over = (0, 1, 2) if args.strategy == "tensor" else (-1,)
    low, high = groups.amin(over), groups.amax(over)
    scale, zero = helpers.calculate_qparams(low, high, their_args)
    torch.testing.assert_close(scale_OS.flatten(), scale.flatten(), rtol=1e-6, atol=0)
    half = 0 if args.symmetric else 2 ** (args.num_bits - 1)
    assert torch.equal(zero_OS.flatten() - half, zero.flatten().to(torch.int32))

    given = (scale.view(scale_OS.shape), zero.view(scale_OS.shape))
    given = given if args.strategy != "tensor" else (scale, zero)
    codes = forward.quantize(weight_OI, *given, their_args)
    ours = quantize(weight_OI, scale.view(scale_OS.shape), zero_OS, args).float() - half
    assert torch.equal(ours, codes)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("columns", [32, 40, 45])
def test_the_bits_are_those_of_compressed_tensors(bits, columns):
    half = 2 ** (bits - 1)
    generator = torch.Generator().manual_seed(columns)
    codes = torch.randint(-half, half, (5, columns), generator=generator).to(torch.int8)
    words = packing.pack_to_int32(codes, bits)
    assert torch.equal(as_int32(pack(codes, bits)), words)
    assert torch.equal(from_int32(words, bits, columns), pack(codes, bits))
    shape = torch.Size(codes.shape)
    assert torch.equal(packing.unpack_from_int32(as_int32(pack(codes, bits)), bits, shape), codes)


def test_a_packed_weight_is_what_compressed_tensors_unpacks(weight_OI):
    args = QuantizationArgs(4, False, "group", 32)
    packed = PackedWeight.quantize(weight_OI, args)
    codes = packing.unpack_from_int32(as_int32(packed.packed), 4, torch.Size(weight_OI.shape))
    their_args = theirs.QuantizationArgs(
        num_bits=4, symmetric=False, strategy="group", group_size=32
    )
    back = forward.dequantize(
        codes.float(), packed.scale.float(), packed.zero_point.float() - 8, their_args
    )
    torch.testing.assert_close(back, packed.dequantize())
