"""Upcycling: the logits of the dense model at step 0, whatever the router; else a refusal."""

import pytest
import torch

from course_utils.generation import generate
from course_utils.models import DecoderLM, ModelConfig, moe_layers, upcycle
from course_utils.moe import MoEConfig, experts_loop

CONFIG = ModelConfig(37, 24, 48, 3, 4, 2, 8, 64, tie_word_embeddings=False)
COPIES = MoEConfig(6, 2, 48)
HALVES = MoEConfig(8, 4, 24)
EXACT = {
    "copies": COPIES,
    "one of each": MoEConfig(4, 1, 48),
    "every copy": MoEConfig(4, 4, 48),
    "softmax of the chosen": MoEConfig(6, 2, 48, scoring_func="softmax_of_chosen"),
    "sigmoid, bias, groups, scale": MoEConfig(
        8, 3, 48, scoring_func="sigmoid", use_routing_bias=True, n_group=4, topk_group=2,
        routed_scaling_factor=2.5,
    ),
    "behind a dense layer": MoEConfig(6, 2, 48, first_k_dense_replace=1),
    "halves": HALVES,
    "halves, one whole": MoEConfig(8, 2, 24),
    "quarters": MoEConfig(16, 8, 12, routed_scaling_factor=1.8),
    "thirds in groups": MoEConfig(12, 6, 16, n_group=4, topk_group=2),
    "thirds, sigmoid": MoEConfig(12, 3, 16, scoring_func="sigmoid", group_score="max"),
}  # fmt: skip


def dense_model(dtype: torch.dtype = torch.float32) -> DecoderLM:
    """Random weights large enough that every expert matters; norms away from 1."""
    model = DecoderLM(CONFIG).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else 0.2 * noise)
    return model.to(dtype)


def random_routers(model: DecoderLM, moe: MoEConfig, size: float, seed: int) -> None:
    """Other router rows: any for copies, equal within a virtual group for pieces."""
    generator = torch.Generator().manual_seed(seed)
    pieces = CONFIG.intermediate_size // moe.moe_intermediate_size
    for layer in moe_layers(model):
        gate = layer.gate
        rows = torch.randn(moe.num_experts // pieces, gate.weight.shape[1], generator=generator)
        rows, bias = size * rows, size * torch.randn(len(rows), generator=generator)
        gate.weight.data.copy_(rows.repeat_interleave(pieces, dim=0))
        if gate.e_score_correction_bias is not None:
            gate.e_score_correction_bias.copy_(bias.repeat_interleave(pieces))


def ids_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(37, (batch, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("moe", EXACT.values(), ids=EXACT)
@torch.no_grad()
def test_logits_are_those_of_the_dense_model(moe, dtype, tolerance):
    dense = dense_model(dtype)
    model = upcycle(dense, moe, seed=1)
    expected = dense(ids_of(3, 9))
    assert expected.abs().max() > 0.5
    for size in (None, 0.02, 1.0):  # the router as drawn, then others
        if size:
            random_routers(model, moe, size, seed=7)
        got = model(ids_of(3, 9))
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    assert len(moe_layers(model)) == 3 - moe.first_k_dense_replace
    assert model.count_parameters() > dense.count_parameters()


@torch.no_grad()
def test_in_whole_groups_even_a_router_of_zeros_is_exact():
    dense = dense_model(torch.float64)
    model = upcycle(dense, MoEConfig(8, 4, 24, n_group=4, topk_group=2))
    for layer in moe_layers(model):
        layer.gate.weight.zero_()
    torch.testing.assert_close(model(ids_of(2, 9)), dense(ids_of(2, 9)), rtol=0, atol=1e-12)


@torch.no_grad()
def test_it_generates_the_same_text_and_leaves_the_dense_model_alone():
    dense = dense_model()
    before = {name: weight.clone() for name, weight in dense.state_dict().items()}
    model = upcycle(dense, HALVES)
    assert not model.training
    assert torch.equal(generate(model, ids_of(1, 5), 12), generate(dense, ids_of(1, 5), 12))
    for weight in model.parameters():
        weight.add_(1.0)
    assert all(torch.equal(before[name], weight) for name, weight in dense.state_dict().items())


@torch.no_grad()
def test_every_token_gets_every_piece_once_and_the_seed_decides_the_router():
    model = upcycle(dense_model(), HALVES, seed=1)
    model(ids_of(2, 9))
    for layer in moe_layers(model):
        assert torch.equal((layer.routing.experts_TK % 2).sum(1), torch.full((18,), 2))
    same, other = upcycle(dense_model(), HALVES, seed=1), upcycle(dense_model(), HALVES, seed=2)
    gates = [moe_layers(m)[0].gate.weight for m in (model, same, other)]
    assert torch.equal(gates[0], gates[1]) and not torch.equal(gates[0], gates[2])
    assert len(gates[0].unique(dim=0)) == 4  # four virtual groups of two equal rows


def test_the_copies_part_when_trained():
    model = upcycle(dense_model(), COPIES, dispatch=experts_loop).train()
    assert moe_layers(model)[0].experts.dispatch is experts_loop
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(ids_of(4, 9)).logsumexp(-1).mean().backward()
    optimizer.step()
    w_EDF = moe_layers(model)[0].experts.w_gate_EDF.detach()
    assert (w_EDF[0] - w_EDF[1]).abs().max() > 1e-6
    assert moe_layers(model)[0].gate.weight.grad is not None


@pytest.mark.parametrize(
    ("moe", "words"),
    [
        (MoEConfig(6, 2, 32), "moe_intermediate_size 32 does not divide .* 48"),
        (MoEConfig(6, 2, 96), "moe_intermediate_size 96 does not divide .* 48"),
        (MoEConfig(6, 2, 48, norm_topk_prob=False), "norm_topk_prob is False"),
        (MoEConfig(6, 2, 48, moe_norm_min=0.5), "moe_norm_min is 0.5"),
        (MoEConfig(6, 2, 48, n_shared_experts=1), "n_shared_experts is 1"),
        (MoEConfig(6, 2, 48, zero_expert_num=2), "zero_expert_num is 2"),
        (MoEConfig(6, 2, 48, capacity_factor=1.0), "capacity_factor is 1.0"),
        (MoEConfig(7, 2, 24), "num_experts is 7: it must be a multiple of the 2 pieces"),
        (MoEConfig(8, 3, 24), "num_experts_per_tok is 3: it must be a multiple of the 2 pieces"),
        (MoEConfig(12, 4, 24, n_group=4, topk_group=2), "num_experts / n_group is 3"),
    ],
)
def test_what_would_not_be_exact_is_refused(moe, words):
    with pytest.raises(ValueError, match=words):
        upcycle(dense_model(), moe)


def test_a_model_with_experts_is_refused():
    with pytest.raises(ValueError, match="upcycle a dense one"):
        upcycle(upcycle(dense_model(), COPIES), COPIES)


@torch.no_grad()
def test_without_renormalisation_the_function_would_change():
    """The refusal has a reason: the same weights with raw probabilities give other logits."""
    dense = dense_model()
    model = upcycle(dense, COPIES)
    raw = MoEConfig(6, 2, 48, norm_topk_prob=False)
    for layer in moe_layers(model):
        layer.config = raw
    assert (model(ids_of(2, 9)) - dense(ids_of(2, 9))).abs().max() > 1e-2
