"""Both ways to compute attention agree, nobody looks ahead, and the cache is what it says it is."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.accounting.ledger import dense_kv_elements
from course_utils.attention import (
    GroupedQueryAttention,
    KVCache,
    causal_mask,
    fused_attention,
    grouped_query_attention,
)
from course_utils.layers import rope_tables
from course_utils.models import DecoderLM, ModelConfig

some = settings(max_examples=60, deadline=None, derandomize=True)


def normal(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@st.composite
def attention_inputs(draw):
    """Random q, k, v with T <= S, and a mask per sequence, shared, or none."""
    B, G, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    T, past, d = draw(st.integers(1, 6)), draw(st.integers(0, 6)), draw(st.sampled_from([2, 4, 6]))
    S, seed = T + past, draw(st.integers(0, 2**31))
    q = normal(seed, B, G * group, T, d)
    k, v = normal(seed + 1, B, G, S, d), normal(seed + 2, B, G, S, d)
    kind = draw(st.sampled_from(["none", "per sequence", "shared"]))
    if kind == "none":
        return q, k, v, None
    own = torch.eye(S, dtype=torch.bool)[past:]  # so that no row is empty
    shape = (B, 1, T, S) if kind == "per sequence" else (T, S)
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6) | own
    return q, k, v, mask


@some
@given(attention_inputs())
def test_fused_is_explicit(inputs):
    explicit, fused = grouped_query_attention(*inputs), fused_attention(*inputs)
    assert explicit.shape == fused.shape == inputs[0].shape
    torch.testing.assert_close(fused, explicit, rtol=1e-10, atol=1e-10)


@some
@given(attention_inputs())
def test_explicit_is_a_loop_over_heads_and_queries(inputs):
    q, k, v, mask = inputs
    (B, H, T, d), (G, S) = q.shape, k.shape[1:3]
    out = torch.empty_like(q)
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h * G // H], v[b, h * G // H]
            for t in range(T):
                if mask is None:
                    seen = [s for s in range(S) if s <= S - T + t]
                else:
                    row = mask.expand(B, 1, T, S)[b, 0, t]
                    seen = [s for s in range(S) if row[s]]
                weights = torch.exp(keys[seen] @ q[b, h, t] / d**0.5)
                out[b, h, t] = (weights / weights.sum()) @ values[seen]
    torch.testing.assert_close(grouped_query_attention(*inputs), out, rtol=1e-9, atol=1e-9)


@some
@given(st.integers(1, 8), st.integers(0, 8))
def test_causal_mask_by_its_definition(T, past):
    mask = causal_mask(T, T + past)
    assert mask.tolist() == [[s <= past + t for s in range(T + past)] for t in range(T)]


def test_fused_takes_results_in_any_memory_layout(monkeypatch):
    """Kernels on GPUs return heads between tokens and channels; one query then cannot be viewed."""
    real = F.scaled_dot_product_attention

    def as_on_gpus(*inputs, **options):
        return real(*inputs, **options).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(F, "scaled_dot_product_attention", as_on_gpus)
    q, k, v = normal(0, 2, 4, 1, 4), normal(1, 2, 2, 3, 4), normal(2, 2, 2, 3, 4)
    torch.testing.assert_close(fused_attention(q, k, v), grouped_query_attention(q, k, v))


@pytest.mark.parametrize("attend", [grouped_query_attention, fused_attention])
def test_gradients_reach_q_k_and_v(attend):
    q, k, v = normal(0, 1, 4, 5, 4), normal(1, 1, 2, 5, 4), normal(2, 1, 2, 5, 4)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    grads = torch.autograd.grad((attend(q, k, v) * normal(3, 1, 4, 5, 4)).sum(), leaves)
    again = torch.autograd.grad(
        (grouped_query_attention(q, k, v) * normal(3, 1, 4, 5, 4)).sum(), leaves
    )
    for one, other in zip(grads, again, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="3 query heads cannot share 2 key-value heads"):
        grouped_query_attention(normal(0, 3, 1, 4), normal(1, 2, 1, 4), normal(2, 2, 1, 4))


def test_learners_parts_are_used():
    calls = []

    def rope(x, cos, sin):
        calls.append("rope")
        return x

    def attend(q, k, v, mask):
        calls.append("attend")
        return torch.zeros_like(q)

    def norm(x, weight, eps):
        calls.append("norm")
        return x

    layer = GroupedQueryAttention(8, 4, 2, 2, True, 1e-6, norm, rope, attend)
    out = layer(torch.ones(1, 3, 8), *rope_tables(torch.arange(3), 2))
    assert calls == ["norm", "norm", "rope", "rope", "attend"]
    assert out.shape == (1, 3, 8) and out.abs().sum() == 0


def test_cache_returns_views_of_all_tokens_and_copies_none():
    cache = KVCache(2, 1, 2, 6, 4, torch.float64)
    chunks = [normal(n, 2, 1, 2, size, 4) for n, size in enumerate((3, 1, 2))]
    for keys, values in chunks:
        for layer in range(2):
            k, v = cache.update(layer, keys + layer, values - layer)
        cache.advance(keys.shape[2])
    assert cache.length == 6
    assert torch.equal(k, torch.cat([keys for keys, _ in chunks], dim=2) + 1)
    assert torch.equal(v, torch.cat([values for _, values in chunks], dim=2) - 1)
    assert k.untyped_storage().data_ptr() == cache.kv.untyped_storage().data_ptr()
    first = cache.kv[0, 0]
    assert torch.equal(first, torch.cat([keys for keys, _ in chunks], dim=2))


def test_all_layers_write_the_same_place_until_advance():
    cache = KVCache(1, 1, 1, 4, 2)
    for value in (1.0, 2.0):
        k, _ = cache.update(0, torch.full((1, 1, 1, 2), value), torch.zeros(1, 1, 1, 2))
    assert (k.shape[2], float(k[0, 0, 0, 0])) == (1, 2.0)


@some
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([2, 8]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_cache_size_is_the_formulas_and_the_tensors(L, B, G, S, d, dtype):
    config = ModelConfig(5, 8, 8, L, 2 * G, G, d, max_position_embeddings=S)
    cache = DecoderLM(config).to(dtype).new_cache(B)
    assert cache.capacity == S and cache.kv.dtype == dtype
    assert cache.elements_per_token() == dense_kv_elements(config.to_dict())
    assert cache.elements_per_token() * B * S == cache.kv.numel()
    assert cache.bytes_per_token() * B * S == cache.kv.nbytes
    assert cache.kv.untyped_storage().nbytes() == cache.kv.nbytes


@pytest.mark.parametrize("place", range(5))
def test_cache_of_size_zero(place):
    sizes = [1, 1, 1, 1, 2]
    sizes[place] = 0
    with pytest.raises(ValueError, match="every size must be >= 1"):
        KVCache(*sizes)


def test_cache_overflow_says_how_many_fit():
    cache = KVCache(1, 1, 1, 2, 2)
    three = torch.zeros(1, 1, 3, 2)
    with pytest.raises(ValueError, match="3 tokens do not fit a cache of 2"):
        cache.update(0, three, three)


@pytest.mark.parametrize("shape", [(2, 1, 1, 2), (1, 2, 1, 2)])
def test_cache_of_another_batch_or_model(shape):
    with pytest.raises(ValueError, match="one cache per batch"):
        KVCache(1, 1, 1, 4, 2).update(0, torch.zeros(shape), torch.zeros(shape))
