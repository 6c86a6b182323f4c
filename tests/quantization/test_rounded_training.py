"""Ternary weights, straight-through gradients, and models that train with rounded weights."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.models import DecoderLM, ModelConfig
from course_utils.moe import MoEConfig
from course_utils.quantization import QuantizationArgs, fake_quantize
from course_utils.quantization.qat import (
    QuantizationAware,
    fake_affine,
    fake_ternary,
    straight_through,
)
from course_utils.quantization.ternary import (
    dequantize_ternary,
    pack_ternary,
    quantize_activations,
    quantize_ternary,
    ternary_linear,
    unpack_ternary,
)
from course_utils.training import TrainingConfig, train

SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
CONFIG = ModelConfig(**SIZES, max_position_embeddings=64)
EXPERTS = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
SPARSE = ModelConfig(**SIZES, max_position_embeddings=64, moe=EXPERTS)
FOUR = partial(fake_affine, args=QuantizationArgs(4, True, "group", 32))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 6), st.integers(1, 23), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_five_ternary_codes_fit_a_byte(rows, columns, seed):
    codes, _ = quantize_ternary(normal(rows, columns, seed=seed))
    packed = pack_ternary(codes)
    assert packed.shape == (rows, -(-columns // 5)) and packed.dtype == torch.uint8
    assert torch.equal(unpack_ternary(packed, columns), codes)


@given(st.integers(0, 999), st.integers(-10, 10))
@settings(max_examples=30, deadline=None)
def test_ternary_scales_with_the_weight(seed, power):
    weight = normal(6, 8, seed=seed)
    codes, scale = quantize_ternary(weight)
    more, larger = quantize_ternary(weight * 2.0**power)
    assert torch.equal(codes, more) and torch.allclose(scale * 2.0**power, larger)


def test_ternary_product_is_that_of_the_rounded_numbers():
    x_TD, (codes, scale) = normal(5, 64), quantize_ternary(normal(10, 64, seed=1))
    x_codes, x_scale = quantize_activations(x_TD)
    assert (x_codes.abs().amax(-1) == 127).all()
    expected = (x_codes * x_scale) @ dequantize_ternary(codes, scale).T
    assert torch.allclose(ternary_linear(x_TD, codes, scale), expected, atol=1e-4)


def test_ternary_of_zeros_and_of_infinities():
    codes, _ = quantize_ternary(torch.zeros(3, 4))
    assert not codes.any()
    with pytest.raises(ValueError, match="inf in row 1"):
        quantize_ternary(torch.tensor([[1.0], [float("inf")]]))


def test_gradient_is_one_inside_and_zero_where_clamped():
    weight = torch.tensor([[0.2, 0.9, 3.0, -7.0]], requires_grad=True)
    y = straight_through(weight, torch.tensor(0.5), -2, 1)
    y.sum().backward()
    assert y.tolist() == [[0.0, 0.5, 0.5, -1.0]]
    assert weight.grad.tolist() == [[1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_fake_affine_has_the_values_of_fake_quantize(bits, symmetric):
    args = QuantizationArgs(bits, symmetric, "group", 16)
    weight = normal(6, 32).requires_grad_()
    rounded = fake_affine(weight, args)
    assert torch.allclose(rounded, fake_quantize(weight.detach(), args), atol=1e-6)
    rounded.sum().backward()
    assert (weight.grad == 1).float().mean() > 0.9  # at most a few codes stand at a limit


def test_ternary_gradient_passes_the_clamp():
    weight = normal(4, 8).requires_grad_()
    fake_ternary(weight).sum().backward()
    assert (weight.grad == 1).all()


def test_the_model_runs_with_rounded_weights_and_keeps_full_ones():
    model = DecoderLM(CONFIG)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    aware = QuantizationAware(model, {"*_proj.weight": fake_ternary})
    ids = torch.arange(12)[None]
    with torch.no_grad():
        rounded, full = aware(ids), model(ids)
    assert not torch.allclose(rounded, full)
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(aware.bake()(ids), rounded)
    assert len(model.model.layers[0].mlp.up_proj.weight.unique()) == 3
    table = "model.embed_tokens.weight"
    assert torch.equal(before[table], model.state_dict()[table])


def test_experts_alone_are_rounded_along_their_inputs():
    model = DecoderLM(SPARSE)
    aware = QuantizationAware(model, {"*.mlp.experts.*": FOUR})
    assert len(aware.roundings) == 6
    name = "model.layers.1.mlp.experts.w_gate_EDF"
    stack_EDF = dict(model.named_parameters())[name].detach()
    expected = fake_quantize(stack_EDF.mT, QuantizationArgs(4, True, "group", 32)).mT
    assert torch.allclose(aware.rounded()[name], expected, atol=1e-7)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert not torch.equal(aware(ids), model(ids))


def test_training_moves_the_full_weights_and_lowers_the_rounded_loss():
    aware = QuantizationAware(DecoderLM(CONFIG), {"*_proj.weight": fake_ternary})
    stream = torch.arange(400) * 7 % 40
    config = TrainingConfig(30, batch=4, length=16, peak_learning_rate=1e-2, warmup_steps=2)
    start = aware.model.model.layers[0].mlp.up_proj.weight.detach().clone()
    state = train(aware, stream, config, progress=False)
    assert state.losses[-1] < 0.7 * state.losses[0]
    assert not torch.equal(start, aware.model.model.layers[0].mlp.up_proj.weight)


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(ValueError, match="fits no weight"):
        QuantizationAware(DecoderLM(CONFIG), {"*.experts.*": FOUR})
