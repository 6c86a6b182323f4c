"""Folders in the layout of compressed-tensors, loaded by `transformers`: the same logits.

These run in the oracles' environment (`make oracles`).
"""

import copy

import pytest
import torch

from course_utils.data.assets import AssetMissing
from course_utils.models import shipped
from course_utils.models.pretrained import smollm2
from course_utils.quantization import PackedWeight, QuantizationArgs, quantize_model
from course_utils.quantization.compressed_tensors import layer_tensors, save_compressed_tensors

pytest.importorskip("compressed_tensors", reason="the oracles' environment has it: make oracles")
INT8, INT4 = QuantizationArgs(8), QuantizationArgs(4, True, "group", 32)
ASYMMETRIC = QuantizationArgs(4, False, "group", 64)
RECIPES = {
    "int8": INT8,
    "int4": INT4,
    "three bits": QuantizationArgs(3),
    "mixed": {"lm_head": None, "*.mlp.*": INT4, "*": INT8},
}


@torch.no_grad()
def both(model, folder, ids):
    """Logits of the model, weights dequantized, and of `transformers` on the folder."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model(ids), theirs(ids).logits


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_transformers_loads_the_course_model(tmp_path, recipe):
    quantized = quantize_model(shipped("dense"), recipe, "dequantize")
    written = save_compressed_tensors(quantized, tmp_path, torch.float32)
    full = sum(weight.nbytes for weight in shipped("dense").parameters())
    assert written < full * 0.55  # the table, a quarter of the model, is written in full
    ids = torch.randint(4000, (2, 24), generator=torch.Generator().manual_seed(0))
    ours, theirs = both(quantized, tmp_path, ids)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=2e-3)


def test_transformers_loads_smollm2(tmp_path):
    try:
        smol = smollm2()
    except AssetMissing as missing:
        pytest.skip(str(missing))
    recipe = {"lm_head": None, "*": INT4}
    quantized = quantize_model(copy.deepcopy(smol.model), recipe, "dequantize")
    save_compressed_tensors(quantized, tmp_path)
    ids = smol.chat_ids("Name a river in France.")
    ours, theirs = both(quantized, tmp_path, ids)
    assert (ours - theirs).norm() < 0.02 * ours.norm()  # table and norms in bfloat16


def test_the_tensors_are_those_of_its_compressor():
    """With zero points, which `transformers` 5.23 does not load."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization import QuantizationArgs as TheirArgs
    from compressed_tensors.quantization import QuantizationScheme

    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(0)) + 0.3
    packed = PackedWeight.quantize(weight, ASYMMETRIC)
    tensors = layer_tensors(packed)
    signed = (packed.codes().int() - 8).to(torch.int8)
    zeros = (packed.zero_point.int() - 8).to(torch.int8)
    assert torch.equal(tensors["weight_packed"], pack_to_int32(signed, 4))
    assert torch.equal(tensors["weight_zero_point"], pack_to_int32(zeros, 4, packed_dim=0))
    assert tensors["weight_shape"].tolist() == [48, 128]
    args = TheirArgs(num_bits=4, symmetric=False, strategy="group", group_size=64)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    back = PackedQuantizationCompressor.decompress(tensors, scheme)["weight"]
    torch.testing.assert_close(back.float(), packed.dequantize(torch.bfloat16).float())
