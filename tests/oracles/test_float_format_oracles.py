"""Float formats, ternary weights and rounded training as others compute them: equal values.

These run in the oracles' environment (`make oracles`). Weights have rows of zeros, rows of very
different size, and outliers.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from course_utils.quantization import QuantizationArgs, choose_qparams
from course_utils.quantization.fp8 import dequantize_fp8, quantize_fp8
from course_utils.quantization.mxfp4 import dequantize_mxfp4, quantize_mxfp4
from course_utils.quantization.nf4 import dequantize_nf4, quantize_nf4
from course_utils.quantization.qat import fake_affine, fake_ternary
from course_utils.quantization.ternary import quantize_activations, quantize_ternary

REASON = "the oracles' environment has it: make oracles"


def weight(rows: int = 256, columns: int = 384, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** (6 * torch.rand(rows, 1, generator=g) - 4)
    found = torch.randn(rows, columns, generator=g) * sizes
    found[3] = 0
    found[5, 7] = -1000.0
    return found


def test_mxfp4_bytes_are_those_of_torchao():
    pytest.importorskip("torchao", reason=REASON)
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    theirs = MXTensor.to_mx(weight(), torch.float4_e2m1fn_x2, 32)
    packed, exponents = quantize_mxfp4(weight())
    assert torch.equal(theirs.scale.view(torch.uint8).reshape(exponents.shape), exponents)
    assert torch.equal(theirs.qdata.view(torch.uint8).reshape(packed.shape), packed)
    read = dequantize_mxfp4(packed, exponents)
    assert torch.equal(theirs.dequantize(torch.float32), read)


def test_mxfp4_values_are_those_of_gguf():
    gguf = pytest.importorskip("gguf", reason=REASON)
    kind = gguf.GGMLQuantizationType.MXFP4
    blocks = gguf.quants.quantize(weight().numpy(), kind)
    assert blocks.shape[-1] == 384 // 32 * 17
    theirs = gguf.quants.dequantize(blocks, kind)
    assert np.array_equal(theirs, dequantize_mxfp4(*quantize_mxfp4(weight())).numpy())


def test_transformers_reads_our_mxfp4_as_gpt_oss():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    pairs = [quantize_mxfp4(weight(seed=seed)) for seed in (0, 1)]
    packed, exponents = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    theirs_EIO = convert_moe_packed_tensors(packed, exponents, dtype=torch.float32)
    ours_EOI = torch.stack([dequantize_mxfp4(*pair) for pair in pairs])
    assert torch.equal(theirs_EIO.mT, ours_EOI)


@pytest.mark.parametrize("block", [(128, 128), (1, 128)])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_blocks_are_those_of_torchao(block, dtype):
    pytest.importorskip("torchao", reason=REASON)
    from torchao.quantization.quant_primitives import (
        _choose_scale_float8,
        _dequantize_affine_float8,
        _quantize_affine_float8,
    )

    given = weight()
    given[3] = 1e-3  # torchao gives a tile of zeros the scale eps, ours is 1
    scale = _choose_scale_float8(given, block, dtype)
    codes = _quantize_affine_float8(given, scale, dtype)
    ours, our_scale = quantize_fp8(given, block, dtype)
    assert torch.allclose(scale.reshape(our_scale.shape), our_scale, rtol=1e-6)
    assert (codes.view(torch.uint8) == ours.view(torch.uint8)).float().mean() > 0.9999
    read = _dequantize_affine_float8(ours, our_scale)
    assert torch.equal(read, dequantize_fp8(ours, our_scale, block))


def test_nf4_is_that_of_bitsandbytes():
    pytest.importorskip("bitsandbytes", reason=REASON)
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    options = {"quant_type": "nf4", "blocksize": 64, "compress_statistics": False}
    theirs, state = quantize_4bit(weight(), **options)
    packed, scale = quantize_nf4(weight())
    assert torch.equal(theirs.flatten(), packed)
    assert torch.equal(state.absmax, scale)
    ours = dequantize_nf4(packed, scale, (256, 384))
    assert torch.equal(dequantize_4bit(theirs, state), ours)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounded_training_is_that_of_torchao(bits):
    """Symmetric alone: for groups, its fake quantizer drops the zero point of asymmetric ones."""
    pytest.importorskip("torchao", reason=REASON)
    from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

    dtype = {2: torch.int2, 4: torch.int4, 8: torch.int8}[bits]
    config = IntxFakeQuantizeConfig(dtype, group_size=32, is_symmetric=True)
    args = QuantizationArgs(bits, True, "group", 32)
    push = torch.randn(256, 384, generator=torch.Generator().manual_seed(9))
    values, gradients = [], []
    for rounding in (IntxFakeQuantizer(config), lambda w: fake_affine(w, args)):
        full = (weight() + 1e-6).requires_grad_()
        rounded = rounding(full)
        (rounded * push).sum().backward()
        values.append(rounded.detach())
        gradients.append(full.grad)
    # They multiply by 1 / scale where we divide. Halfway between two codes, where the largest of
    # every symmetric group lies, the last bit decides: there codes may be neighbours.
    scale_OS, _ = choose_qparams(full.detach(), args)
    scale_OI = scale_OS.repeat_interleave(32, 1)
    steps = full.detach() / scale_OI
    halfway = (steps - steps.floor() - 0.5).abs() < 1e-3
    assert halfway.float().mean() < 0.05
    codes = [(values[n] / scale_OI)[~halfway] for n in (0, 1)]
    assert torch.allclose(*codes, atol=1e-4)
    assert torch.allclose(*[gradients[n][~halfway] for n in (0, 1)])


def test_ternary_is_that_of_bitnet_in_transformers():
    from transformers.integrations import bitnet

    with torch.compiler.set_stance("force_eager"):
        full = weight().requires_grad_()
        theirs = bitnet.WeightQuant.apply(full)
        theirs.sum().backward()
        mine = weight().requires_grad_()
        ours = fake_ternary(mine)
        ours.sum().backward()
        assert torch.allclose(theirs, ours, rtol=1e-5)
        assert torch.equal(full.grad, mine.grad)
        x_TD = weight(20, 64)
        layer = bitnet.BitLinear(64, 8, bias=False)
        theirs, inverse = layer.activation_quant(x_TD)
    codes, scale = quantize_activations(x_TD)
    assert torch.equal(theirs, codes)
    assert torch.allclose(1 / inverse, scale)
    codes, _ = quantize_ternary(weight(8, 64))
    read = bitnet.unpack_weights(bitnet.pack_weights(codes.clone()), torch.float32)
    assert torch.equal(read, codes.float())
