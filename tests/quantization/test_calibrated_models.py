"""Whole models: scales folded without a change, AWQ in codes, rounded activations, refusals."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM
from course_utils.moe import MoEConfig
from course_utils.quantization import QuantizationArgs, already_on_grid
from course_utils.quantization.activation_rounding import one_scale_matmul, products
from course_utils.quantization.awq_model import awq_model
from course_utils.quantization.calibration import collect, linear_layers
from course_utils.quantization.gptq import gptq, round_to_nearest
from course_utils.quantization.gptq_model import gptq_model, grouped, pack_codes
from course_utils.quantization.llm_int8 import int8_matmul
from course_utils.quantization.smoothquant import fold, norm_readers, smooth_model

IDS = torch.randint(96, (4, 24), generator=torch.Generator().manual_seed(0))


def model(**extra) -> DecoderLM:
    """A small decoder with weights large enough to matter, and norms that are not all 1."""
    sizes = {"intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64}
    built = DecoderLM(ModelConfig(96, 48, **(sizes | extra)), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in built.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
            else:
                weight.copy_(0.5 + torch.rand(weight.shape, generator=generator))
    return built


def plant(built: DecoderLM, factor: float = 40.0) -> DecoderLM:
    """The same function; two channels of each norm are larger, their readers smaller."""
    with torch.no_grad():
        for norm_I, readers in norm_readers(built):
            scale_I = torch.ones_like(norm_I)
            scale_I[[5, 11]] = 1 / factor
            fold(norm_I, [part.weight for part in readers.values()], scale_I)
    return built


def distance(got, expected) -> float:
    return float((got - expected).norm() / expected.norm())


@torch.no_grad()
def test_smoothing_changes_no_output_and_repairs_eight_bits_with_outliers():
    plain = plant(model())
    expected = plain(IDS)
    torch.testing.assert_close(expected, model()(IDS), rtol=1e-3, atol=1e-4)
    smooth = smooth_model(copy.deepcopy(plain), collect(plain, IDS))
    torch.testing.assert_close(smooth(IDS), expected, rtol=1e-3, atol=1e-3)
    errors = []
    for one in (plain, smooth):
        with products(one, one_scale_matmul):
            errors.append(distance(one(IDS), expected))
    assert errors[1] < errors[0] / 2


@torch.no_grad()
def test_every_linear_layer_is_given_the_product_and_gets_its_own_back():
    built, shapes = model(), []

    def counting(x_TI, weight_OI):
        shapes.append((tuple(x_TI.shape), tuple(weight_OI.shape)))
        return x_TI @ weight_OI.T

    expected = built(IDS)
    with products(built, counting) as same:
        torch.testing.assert_close(same(IDS), expected)
    assert len(shapes) == len(linear_layers(built)) == 14
    assert shapes[0] == ((96, 48), (48, 48))
    with products(built, int8_matmul):
        rounded = built(IDS)
    assert 0 < distance(rounded, expected) < 0.05
    with pytest.raises(RuntimeError, match="stop"), products(built, int8_matmul):
        raise RuntimeError("stop")
    assert torch.equal(built(IDS), expected) and len(shapes) == 14


def test_a_layer_with_a_bias_is_refused():
    built = model()
    built.model.layers[1].mlp.up_proj.bias = torch.nn.Parameter(torch.zeros(96))
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj has a bias"):
        with products(built, int8_matmul):
            pass


@torch.no_grad()
def test_awq_folds_its_scales_and_what_remains_is_codes():
    plain = plant(model())
    expected, stats = plain(IDS), collect(plain, IDS)
    nearest, scaled = copy.deepcopy(plain), copy.deepcopy(plain)
    codes = awq_model(scaled, stats, grouped(4, 24))
    assert set(codes) == {f"{name}.weight" for name in linear_layers(plain)}
    for name, part in linear_layers(scaled).items():
        assert torch.equal(part.weight, codes[f"{name}.weight"].dequantize())
        assert already_on_grid(part.weight, codes[f"{name}.weight"].args)
        args = grouped(4, 24)(name, part.in_features)
        near = linear_layers(nearest)[name].weight
        near.copy_(round_to_nearest(near, args).dequantize())
    assert distance(scaled(IDS), expected) < 0.7 * distance(nearest(IDS), expected)
    assert len(pack_codes(codes)) == 14
    exact = copy.deepcopy(plain)
    awq_model(exact, stats, grouped(8, 12))  # what was folded is undone by what it was folded into
    assert distance(exact(IDS), expected) < 0.02


@torch.no_grad()
def test_scales_are_not_folded_into_norms_that_experts_read():
    built = model(moe=MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32))
    stats = collect(built, IDS)
    for change in (
        lambda: smooth_model(built, stats),
        lambda: awq_model(built, stats, grouped(4, 24)),
    ):
        with pytest.raises(ValueError, match=r"layers\.0 has a MoE: scales are folded into the"):
            change()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@torch.no_grad()
def test_infinities_and_nan_are_refused_and_the_layer_is_named(value):
    built = model()
    built.model.layers[1].input_layernorm.weight[3] = value
    message = r"input of model\.layers\.1\.self_attn\.q_proj holds -?(inf|nan) in row 0, column 3"
    with pytest.raises(ValueError, match=message):
        collect(built, IDS)
    with pytest.raises(ValueError, match=message):
        gptq_model(built, IDS, grouped(4, 24))
    broken, hessian_II = torch.ones(4, 24), torch.eye(24)
    broken[2, 7] = value
    for search in (False, True):
        with pytest.raises(ValueError, match=r"weight holds (inf|nan) in row 2, column 7"):
            gptq(broken, hessian_II, QuantizationArgs(4), search=search)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(-6, 6), st.integers(-6, 6), st.booleans(), st.booleans())
def test_gptq_does_not_mind_the_scale_of_weights_and_inputs(seed, of_w, of_x, search, act_order):
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(12, 32, generator=generator)
    x_TI = torch.randn(100, 32, generator=generator)
    hessian_II, args = x_TI.T @ x_TI / 100, QuantizationArgs(3, False, "group", 16)
    options = {"search": search, "act_order": act_order}
    one = gptq(weight_OI, hessian_II, args, **options)
    other = gptq(weight_OI * 2.0**of_w, hessian_II * 4.0**of_x, args, **options)
    assert torch.equal(one.codes_OI, other.codes_OI)  # powers of 2 round nothing
    torch.testing.assert_close(other.scale_OS, one.scale_OS * 2.0**of_w, rtol=1e-6, atol=0)
