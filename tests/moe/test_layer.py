"""The MoE layer: router, experts, shared experts and what it remembers."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter

from course_utils.moe import (
    MoE,
    MoEConfig,
    Routing,
    experts_dense,
    experts_grouped,
    experts_loop,
    experts_sorted,
    route,
)

CONFIGS = {
    "plain": MoEConfig(6, 2, 12),
    "shared": MoEConfig(6, 2, 12, n_shared_experts=2),
    "gated": MoEConfig(6, 2, 12, n_shared_experts=2, use_shared_expert_gate=True),
    "identity": MoEConfig(6, 3, 12, zero_expert_num=3, use_routing_bias=True),
    "sigmoid": MoEConfig(
        8, 2, 12, scoring_func="sigmoid", use_routing_bias=True, n_group=4, topk_group=2,
        routed_scaling_factor=2.5,
    ),
    "capacity": MoEConfig(6, 2, 12, capacity_factor=0.75),
}  # fmt: skip
QUICK = settings(deadline=None, max_examples=25)


def layer_of(config: MoEConfig, seed: int = 0, size: float = 0.4, **parts) -> MoE:
    """A layer with random weights, its bias too."""
    layer = MoE(8, config, **parts).double()
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.data.copy_(size * torch.randn(tensor.shape, generator=generator))
    return layer


def tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_dispatch_gives_the_same_layer(config):
    x_TD = tokens(21)
    fast = layer_of(config)
    expected = fast(x_TD)
    assert expected.abs().max() > 0.1
    for dispatch in (experts_loop, experts_sorted, experts_dense):
        layer = layer_of(config, dispatch=dispatch)
        torch.testing.assert_close(layer(x_TD), expected, rtol=0, atol=1e-12)
        assert torch.equal(layer.routing.experts_TK, fast.routing.experts_TK)
    layer = layer_of(config, dispatch=experts_grouped).float()
    torch.testing.assert_close(layer(x_TD.float()), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 2, 2), (0,), (3, 0)])
def test_shapes_stay_and_the_decision_is_kept(config, shape):
    layer, x_TD = layer_of(config), tokens(*shape)
    assert layer.routing is None and layer.dropped is None
    assert layer(x_TD).shape == x_TD.shape
    T = x_TD.numel() // 8
    assert isinstance(layer.routing, Routing)
    assert layer.routing.experts_TK.shape == (T, config.num_experts_per_tok)
    assert layer.dropped.shape == (config.num_choices,) and layer.dropped.dtype == torch.int64


def test_shared_experts_by_hand():
    x_TD = tokens(9)
    gated, free = layer_of(CONFIGS["gated"]), layer_of(CONFIGS["shared"])
    free.load_state_dict(gated.state_dict(), strict=False)
    mlp = gated.shared_experts
    assert mlp.gate_proj.weight.shape == (24, 8)  # two of width 12 as one
    gate, up, down = (part.weight for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    shared_TD = sum(
        (F.silu(x_TD @ gate[half].T) * (x_TD @ up[half].T)) @ down[:, half].T
        for half in (slice(0, 12), slice(12, 24))
    )
    share_T1 = torch.sigmoid(x_TD @ gated.shared_expert_gate.weight.T)
    routed_TD = free(x_TD) - shared_TD
    torch.testing.assert_close(gated(x_TD), routed_TD + share_T1 * shared_TD)
    assert gated.shared_expert_gate.weight.shape == (1, 8)


def test_names_and_shapes_of_the_weights():
    found = {name: tuple(w.shape) for name, w in layer_of(CONFIGS["identity"]).state_dict().items()}
    assert found == {
        "gate.weight": (9, 8),
        "gate.e_score_correction_bias": (9,),
        "experts.w_gate_EDF": (6, 8, 12),
        "experts.w_up_EDF": (6, 8, 12),
        "experts.w_down_EFD": (6, 12, 8),
    }
    assert "gate.e_score_correction_bias" not in layer_of(CONFIGS["plain"]).state_dict()


def test_a_given_router_and_dispatch_are_the_ones_that_run():
    calls = []

    def counting_route(logits_TE, config, bias_E):
        calls.append(("route", tuple(logits_TE.shape), bias_E))
        return route(logits_TE, config, bias_E)

    def counting_dispatch(x_TD, experts_TK, weights_TK, *stacked):
        calls.append(("dispatch", tuple(experts_TK.shape), len(stacked)))
        return experts_loop(x_TD, experts_TK, weights_TK, *stacked)

    layer = MoE(8, CONFIGS["plain"], route=counting_route, dispatch=counting_dispatch)
    layer(torch.randn(2, 5, 8))
    assert calls == [("route", (10, 6), None), ("dispatch", (10, 2), 3)]


@QUICK
@given(st.integers(1, 6), st.integers(0, 99))
def test_k_equal_to_e_is_the_dense_mixture(E, seed):
    layer, x_TD = layer_of(MoEConfig(E, E, 12), seed), tokens(7, seed=seed)
    share_TE = (x_TD @ layer.gate.weight.T).softmax(-1)
    w = layer.experts
    all_ETD = (F.silu(x_TD @ w.w_gate_EDF) * (x_TD @ w.w_up_EDF)) @ w.w_down_EFD
    torch.testing.assert_close(layer(x_TD), torch.einsum("te,etd->td", share_TE, all_ETD))


@QUICK
@given(st.sampled_from([name for name in CONFIGS if name != "capacity"]), st.integers(0, 99))
def test_the_order_of_tokens_is_no_matter_without_capacity(name, seed):
    layer, x_TD = layer_of(CONFIGS[name], seed), tokens(13, seed=seed)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(layer(x_TD[order]), layer(x_TD)[order], rtol=0, atol=1e-12)
    both = layer(torch.cat([x_TD, x_TD]))  # nor whether a token comes twice
    torch.testing.assert_close(both[:13], both[13:], rtol=0, atol=1e-12)


def test_with_capacity_the_order_decides():
    layer, x_TD = layer_of(CONFIGS["capacity"]), tokens(40)
    assert (layer(x_TD.flip(0)).flip(0) - layer(x_TD)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["plain", "sigmoid", "identity"])
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_extreme_logits_give_finite_results_and_gradients(name, size):
    layer = layer_of(CONFIGS[name]).float()
    layer.gate.weight.data.mul_(size)
    x_TD = tokens(30).float().requires_grad_()
    y_TD = layer(x_TD)
    y_TD.sum().backward()
    assert y_TD.isfinite().all() and x_TD.grad.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())


def test_unchosen_experts_get_no_gradient_and_the_router_gets_one():
    layer = layer_of(CONFIGS["plain"])
    layer.gate.weight.data[2:] = 0
    layer.gate.weight.data[:2] = 5 * torch.ones(8) + torch.rand(2, 8)
    layer(tokens(9).abs()).pow(2).sum().backward()  # experts 0 and 1 always win
    used_E = layer.experts.w_up_EDF.grad.abs().amax((1, 2)) > 0
    assert used_E.tolist() == [True, True, False, False, False, False]
    assert layer.gate.weight.grad.abs().max() > 0


def test_the_bias_moves_the_choice_and_gets_no_gradient():
    layer, x_TD = layer_of(CONFIGS["sigmoid"]), tokens(9)
    layer.gate.e_score_correction_bias.zero_()
    layer(x_TD)
    before = layer.routing
    layer.gate.e_score_correction_bias[3] = 100.0
    layer(x_TD)
    assert (layer.routing.experts_TK == 3).any(1).all()
    assert torch.equal(before.scores_TE, layer.routing.scores_TE)
    assert not layer.gate.e_score_correction_bias.requires_grad


def test_the_bias_and_the_logits_keep_32_bits():
    layer = layer_of(CONFIGS["sigmoid"]).float()
    exact = layer.gate.e_score_correction_bias.clone()
    layer.bfloat16()
    bias = layer.gate.e_score_correction_bias
    assert bias.dtype == torch.float32 and torch.equal(bias, exact)
    y_TD = layer(tokens(5).bfloat16())
    assert y_TD.dtype == layer.gate.weight.dtype == torch.bfloat16
    assert layer.routing.logits_TE.dtype == torch.float32


def test_autocast_computes_experts_in_low_precision_and_the_router_in_full():
    seen = []

    def spy(x_TD, experts_TK, weights_TK, *stacked):
        seen.extend(tensor.dtype for tensor in (x_TD, weights_TK, *stacked))
        return experts_loop(x_TD, experts_TK, weights_TK, *stacked)

    layer, x_TD = layer_of(CONFIGS["plain"], dispatch=spy).float(), tokens(9).float()
    expected = layer(x_TD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x_TD)
    assert set(seen[:5]) == {torch.float32} and set(seen[5:]) == {torch.bfloat16}
    assert layer.routing.logits_TE.dtype == torch.float32
    got.sum().backward()
    assert layer.experts.w_up_EDF.grad.dtype == torch.float32
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)


def test_a_layer_that_has_run_can_be_copied_and_saved():
    layer = layer_of(CONFIGS["plain"])
    y_TD = layer(tokens(4))
    twin = copy.deepcopy(layer)
    assert twin.routing is None and layer.routing is not None
    torch.testing.assert_close(twin(tokens(4)), y_TD)
    torch.save(layer, io.BytesIO())


def test_the_kept_decision_has_a_graph_for_auxiliary_losses():
    layer = layer_of(CONFIGS["plain"])
    layer(tokens(6))
    layer.routing.scores_TE.square().sum().backward()
    assert layer.gate.weight.grad.abs().max() > 0
    assert layer.experts.w_up_EDF.grad is None


def test_the_router_bias_is_gpt_oss_s_linear_bias():
    config = MoEConfig(6, 2, 8, scoring_func="softmax_of_chosen", router_bias=True)
    layer = MoE(12, config)
    theirs = GptOssTopKRouter(
        GptOssConfig(hidden_size=12, num_local_experts=6, num_experts_per_tok=2)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for mine, other in ((layer.gate.weight, theirs.weight), (layer.gate.bias, theirs.bias)):
            mine.copy_(torch.randn(mine.shape, generator=generator))
            other.copy_(mine)
    x_TD = torch.randn(40, 12, generator=generator)
    y_TD = layer(x_TD)
    *_, weights_TK, experts_TK = theirs(x_TD)
    assert torch.equal(layer.routing.experts_TK, experts_TK)
    torch.testing.assert_close(layer.routing.weights_TK, weights_TK)
    y_TD.square().sum().backward()
    assert layer.gate.bias.grad.abs().max() > 0
    with torch.no_grad():
        layer.gate.bias.zero_()
        layer(x_TD)
    assert not torch.equal(layer.routing.experts_TK, experts_TK)
