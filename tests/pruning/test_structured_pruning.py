"""Cut models are smaller, equal to the masked ones, and unchanged where nothing was contributed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.models import DecoderLM, ModelConfig, moe_layers
from course_utils.moe import MoEConfig
from course_utils.pruning import (
    best_heads,
    block_influence,
    channel_scores,
    cut_channels,
    cut_heads,
    expert_changes,
    expert_loads,
    head_scores,
    keep_best,
    layer_scores,
    model_bytes,
    prune_channels,
    prune_experts,
    prune_heads,
    prune_layers,
    storage_bytes,
)

EXPERTS = MoEConfig(
    *(6, 2, 8),
    n_shared_experts=1,
    first_k_dense_replace=1,
    scoring_func="sigmoid",
    use_routing_bias=True,
)
BASE = ModelConfig(50, 16, 24, 3, 4, 2, head_dim=4)
QUICK = settings(max_examples=12, deadline=None)
SEEDS = st.integers(0, 999)


def model_of(config: ModelConfig, seed: int) -> DecoderLM:
    """Weights of every kind random and large enough to matter, norms and biases too."""
    model, g = DecoderLM(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in (*model.named_parameters(), *model.named_buffers()):
            noise = torch.randn(weight.shape, generator=g) * 0.3
            weight.copy_(noise + (1.0 if "norm" in name else 0.0))
    return model.eval()


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(seed))


def close(one, other) -> None:
    with torch.no_grad():
        torch.testing.assert_close(one(ids()), other(ids()), rtol=0, atol=2e-4)


@QUICK
@given(SEEDS, st.integers(1, 23))
def test_channels_cut_are_channels_masked(seed, width):
    model, g = model_of(BASE, seed), torch.Generator().manual_seed(seed)
    kept = [{"mlp": torch.randperm(24, generator=g)[:width].tolist()} for _ in range(3)]
    cut = prune_channels(model, kept)
    for layer, own in zip(model.model.layers, kept, strict=True):
        gone = [n for n in range(24) if n not in own["mlp"]]
        layer.mlp.down_proj.weight.data[:, gone] = 0
    close(model, cut)
    assert cut.config.intermediate_size == width
    assert model.count_parameters() - cut.count_parameters() == 3 * 3 * 16 * (24 - width)
    assert model_bytes(cut) == 4 * cut.count_parameters()


@QUICK
@given(SEEDS, st.sampled_from([(1, 2), (2, 1), (1, 1)]))
def test_heads_cut_are_heads_masked(seed, shape):
    model, g = model_of(BASE, seed), torch.Generator().manual_seed(seed)
    kept = [best_heads(torch.rand(4, generator=g), 2, *shape) for _ in range(3)]
    cut = prune_heads(model, kept)
    for layer, own in zip(model.model.layers, kept, strict=True):
        gone = [head for head in range(4) if head not in own]
        layer.self_attn.o_proj.weight.data.unflatten(1, (4, 4))[:, gone] = 0
    close(model, cut)
    assert cut.config.num_key_value_heads == shape[0]
    assert cut.new_cache(1, 8).elements_per_token() == 3 * 2 * 4 * shape[0]


@QUICK
@given(SEEDS)
def test_a_layer_that_adds_nothing_can_leave(seed):
    model = model_of(BASE, seed)
    layer = model.model.layers[1]
    layer.self_attn.o_proj.weight.data.zero_()
    layer.mlp.down_proj.weight.data.zero_()
    close(model, prune_layers(model, [0, 2]))
    scores = layer_scores(model, ids())
    assert scores[1] == pytest.approx(0, abs=1e-6) and keep_best(scores, 2) == [0, 2]


@QUICK
@given(SEEDS)
def test_an_expert_that_nobody_chooses_can_leave(seed):
    model = model_of(replace(BASE, moe=EXPERTS), seed)
    g = torch.Generator().manual_seed(seed)
    kept = []
    for layer in moe_layers(model):
        out = int(torch.randint(6, (1,), generator=g))
        layer.gate.e_score_correction_bias[out] = -1e9
        kept.append([e for e in torch.randperm(6, generator=g).tolist() if e != out])
    cut = prune_experts(model, kept)
    close(model, cut)
    loads, changes = expert_loads(model, ids()), expert_changes(model, ids())
    for row, change, own in zip(loads, changes, kept, strict=True):
        (out,) = set(range(6)) - set(own)
        assert row[out] == 0 and change[out] < 1e-5
        assert float(row.sum()) == pytest.approx(1)
    assert cut.config.moe.num_experts == 5


@QUICK
@given(SEEDS)
def test_channels_of_experts_cut_are_masked(seed):
    model = model_of(replace(BASE, moe=EXPERTS), seed)
    kept = [{name: None for name in own} for own in channel_scores(model, ids())]
    for own, scores in zip(kept, channel_scores(model, ids()), strict=True):
        for name, value in scores.items():
            rows = value if name == "experts" else [value]
            best = [keep_best(row, len(row) // 2) for row in rows]
            own[name] = best if name == "experts" else best[0]
    cut = prune_channels(model, kept)
    for layer, own in zip(model.model.layers, kept, strict=True):
        if "mlp" in own:
            layer.mlp.down_proj.weight.data *= mask_of(own["mlp"], 24)
            continue
        for stack, chosen in zip(layer.mlp.experts.w_down_EFD.data, own["experts"], strict=True):
            stack *= mask_of(chosen, 8)[:, None]
        layer.mlp.shared_experts.down_proj.weight.data *= mask_of(own["shared"], 8)
    close(model, cut)
    assert cut.config.moe.moe_intermediate_size == 4 and cut.config.intermediate_size == 12


def mask_of(kept: list[int], size: int) -> torch.Tensor:
    mask = torch.zeros(size)
    mask[list(kept)] = 1
    return mask


def test_a_channel_without_a_column_scores_zero_and_one_with_a_row_of_zeros_does_not():
    model = model_of(BASE, 0)
    model.model.layers[0].mlp.down_proj.weight.data[:, 5] = 0
    model.model.layers[1].mlp.down_proj.weight.data[5] = 0
    first, second, _ = channel_scores(model, ids())
    assert first["mlp"][5] == 0 and (first["mlp"] > 0).sum() == 23
    assert bool((second["mlp"] > 0).all())


def test_a_head_without_columns_scores_zero():
    model = model_of(BASE, 0)
    model.model.layers[0].self_attn.o_proj.weight.data[:, 4:8] = 0
    scores = head_scores(model, ids())[0]
    assert scores[1] == 0 and (scores > 0).sum() == 3


def test_a_turned_vector_counts_and_a_longer_one_does_not():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert block_influence(x, 7 * x) == pytest.approx(0)
    assert block_influence(x, x.flip(-1)) == pytest.approx(1)


def test_cut_weights_share_no_memory_with_the_old():
    weights = torch.randn(8, 4), torch.randn(8, 4), torch.randn(4, 8)
    assert storage_bytes(cut_channels(*weights, [0, 3])) == 3 * 2 * 4 * 4
    model = model_of(BASE, 0)
    old = {weight.data_ptr() for weight in model.parameters()}
    new = {weight.data_ptr() for weight in prune_layers(model, [0, 1]).parameters()}
    assert not old & new


def test_depth_keeps_dense_layers_dense():
    model = model_of(replace(BASE, moe=EXPERTS), 0)
    cut = prune_layers(model, [1, 2])
    assert cut.config.moe.first_k_dense_replace == 0 and len(moe_layers(cut)) == 2
    assert prune_layers(model, [0, 2]).config.moe.first_k_dense_replace == 1


def test_what_cannot_be_is_refused():
    model, mixture = model_of(BASE, 0), model_of(replace(BASE, moe=EXPERTS), 0)
    weights = torch.ones(8, 3), torch.ones(4, 3), torch.ones(4, 3), torch.ones(3, 8)
    with pytest.raises(ValueError, match="groups of different sizes"):
        cut_heads(*weights, [0, 1, 2], 2)
    with pytest.raises(ValueError, match="different numbers of key-value heads"):
        prune_heads(model, [[0, 1], [0, 2], [0, 1]])
    with pytest.raises(ValueError, match="no experts"):
        prune_experts(model, [[0]])
    with pytest.raises(ValueError, match="num_experts_per_tok 2 is more"):
        prune_experts(mixture, [[0], [1]])
    with pytest.raises(ValueError, match="1 lists of experts"):
        prune_experts(mixture, [[0, 1]])
    with pytest.raises(ValueError, match="layers"):
        prune_layers(model, [0, 7])
    with pytest.raises(ValueError, match="9 of 3"):
        keep_best([1.0, 2.0, 3.0], 9)
    grouped = replace(EXPERTS, n_group=2, topk_group=1)
    with pytest.raises(ValueError, match="n_group is 2"):
        prune_experts(model_of(replace(BASE, moe=grouped), 0), [[0, 1, 2, 3]] * 2)
