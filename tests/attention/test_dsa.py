"""Sparse attention reads what its indexer chose, the indexer is V3.2's, and learns by imitation."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV32Config
from transformers.models.deepseek_v32.modeling_deepseek_v32 import (
    DeepseekV32Attention,
    DeepseekV32Indexer,
)

from course_utils.attention import (
    IndexerConfig,
    LatentAttention,
    LayeredCache,
    MLAConfig,
    causal_mask,
    choose_tokens,
    index_scores,
    indexer_kl,
    indexer_loss,
    indexer_parameters,
    set_index_topk,
)
from course_utils.attention.dsa import attention_target, latent_weights
from course_utils.layers import rope_tables
from course_utils.models import DecoderLM, ModelConfig

some = settings(max_examples=40, deadline=None, derandomize=True)
D, H = 24, 3
SIZES = {"kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}


MANY = 14  # index heads with which no two scores are equal, as happens when all ReLUs are closed


def mla(k: int | None, heads: int = 2) -> MLAConfig:
    index = None if k is None else IndexerConfig(heads, 8, k)
    return MLAConfig(**SIZES, q_lora_rank=12, index=index)


def layer(k: int | None, dtype=torch.float64, heads: int = 2) -> LatentAttention:
    made = LatentAttention(D, H, mla(k, heads)).to(dtype)
    torch.manual_seed(1)
    for name, weight in sorted(made.named_parameters(), key=lambda pair: "indexer" in pair[0]):
        torch.nn.init.normal_(weight, 0.5 if "norm" in name else 0.0, 0.4)
    return made


def tables(T: int, dtype=torch.float64):
    return tuple(table.to(dtype) for table in rope_tables(torch.arange(T), 4))


def text(T: int, B: int = 2, dtype=torch.float64):
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(T), dtype=dtype)


def chosen(made: LatentAttention, x: torch.Tensor, k: int) -> torch.Tensor:
    """(B, T, T): what each query reads, spelled out query by query."""
    cos, sin = tables(x.shape[1])
    keys = made.indexer.keys(x, cos, sin)
    scores = made.indexer.scores(x, made.query_latent(x), cos, sin, keys)
    out = torch.zeros_like(scores, dtype=torch.bool)
    for b, t in torch.cartesian_prod(*map(torch.arange, scores.shape[:2])).tolist():
        best = scores[b, t, : t + 1].argsort(descending=True, stable=True)[:k]
        out[b, t, best] = True
    return out


def in_parts(made, x, cuts, mask=None):
    """The outputs for x cut at `cuts`, through a cache; and the cache."""
    cache = LayeredCache([made.cache_layout()], x.shape[0], x.shape[1], x.dtype)
    cos, sin = tables(x.shape[1], x.dtype)
    out = []
    for start, end in pairwise([0, *sorted(cuts), x.shape[1]]):
        seen = None if mask is None else mask[..., start:end, :end]
        out.append(made(x[:, start:end], cos[start:end], sin[start:end], seen, cache))
        cache.advance(end - start)
    return torch.cat(out, dim=1), cache


def test_scores_are_the_equation():
    q, k, w = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 5), torch.randn(2, 4, 3)
    found = index_scores(q, k, w)
    for b, t, s in torch.cartesian_prod(*map(torch.arange, (2, 4, 6))).tolist():
        expected = sum(w[b, t, h] * max(0.0, float(q[b, h, t] @ k[b, s])) for h in range(3))
        assert found[b, t, s] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("T, k", [(1, 1), (5, 5), (9, 12)])
def test_reading_all_is_dense(T, k):
    sparse, dense, x = layer(k), layer(None), text(T)
    torch.testing.assert_close(sparse(x, *tables(T)), dense(x, *tables(T)), rtol=0, atol=1e-12)


@some
@given(st.integers(2, 14), st.integers(1, 8), st.booleans())
def test_dense_attention_under_the_mask_of_the_selection(T, k, absorbed):
    sparse, dense, x = layer(k), layer(None), text(T)
    mask = chosen(sparse, x, k)[:, None]
    expected = dense(x, *tables(T), mask, absorbed=absorbed)
    torch.testing.assert_close(sparse(x, *tables(T)), expected, rtol=0, atol=1e-10)


@some
@given(st.integers(1, 14), st.integers(1, 8), st.data())
def test_however_the_text_is_cut_the_result_is_the_same(T, k, data):
    cuts = data.draw(st.sets(st.integers(1, T - 1))) if T > 1 else set()
    made, x = layer(k), text(T)
    parts, cache = in_parts(made, x, cuts)
    torch.testing.assert_close(parts, made(x, *tables(T)), rtol=0, atol=1e-10)
    assert cache.elements(T) == T * (10 + 4 + 8)
    assert cache.bytes() == 2 * 8 * T * (10 + 4 + 8)


def test_decoding_reads_k_rows():
    made, x, read = layer(4), text(9), []
    form = made.absorbed
    made.absorbed = lambda q, rows, *rest: read.append(rows.shape[1]) or form(q, rows, *rest)
    in_parts(made, x, range(2, 9))  # two tokens, which the naive form takes, then seven
    assert read == [3, 4, 4, 4, 4, 4, 4]


@some
@given(st.integers(1, 10), st.integers(1, 12), st.integers(0, 2**31), st.booleans())
def test_a_choice_is_causal_and_complete(T, k, seed, ties):
    scores = torch.randn(2, T, T, generator=torch.Generator().manual_seed(seed))
    scores = scores.relu().round() if ties else scores
    made = choose_tokens(scores, k, causal_mask(T, T))
    assert not (made & ~causal_mask(T, T)).any()
    assert (made.sum(-1) == (torch.arange(T) + 1).clamp(max=k)).all()
    assert (scores.masked_fill(~made, torch.inf).amin(-1) >= scores.masked_fill(
        made | ~causal_mask(T, T), -torch.inf).amax(-1)).all()  # fmt: skip


@pytest.mark.parametrize("cuts", [[], [5], range(1, 12)])
def test_padding_is_never_chosen(cuts):
    T, pad, made = 12, 4, layer(3)
    x, real = text(T), torch.arange(T) >= pad
    mask = (causal_mask(T, T) & real | torch.eye(T).bool()).expand(2, 1, T, T)
    out, _ = in_parts(made, x, cuts, mask)
    x[:, :pad] = 9.0  # other values under the padding change nothing
    again, _ = in_parts(made, x, cuts, mask)
    torch.testing.assert_close(out[:, pad:], again[:, pad:], rtol=0, atol=1e-12)


def reference_config(k: int) -> DeepseekV32Config:
    config = DeepseekV32Config(
        hidden_size=D,
        num_attention_heads=H,
        num_key_value_heads=H,
        q_lora_rank=12,
        **SIZES,
        index_n_heads=MANY,
        index_head_dim=8,
        index_topk=k,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    config._attn_implementation = "eager"
    return config


def additive(T: int, dtype) -> torch.Tensor:
    return torch.zeros(2, 1, T, T, dtype=dtype).masked_fill(~causal_mask(T, T), -torch.inf)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_indexer_is_v32s(k):
    T, made = 20, layer(k, torch.float32, MANY)
    reference = DeepseekV32Indexer(reference_config(k), 0)
    reference.load_state_dict(made.indexer.state_dict())
    x, pair = text(T, dtype=torch.float32), tables(T, torch.float32)
    latent = made.query_latent(x).detach()
    given_tables = tuple(table[None] for table in pair)
    theirs = reference(x, latent, given_tables, additive(T, x.dtype)[:, 0], None).long()
    scores = made.indexer.scores(x, latent, *pair, made.indexer.keys(x, *pair))
    ours = scores.masked_fill(~causal_mask(T, T), -torch.inf).topk(k, dim=-1).indices
    assert torch.equal(ours[:, k:], theirs[:, k:])  # in order, where k can be seen
    mask = torch.zeros(2, T, T).bool().scatter(-1, theirs, True) & causal_mask(T, T)
    assert (scores != 0).all()  # among equal scores theirs takes any, ours the earliest
    assert torch.equal(made.indexer.select(scores, k, causal_mask(T, T)), mask)


@pytest.mark.parametrize("T, k", [(6, 8), (20, 4)])
def test_the_layer_is_v32s(T, k):
    made = layer(k, torch.float32, MANY)
    reference = DeepseekV32Attention(reference_config(k), 0)
    reference.load_state_dict(made.state_dict())
    x, pair = text(T, dtype=torch.float32), tables(T, torch.float32)
    given_tables = tuple(table[None] for table in pair)
    expected, _ = reference(x, given_tables, additive(T, x.dtype))
    torch.testing.assert_close(made(x, *pair), expected, rtol=0, atol=1e-5)


def test_kl_is_zero_where_scores_say_what_attention_does():
    mask = causal_mask(5, 5)
    target = torch.randn(2, 5, 5).masked_fill(~mask, -torch.inf).softmax(-1)
    assert indexer_kl(target, target.clamp(min=1e-30).log() + 3, mask) == pytest.approx(0, abs=1e-6)
    other = torch.zeros(2, 5, 5)
    divergence = torch.nn.functional.kl_div(
        other.masked_fill(~mask, -torch.inf).log_softmax(-1)[:, 4], target[:, 4], reduction="none"
    ).sum(-1)
    one = indexer_kl(target[:, 4:], other[:, 4:], mask[4:])
    torch.testing.assert_close(one, divergence.mean())


def test_the_target_is_what_dense_attention_does():
    made, x, pair = layer(4), text(9), tables(9)
    q, rows = made.queries(made.query_latent(x), *pair), made.rows(x, *pair)
    weights = latent_weights(made, q, rows, causal_mask(9, 9))
    w_uv = made.up_projections()[1]
    values = torch.einsum("bsr,hvr->bhsv", rows[..., :10], w_uv)
    dense = layer(None)(x, *pair)
    again = made.o_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, dense, rtol=0, atol=1e-10)
    target = attention_target(weights)
    torch.testing.assert_close(target.sum(-1), torch.ones(2, 9, dtype=torch.float64))
    torch.testing.assert_close(target, weights.mean(1))


def model(k: int) -> DecoderLM:
    config = ModelConfig(30, D, 32, 2, H, H, 8, max_position_embeddings=64, mla=mla(k))
    return DecoderLM(config, seed=2)


def ids(T: int = 16) -> torch.Tensor:
    return torch.randint(30, (2, T), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("k", [None, 4])
def test_the_losses_train_separate_weights(k):
    made = model(4)
    set_index_topk(made, k)
    indexer_loss(made, ids()).backward()
    own = {id(weight) for weight in indexer_parameters(made)}
    assert len(own) == 2 * 5
    for name, weight in made.named_parameters():
        moved = weight.grad is not None and bool(weight.grad.abs().max() > 0)
        assert moved == (id(weight) in own), name
        assert weight.grad is None or weight.grad.isfinite().all()
    made.zero_grad(set_to_none=True)
    made(ids()).square().mean().backward()
    for name, weight in made.named_parameters():
        assert (weight.grad is None) == (id(weight) in own), name


@pytest.mark.parametrize("k", [None, 6])
def test_the_indexer_learns_what_attention_reads(k):
    made = model(6)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "indexer" not in name and weight.dim() > 1:
                weight.mul_(8)  # sharp attention: there is something to learn
    set_index_topk(made, k)
    optimizer = torch.optim.Adam(indexer_parameters(made), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(loss := indexer_loss(made, ids()))
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_model_without_an_indexer_says_so():
    config = ModelConfig(30, D, 32, 1, H, H, 8, mla=mla(None))
    with pytest.raises(ValueError, match="index"):
        indexer_loss(DecoderLM(config), ids())
    with pytest.raises(ValueError, match="k is 0"):
        set_index_topk(model(4), 0)
