"""A window holds exactly W tokens, in the mask, in the cache and against gpt-oss."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GptOssConfig
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssRotaryEmbedding

from course_utils.attention import (
    GroupedQueryAttention,
    LayeredCache,
    window_mask,
)
from course_utils.layers import rope_tables

some = settings(max_examples=40, deadline=None, derandomize=True)
D, H, G, HEAD = 24, 4, 2, 6


def module(window: int, dtype=torch.float64, qk_norm: bool = True) -> GroupedQueryAttention:
    torch.manual_seed(1)
    made = GroupedQueryAttention(D, H, G, HEAD, qk_norm, 1e-6, window=window).to(dtype)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, 0.5 if weight.dim() == 1 else 0.0, 0.5)
    return made


def tables(T: int, dtype=torch.float64):
    return tuple(table.to(dtype) for table in rope_tables(torch.arange(T), HEAD))


def in_parts(layer, x, cuts, mask=None):
    """The outputs for x cut at `cuts`, through a cache; and the cache."""
    cache = LayeredCache([layer.cache_layout()], x.shape[0], x.shape[1], x.dtype)
    cos, sin = tables(x.shape[1], x.dtype)
    edges, out = [0, *sorted(cuts), x.shape[1]], []
    for start, end in pairwise(edges):
        seen = None if mask is None else mask[..., start:end, :end]
        piece = layer(x[:, start:end], cos[start:end], sin[start:end], seen, cache)
        cache.advance(end - start)
        out.append(piece)
    return torch.cat(out, dim=1), cache


def test_the_mask_by_hand():
    seen = window_mask(torch.arange(4), torch.arange(4), 2).int().tolist()
    assert seen == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_the_oldest_key_counts_and_the_one_before_does_not():
    layer, x = module(3), torch.randn(1, 6, D, dtype=torch.float64)
    base = layer(x, *tables(6))
    for changed, reaches in ((2, False), (3, True)):  # query 5 sees 3, 4, 5
        other = x.clone()
        other[:, changed] += 1
        differs = (layer(other, *tables(6))[:, 5] - base[:, 5]).abs().max() > 1e-6
        assert bool(differs) == reaches


@pytest.mark.parametrize("window", [1, 2, 5, 16])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_gpt_oss_with_its_sinks_off(window, dtype, tolerance):
    config = GptOssConfig(
        hidden_size=D,
        num_attention_heads=H,
        num_key_value_heads=G,
        head_dim=HEAD,
        num_hidden_layers=1,
        sliding_window=window,
        layer_types=["sliding_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    config._attn_implementation = "eager"
    ours, theirs = module(window, dtype, qk_norm=False), GptOssAttention(config, 0).to(dtype)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            weight.zero_()  # gpt-oss's biases, which the course has not
            if name == "sinks":
                weight.fill_(-1e9)
        theirs.load_state_dict(ours.state_dict(), strict=False)
    T = 12
    x = torch.randn(2, T, D, dtype=dtype)
    mask = create_sliding_window_causal_mask(config, x, None, None)
    position = torch.arange(T)[None]
    expected, _ = theirs(x, GptOssRotaryEmbedding(config)(x, position), mask)
    torch.testing.assert_close(ours(x, *tables(T, dtype)), expected, rtol=0, atol=tolerance)


@some
@given(st.integers(1, 12), st.integers(0, 5))
def test_a_window_of_the_whole_text_is_full_attention(T, more):
    ours, x = module(T + more), torch.randn(2, T, D, dtype=torch.float64)
    full = GroupedQueryAttention(D, H, G, HEAD, True, 1e-6).double()
    full.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x, *tables(T)), full(x, *tables(T)), rtol=0, atol=1e-12)


@some
@given(st.integers(1, 9), st.integers(1, 14), st.data())
def test_however_the_text_is_cut_the_result_is_the_same(window, T, data):
    cuts = data.draw(st.sets(st.integers(1, T - 1))) if T > 1 else set()
    layer, x = module(window), torch.randn(2, T, D, dtype=torch.float64)
    parts, cache = in_parts(layer, x, cuts)
    torch.testing.assert_close(parts, layer(x, *tables(T)), rtol=0, atol=1e-10)
    kept = min(T, window) * 2 * G * HEAD
    assert cache.elements(T) == kept
    assert cache.bytes() == 2 * kept * 8


@some
@given(st.integers(1, 6), st.integers(2, 10), st.data())
def test_padding_is_never_seen(window, T, data):
    pad = data.draw(st.integers(1, T - 1))
    layer, x = module(window), torch.randn(1, T, D, dtype=torch.float64)
    real = torch.arange(T) >= pad
    mask = torch.ones(T, T).tril().bool() & real | torch.eye(T).bool()
    cuts = data.draw(st.sets(st.integers(1, T - 1)))
    out, _ = in_parts(layer, x, cuts, mask[None, None])
    x[:, :pad] = 7.0  # other values under the padding change nothing
    again, _ = in_parts(layer, x, cuts, mask[None, None])
    torch.testing.assert_close(out[:, pad:], again[:, pad:], rtol=0, atol=1e-12)
