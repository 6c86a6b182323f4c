"""Masks against PyTorch's pruning, 2:4 patterns and bytes, and what a mask does to a model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from course_utils.models import DecoderLM, ModelConfig
from course_utils.moe import MoEConfig
from course_utils.pruning import (
    csr_bytes,
    global_masks,
    magnitude_mask,
    masked,
    model_bytes,
    pack_2_4,
    prunable,
    share_of_zeros,
    storage_bytes,
    to_csr,
    two_four_mask,
    wanda_mask,
    wanda_masks,
)
from course_utils.pruning.storage import csr_model_bytes

EXPERTS = MoEConfig(4, 2, 8, n_shared_experts=1, first_k_dense_replace=1, use_routing_bias=True)


def small(moe: MoEConfig | None = None, seed: int = 0) -> DecoderLM:
    return DecoderLM(ModelConfig(50, 16, 24, 3, 4, 2, moe=moe), seed=seed).eval()


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(seed))


def linear(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data.copy_(weight)
    return layer


SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.77, 0.9])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), SHARES, st.integers(0, 99))
def test_magnitude_masks_are_those_of_torch(rows, columns, share, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    layer = linear(weight)
    prune.l1_unstructured(layer, "weight", share)
    assert torch.equal(magnitude_mask(weight, share), layer.weight_mask.bool())


def test_global_masks_are_those_of_torch():
    g = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(6, 5 + n, generator=g) * (n + 1) for n in range(3)}
    layers = [linear(weight) for weight in weights.values()]
    pairs = [(layer, "weight") for layer in layers]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=0.4)
    for mask, layer in zip(global_masks(weights, 0.4).values(), layers, strict=True):
        assert torch.equal(mask, layer.weight_mask.bool())


def test_wanda_is_torch_row_by_row_with_the_scores():
    g = torch.Generator().manual_seed(1)
    weight, x = torch.randn(7, 12, generator=g), torch.randn(30, 12, generator=g) * torch.arange(12)
    mask = wanda_mask(weight, x, 0.5)
    for row, own in zip(weight, mask, strict=True):
        layer = linear(row[None])
        scores = (row.abs() * x.norm(dim=0))[None]
        prune.l1_unstructured(layer, "weight", 0.5, importance_scores=scores)
        assert torch.equal(own, layer.weight_mask[0].bool())


def test_wanda_differs_from_magnitude_where_inputs_differ():
    weight, x = torch.tensor([[1.0, 2.0]]), torch.tensor([[9.0, 1.0]])
    assert wanda_mask(weight, x, 0.5).tolist() == [[True, False]]
    assert magnitude_mask(weight, 0.5).tolist() == [[False, True]]


@pytest.mark.parametrize("share", (-0.1, 1.0))
def test_a_share_that_cannot_be(share):
    with pytest.raises(ValueError, match=f"sparsity is {share}"):
        magnitude_mask(torch.ones(2, 2), share)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_two_of_four_packed_is_the_masked_weight_in_half_the_values(rows, groups, seed):
    weight = torch.randn(rows, 4 * groups, generator=torch.Generator().manual_seed(seed))
    mask = two_four_mask(weight.abs())
    assert bool((mask.unflatten(1, (-1, 4)).sum(-1) == 2).all())
    packed = pack_2_4(weight, mask)
    assert torch.equal(packed.unpack(), weight * mask)
    assert packed.nbytes == rows * (2 * groups * 4 + (groups + 1) // 2)
    x = torch.randn(3, 4 * groups)
    torch.testing.assert_close(packed.matmul(x), x @ (weight * mask).T)


def test_what_is_no_two_four_is_refused():
    with pytest.raises(ValueError, match="6 inputs"):
        two_four_mask(torch.ones(2, 6))
    with pytest.raises(ValueError, match="does not keep two"):
        pack_2_4(torch.ones(2, 4), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool())
    with pytest.raises(ValueError, match="must be alike"):
        pack_2_4(torch.ones(2, 4), torch.ones(2, 8, dtype=torch.bool))


def test_bytes_of_csr_and_of_views():
    weight = torch.zeros(4, 10)
    weight[:, :3] = 1.5
    sparse = to_csr(weight)
    assert csr_bytes(sparse) == 12 * 4 + 12 * 4 + 5 * 4
    assert torch.equal(sparse.to_dense(), weight)
    assert storage_bytes([weight, weight[:1]]) == 160


def test_prunable_leaves_out_table_norms_and_router():
    model = small(EXPERTS)
    names = prunable(model)
    inside = sum(weight.numel() for weight in names.values())
    routers = 2 * (4 * 16)  # two layers of experts
    norms = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 1)
    assert inside + routers + norms + 50 * 16 == sum(p.numel() for p in model.parameters())
    assert names["layers.1.mlp.experts.w_down_EFD"].shape == (4, 16, 8)


@pytest.mark.parametrize("moe", (None, EXPERTS), ids=("dense", "moe"))
def test_masks_write_zeros_into_a_copy_of_the_same_bytes(moe):
    model = small(moe)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    masks = wanda_masks(model, ids(), 0.5)
    assert masks.keys() == prunable(model).keys()
    thin = masked(model, masks)
    assert share_of_zeros(thin) == pytest.approx(0.5, abs=0.01)
    assert model_bytes(thin) == model_bytes(model)
    assert csr_model_bytes(masked(model, wanda_masks(model, ids(), 0.9))) < model_bytes(model)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_wanda_judges_a_matrix_with_its_own_inputs():
    model, seen = small(EXPERTS), []

    def rule(weight, x, share):
        seen.append((tuple(weight.shape), x.shape[1], len(x)))
        return torch.ones_like(weight, dtype=torch.bool)

    wanda_masks(model, ids(), 0.5, rule)
    assert all(shape[1] == width for shape, width, _ in seen)
    assert len(seen) == 3 * 4 + 3 + 2 * 3 + 2 * 3 * 4
    of_experts = sum(tokens for shape, _, tokens in seen if shape == (8, 16) and tokens < 24)
    assert 0 < of_experts <= 2 * 2 * 24 * 2


def test_a_foreign_mask_is_refused():
    with pytest.raises(ValueError, match="mask 'nothing'"):
        masked(small(), {"nothing": torch.ones(1)})
