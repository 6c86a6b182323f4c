"""GPTQ: the errors of a column are handed on, and the output of the layer is what stays near."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM
from course_utils.moe import MoEConfig
from course_utils.quantization import (
    QuantizationArgs,
    choose_qparams,
    dequantize,
    install_weights,
    quantize,
)
from course_utils.quantization.gptq import (
    gptq,
    inverse_cholesky,
    output_error,
    round_columns,
    round_to_nearest,
)
from course_utils.quantization.gptq_model import gptq_model, grouped, pack_codes
from course_utils.quantization.scale_search import search_qparams

GROUP4 = QuantizationArgs(4, False, "group", 16)


def layer(seed: int = 0, rows: int = 24, columns: int = 48, tokens: int = 300):
    """A random weight, and H of inputs that go together, as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(rows, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator)
    x_TI = torch.randn(tokens, columns, generator=generator) @ mixing
    return weight_OI, x_TI.T @ x_TI / tokens


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4]), st.booleans())
def test_the_output_is_nearer_than_after_rounding_to_nearest(seed, bits, act_order):
    weight_OI, hessian_II = layer(seed)
    args = QuantizationArgs(bits, False, "group", 16)
    ours = gptq(weight_OI, hessian_II, args, act_order=act_order).dequantize()
    nearest = round_to_nearest(weight_OI, args).dequantize()
    assert output_error(weight_OI, ours, hessian_II) < output_error(weight_OI, nearest, hessian_II)
    assert (ours - weight_OI).norm() > (nearest - weight_OI).norm()  # and the weights are farther


@pytest.mark.parametrize(
    "args", [GROUP4, QuantizationArgs(3), QuantizationArgs(2, False, "tensor")]
)
@pytest.mark.parametrize("act_order", [False, True])
def test_blocks_of_columns_give_the_codes_of_single_columns(args, act_order):
    weight_OI, hessian_II = layer(columns=144)
    options = {"act_order": act_order}
    one = gptq(weight_OI, hessian_II, args, round_weights=round_columns, **options)
    other = gptq(weight_OI, hessian_II, args, **options)
    assert (one.codes_OI != other.codes_OI).float().mean() < 0.002  # sums in another order


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3])
def test_searched_scales_clamp_a_few_and_serve_the_rest(bits, symmetric):
    weight_OI, hessian_II = layer()
    args = QuantizationArgs(bits, symmetric, "group", 16)
    scale_OS, zero_OS = search_qparams(weight_OI, args)
    full_OS, full_zero_OS = choose_qparams(weight_OI, args)
    assert (scale_OS <= full_OS).all() and (scale_OS < full_OS).any()
    codes = quantize(weight_OI, scale_OS, zero_OS, args)
    error = (dequantize(codes, scale_OS, zero_OS, args) - weight_OI).square().sum()
    codes = quantize(weight_OI, full_OS, full_zero_OS, args)
    assert error < (dequantize(codes, full_OS, full_zero_OS, args) - weight_OI).square().sum()
    searched = gptq(weight_OI, hessian_II, args, search=True).dequantize()
    nearest = round_to_nearest(weight_OI, args).dequantize()
    errors = [output_error(weight_OI, one, hessian_II) for one in (searched, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(ValueError, match="one scale for a whole tensor is not searched"):
        search_qparams(torch.ones(2, 8), QuantizationArgs(2, strategy="tensor"))


def test_inputs_that_do_not_go_together_leave_nothing_to_hand_on():
    weight_OI, _ = layer()
    found = gptq(weight_OI, torch.eye(48), GROUP4)
    assert torch.equal(found.codes_OI, round_to_nearest(weight_OI, GROUP4).codes_OI)


def test_inputs_that_are_never_there_are_free():
    weight_OI, hessian_II = layer()
    hessian_II[5] = hessian_II[:, 5] = 0
    assert (gptq(weight_OI, hessian_II, GROUP4).dequantize()[:, 5] == 0).all()


def test_the_factor_is_that_of_the_inverse_and_too_little_damping_is_named():
    _, hessian_II = layer()
    upper_II = inverse_cholesky(hessian_II, damp=0.01)
    damped = hessian_II + 0.01 * hessian_II.diagonal().mean() * torch.eye(48)
    torch.testing.assert_close(upper_II.T @ upper_II @ damped, torch.eye(48), rtol=1e-3, atol=1e-3)
    few = torch.randn(3, 48)
    with pytest.raises(ValueError, match=r"no Cholesky factor with damp=0\.0: give more calib"):
        inverse_cholesky(few.T @ few - 1e-3 * torch.eye(48), damp=0.0)


def model(experts: bool) -> DecoderLM:
    extra = {}
    if experts:
        extra["moe"] = MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    config = ModelConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        **extra,
    )
    built = DecoderLM(config, seed=1).eval()
    with torch.no_grad():
        for weight in built.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    return built


@pytest.mark.parametrize("experts", [False, True])
@torch.no_grad()
def test_a_whole_model_is_rounded_and_runs_from_its_packed_codes(experts):
    ids = torch.randint(96, (8, 32), generator=torch.Generator().manual_seed(0))
    plain, rounded = model(experts), model(experts)
    codes = gptq_model(rounded, ids, grouped(4, 32))
    packed = pack_codes(codes)
    small = install_weights(copy.deepcopy(plain), packed, "dequantize")
    expected, got = rounded(ids[:2]), small(ids[:2])
    assert (got - expected).norm() < (0.15 if experts else 0.02) * expected.norm()
    assert (rounded(ids[:2]) - plain(ids[:2])).norm() > 0
    assert sum(weight.nbytes() for weight in packed.values()) < 0.2 * sum(
        weight.nbytes for name, weight in plain.named_parameters() if "embed" not in name
    )
