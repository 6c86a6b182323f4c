"""SmolLM2 in 8 and 4 bits: what it decodes is what the dequantized model says, from fewer bytes."""

import copy

import pytest
import torch

from course_utils.data.assets import AssetMissing
from course_utils.models.pretrained import smollm2
from course_utils.quantization import (
    PackedWeight,
    QuantizationArgs,
    already_on_grid,
    bits_per_weight,
    explain,
    quantize_model,
    weight_bytes,
)
from course_utils.quantization.fast_decode import FastDecoder
from course_utils.quantization.model import resolve

INT8 = QuantizationArgs(8)
TEXT = "Water boils at a lower temperature on a mountain because the air pressure is lower there."


@pytest.fixture(scope="module")
def smol():
    try:
        return smollm2()
    except AssetMissing as missing:
        pytest.skip(str(missing))


@torch.no_grad()
@pytest.mark.parametrize(
    ("recipe", "kernels", "most_bits"),
    [
        (INT8, {"int8"}, 8.1),
        ({"lm_head": INT8, "*": QuantizationArgs(4, True, "group", 32)}, {"int4", "int8"}, 5.9),
    ],
    ids=["int8", "int4"],
)
def test_decoding_gives_the_logits_of_the_dequantized_model(smol, recipe, kernels, most_bits):
    """Token by token through the cache, from packed weights and with bfloat16 activations."""
    ids_1T = torch.tensor([smol.tokenizer.encode(TEXT)])
    quantized = quantize_model(copy.deepcopy(smol.model), recipe)
    assert {row["kernel"] for row in explain(quantized)} == kernels
    dequantized = copy.deepcopy(smol.model)
    modules = dict(dequantized.named_modules())
    for name, args in resolve(recipe, dequantized).items():
        weight = modules[name].weight
        weight.data = PackedWeight.quantize(weight.data, args).dequantize()
    modules["model.embed_tokens"].weight = modules["lm_head"].weight
    expected = dequantized(ids_1T)
    fast = FastDecoder(quantized)
    assert bits_per_weight(fast) < most_bits
    assert weight_bytes(fast) < 0.26 * weight_bytes(smol.model)
    cache = fast.new_cache(capacity=ids_1T.shape[1])
    got = torch.cat([fast(token.view(1, 1), cache) for token in ids_1T[0]], dim=1)
    assert (got - expected).norm() < 0.02 * expected.norm()
    agree = got.argmax(-1) == expected.argmax(-1)
    close = expected.topk(2).values.diff().abs()[..., 0] < 0.3  # where the best two are rivals
    assert (agree | close).all()


def test_the_file_of_smollm2_is_on_a_grid_of_four_bits_already(smol):
    grid = QuantizationArgs(4, False, "group", 32)
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        weight = smol.model.get_parameter(f"model.layers.7.{name}.weight").detach()
        assert already_on_grid(weight, grid)
        assert not already_on_grid(weight, QuantizationArgs(3, False, "group", 32))
    head = smol.model.lm_head.weight.detach()[:64]
    assert already_on_grid(head, QuantizationArgs(8, True, "group", 32))  # Q8_0
    assert not already_on_grid(head, grid)
