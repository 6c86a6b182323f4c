"""Cutting experts changes no cost; the shared expert is what the layer and the families compute."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.accounting.catalog import catalog, find
from course_utils.moe import (
    MoE,
    MoEConfig,
    add_shared_expert,
    expert_combinations,
    expert_counts,
    experts_loop,
    route,
    split_experts,
)
from course_utils.moe.families import moe_config
from course_utils.moe.router_keys import FILE, router_keys


def expert_widths(config: MoEConfig) -> tuple[int, int]:
    """Width of all experts together, and of those that a token uses."""
    width, shared = config.moe_intermediate_size, config.n_shared_experts
    return (config.num_experts + shared) * width, (config.num_experts_per_tok + shared) * width


@given(
    E=st.integers(2, 16),
    k=st.integers(1, 4),
    pieces=st.sampled_from((1, 2, 4, 8)),
    shared=st.integers(0, 2),
)
def test_a_cut_costs_nothing(E, k, pieces, shared):
    k = min(k, E)
    if k * pieces <= shared:
        return
    config = MoEConfig(E, k, 64, n_shared_experts=1, norm_topk_prob=False)
    cut = split_experts(config, pieces, shared)
    assert expert_widths(cut) == expert_widths(config)
    assert (
        replace(
            cut,
            num_experts=E,
            num_experts_per_tok=k,
            moe_intermediate_size=64,
            n_shared_experts=1,
        )
        == config
    )  # nothing else changed


def test_the_papers_example_of_combinations():
    coarse = MoEConfig(16, 2, 256)
    assert expert_combinations(coarse) == 120
    assert expert_combinations(split_experts(coarse, 4)) == 4_426_165_368  # section 3.1


def test_a_cut_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="width 6 cannot be cut into 4"):
        split_experts(MoEConfig(4, 2, 6), 4)
    with pytest.raises(ValueError, match="num_experts_per_tok"):
        split_experts(MoEConfig(4, 1, 8), 2, shared=2)


def test_pieces_that_are_all_chosen_together_do_what_the_expert_did():
    g = torch.Generator().manual_seed(0)
    x_TD = torch.randn(5, 8, generator=g)
    gate, up = torch.randn(2, 1, 8, 6, generator=g)
    down = torch.randn(1, 6, 8, generator=g)
    whole = experts_loop(
        x_TD, torch.zeros(5, 1, dtype=torch.long), torch.ones(5, 1), gate, up, down
    )
    three = [w.view(1, 8, 3, 2)[0].transpose(0, 1) for w in (gate, up)]
    chosen = torch.arange(3).expand(5, 3)
    cut = experts_loop(x_TD, chosen, torch.ones(5, 3), *three, down.view(3, 2, 8))
    torch.testing.assert_close(cut, whole)


@pytest.mark.parametrize("gated", [False, True])
def test_the_shared_expert_is_the_layers(gated):
    config = MoEConfig(4, 2, 8, n_shared_experts=2, use_shared_expert_gate=gated)
    layer = MoE(16, config)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    x_TD = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    routing = route(layer.gate(x_TD), config)
    routed_TD = experts_loop(
        x_TD, routing.experts_TK, routing.weights_TK, *layer.experts.parameters()
    )
    names = ("gate_proj", "up_proj", "down_proj")
    weights = [getattr(layer.shared_experts, name).weight.T for name in names]
    gate_D = layer.shared_expert_gate.weight[0] if gated else None
    torch.testing.assert_close(add_shared_expert(x_TD, routed_TD, *weights, gate_D), layer(x_TD))


def test_router_keys_complete_every_config_that_they_name():
    names = json.loads(FILE.read_text(encoding="utf-8"))
    assert len(names) >= 15 and set(names) <= set(catalog())
    for name in names:
        entry, config = find(name), moe_config(find(name).config | router_keys(name))
        part = entry.spec.layers[-1].feed_forward  # the first may be dense, or route by a hash
        assert config.num_experts == part.num_experts
        assert config.num_experts_per_tok == part.num_experts_per_tok
        width = config.n_shared_experts * config.moe_intermediate_size
        assert width == part.shared_intermediate_size, name
        assert config.use_routing_bias == part.correction_bias, name
    with pytest.raises(ValueError, match="no router keys of 'Llama'"):
        router_keys("Llama")


def test_real_experts_per_token_vary_only_with_identity_experts():
    logits_TE = torch.randn(400, 24, generator=torch.Generator().manual_seed(0))
    plain = route(logits_TE, MoEConfig(24, 6, 8)).experts_TK
    assert set((plain < 24).sum(-1).tolist()) == {6}
    mixed = route(logits_TE, MoEConfig(16, 6, 8, zero_expert_num=8)).experts_TK
    real_T = (mixed < 16).sum(-1)
    assert real_T.min() < 4 < real_T.max()
    assert float(real_T.float().mean()) == pytest.approx(6 * 16 / 24, rel=0.05)
    assert math.isclose(int(expert_counts(mixed, 24)[:16].sum()), int(real_T.sum()))
