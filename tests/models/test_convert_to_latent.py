"""From grouped queries to latents: what is exact is exact, and the rest shrinks with the rank."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from course_utils.accounting.ledger import ledger_row
from course_utils.attention import MLAConfig
from course_utils.generation import generate
from course_utils.layers import apply_rope, rope_tables
from course_utils.models import DecoderLM, ModelConfig, shipped
from course_utils.models.convert import attention_inputs, gqa_to_mla
from course_utils.moe import MoEConfig

GQA = ModelConfig(61, 48, 64, 2, 4, 2, 16, 64, rope_theta=500.0)
MQA = replace(GQA, num_key_value_heads=1, use_qk_norm=False)


def ids_of(batch: int, length: int, vocabulary: int = 61) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(vocabulary, (batch, length), generator=generator)


@torch.no_grad()
def model_of(config: ModelConfig) -> DecoderLM:
    """Weights large enough for attention to choose; norms random."""
    model, generator = DecoderLM(config).eval(), torch.Generator().manual_seed(2)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(1 + 0.2 * noise if weight.dim() == 1 else 0.3 * noise)
    return model


def scores_before(attn, x_BTD, config: ModelConfig) -> torch.Tensor:
    """(B, H, T, S) scores of a model with one key head and no norm on q and k."""
    heads, turned = (*x_BTD.shape[:2], -1, config.head_dim), []
    tables = rope_tables(torch.arange(x_BTD.shape[1]), config.head_dim, config.rope_theta)
    for project in (attn.q_proj, attn.k_proj):
        turned.append(apply_rope(project(x_BTD).view(heads).transpose(1, 2), *tables))
    return turned[0] @ turned[1].mT / config.head_dim**0.5


def scores_after(attn, x_BTD, config: ModelConfig) -> torch.Tensor:
    """The scores of latent attention, by expanding keys."""
    tables = rope_tables(
        torch.arange(x_BTD.shape[1]), config.mla.qk_rope_head_dim, config.rope_theta
    )
    q, rows = attn.queries(x_BTD, *tables), attn.rows(x_BTD, *tables)
    rank, (w_uk, _) = config.mla.kv_lora_rank, attn.up_projections()
    k_nope = torch.einsum("bsr,hnr->bhsn", rows[..., :rank], w_uk)
    k_rope = rows[:, None, :, rank:].expand(-1, q.shape[1], -1, -1)
    return attn.scale * q @ torch.cat([k_nope, k_rope], -1).mT


@torch.no_grad()
def test_scores_of_one_key_head_are_exact():
    model, ids = model_of(MQA), ids_of(8, 40)
    new = gqa_to_mla(model, 16, MQA.head_dim, ids).model
    assert new.config.rope_theta == MQA.rope_theta
    for n, x in enumerate(attention_inputs(model, ids)):
        before = scores_before(model.model.layers[n].self_attn, x, MQA)
        after = scores_after(new.model.layers[n].self_attn, x, new.config)
        assert before.std() > 0.5
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 4])
@torch.no_grad()
def test_the_frequencies_that_the_model_uses_are_kept(stride):
    model, ids, rope_dim = model_of(MQA), ids_of(8, 40), 4
    used = [i + half for i in (0, stride) for half in (0, 8)]
    unused = [i for i in range(16) if i not in used]
    for layer in model.model.layers:
        layer.self_attn.k_proj.weight[unused] = 0
    new = gqa_to_mla(model, 16, rope_dim, ids).model
    assert new.config.rope_theta == pytest.approx(500.0 ** (stride * rope_dim / 16))
    for n, x in enumerate(attention_inputs(model, ids)):
        before = scores_before(model.model.layers[n].self_attn, x, MQA)
        after = scores_after(new.model.layers[n].self_attn, x, new.config)
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_equal_key_heads_share_their_key_exactly():
    model, ids = model_of(replace(GQA, use_qk_norm=False)), ids_of(8, 40)
    for layer in model.model.layers:
        weight = layer.self_attn.k_proj.weight
        weight[16:] = -2 * weight[:16]  # one direction, two sizes
    one = DecoderLM(MQA)
    new = gqa_to_mla(model, 32, 16, ids).model
    for n, x in enumerate(attention_inputs(model, ids)):
        attn, last = model.model.layers[n].self_attn, one.model.layers[n].self_attn
        last.k_proj.weight.copy_(attn.k_proj.weight[:16])
        last.q_proj.weight.copy_(attn.q_proj.weight)
        last.q_proj.weight[32:] *= -2
        after = scores_after(new.model.layers[n].self_attn, x, new.config)
        torch.testing.assert_close(after, scores_before(last, x, MQA), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("qk_norm", [True, False])
def test_the_loss_of_keys_and_values_falls_with_the_rank(qk_norm):
    model, ids = model_of(replace(GQA, use_qk_norm=qk_norm)), ids_of(16, 48)
    found = [gqa_to_mla(model, rank, 8, ids).latent_error for rank in (2, 4, 8, 16, 32, 48)]
    for errors in zip(*found, strict=True):  # of one layer
        assert all(less < more for more, less in pairwise(errors))
        assert errors[0] > 0.5 and errors[-1] < 0.15


@torch.no_grad()
def test_the_shipped_model_survives():
    model, ids = shipped("dense"), ids_of(8, 128, 4096)
    expected = model(ids).log_softmax(-1)
    divergences, errors = [], []
    for rank, rope_dim in ((8, 8), (32, 16), (96, 32)):
        found = gqa_to_mla(model, rank, rope_dim, ids)
        got = found.model(ids).log_softmax(-1)
        divergences.append(float((expected.exp() * (expected - got)).sum(-1).mean()))
        errors.append(sum(found.attention_error) / len(found.attention_error))
        cache, dense = found.model.new_cache(), model.new_cache()
        assert cache.elements_per_token() == 8 * (rank + rope_dim)
        assert dense.elements_per_token() == 8 * 128
    assert divergences[0] > 1.3 * divergences[1] > 1.3**2 * divergences[2] > 0
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.3


def test_all_but_attention_is_kept_and_the_model_is_left_alone():
    moe = MoEConfig(4, 2, 20, first_k_dense_replace=1)
    model = model_of(replace(GQA, moe=moe)).double().train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    new = gqa_to_mla(model, 24, 8, ids_of(8, 40)).model
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    for name, weight in new.state_dict().items():
        assert weight.dtype == torch.float64
        if ".self_attn." not in name or name.endswith("o_proj.weight"):
            assert torch.equal(weight, before[name])
    assert new.training and new.config.moe == moe
    assert new.config.mla == MLAConfig(24, 16, 8, 16)
    row = ledger_row("07", "converted", new.config.to_dict(), 0.0)
    assert row.parameters == new.count_parameters()
    assert generate(new.eval(), ids_of(2, 5), 4).shape == (2, 4)
    assert all(weight.requires_grad for weight in new.parameters())


@pytest.mark.parametrize(
    ("config", "rank", "rope_dim", "words"),
    [
        (GQA, 49, 8, "rank is 49: it must be 1 to 48"),
        (GQA, 0, 8, "rank is 0"),
        (GQA, 8, 6, "rope_dim is 6: it must be even and divide head_dim 16"),
        (GQA, 8, 1, "rope_dim is 1"),
        (GQA, 8, 32, "rope_dim is 32"),
        (replace(GQA, mla=MLAConfig(8, 8, 4, 8)), 8, 8, "other attention than grouped-query"),
    ],
)
def test_what_cannot_be_converted_is_named(config, rank, rope_dim, words):
    with pytest.raises(ValueError, match=words):
        gqa_to_mla(DecoderLM(config), rank, rope_dim, ids_of(2, 40))
