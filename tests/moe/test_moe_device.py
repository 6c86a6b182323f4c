"""Experts on a GPU: the CPU's results in every precision, unused and identity experts too."""

import pytest
import torch

from course_utils.models import DecoderLM, ModelConfig
from course_utils.moe import MoE, MoEConfig, experts_fast, experts_grouped, experts_loop
from course_utils.training import TrainingConfig, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)]
)


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def value_and_gradients(dispatch, inputs, **options) -> list[torch.Tensor]:
    leaves = [t for t in inputs if t.is_floating_point()]
    y_TD = dispatch(*inputs, **options)
    gradients = torch.autograd.grad(y_TD, leaves, torch.ones_like(y_TD) + y_TD.detach())
    return [tensor.detach().double().cpu() for tensor in (y_TD, *gradients)]


@PRECISIONS
@pytest.mark.parametrize("dispatch", [experts_fast, experts_grouped])
@pytest.mark.parametrize("identities", [0, 8])
@pytest.mark.parametrize("T", [1, 5, 200])
def test_values_and_gradients_are_those_of_the_cpu(T, identities, dispatch, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    E, D, width, k = 16, 64, 32, 4
    experts_TK = torch.rand(T, E - 3 + identities, generator=generator).topk(k).indices
    experts_TK += 3 * (experts_TK >= E - 3)  # real experts 13 to 15 are never chosen
    shapes = ((T, D), (T, k), (E, D, width), (E, D, width), (E, width, D))
    floats = [torch.randn(shape, generator=generator) for shape in shapes]
    x_TD, weights_TK, *stacked = [t * (0.2 if t.dim() == 3 else 1) for t in floats]
    rounded = [t.to(dtype) for t in (x_TD, weights_TK, *stacked)]
    here = [t.double().requires_grad_() for t in rounded]
    there = [t.cuda().requires_grad_() for t in rounded]
    expected = value_and_gradients(experts_loop, [here[0], experts_TK, *here[1:]])
    inputs = [there[0], experts_TK.cuda(), *there[1:]]
    for options in [{}] if identities else [{}, {"identity": False}]:
        for mine, theirs in zip(
            value_and_gradients(dispatch, inputs, **options), expected, strict=True
        ):
            atol = tolerance * max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


@PRECISIONS
def test_no_tokens(dtype, tolerance):
    layer = MoE(64, MoEConfig(8, 2, 32)).to("cuda", dtype)
    y_TD = layer(torch.zeros(0, 64, device="cuda", dtype=dtype, requires_grad=True))
    y_TD.sum().backward()
    assert y_TD.shape == (0, 64)
    assert all(w.grad is None or w.grad.abs().max() == 0 for w in layer.experts.parameters())


def test_nothing_waits_for_the_device_in_bfloat16():
    layer = MoE(64, MoEConfig(8, 2, 32, capacity_factor=1.0, zero_expert_num=2))
    layer = layer.to("cuda", torch.bfloat16)
    x_TD = torch.randn(100, 64, device="cuda", dtype=torch.bfloat16)
    layer(x_TD).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x_TD).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("autocast", [False, True])
def test_a_model_with_experts_trains_there(autocast):
    moe = MoEConfig(8, 2, 32, n_shared_experts=1, scoring_func="sigmoid", use_routing_bias=True)
    model = DecoderLM(ModelConfig(50, 32, 64, 2, 4, 2, 16, 64, moe=moe)).to("cuda")
    config = TrainingConfig(60, batch=4, length=16, warmup_steps=5)
    losses = train(model, torch.arange(400) % 7, config, progress=False, autocast=autocast).losses
    assert losses[-1] < 0.5 * losses[0]
