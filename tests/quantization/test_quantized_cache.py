"""The packed cache behind the model's protocol, and mixed recipes with the published size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.accounting.catalog import find
from course_utils.accounting.formats import stored_bytes
from course_utils.models import shipped
from course_utils.quantization import quantize_model, weight_bytes
from course_utils.quantization.kv_cache import (
    QuantizedKVCache,
    quantize_keys,
    quantize_values,
    round_cache,
)
from course_utils.quantization.recipes import int4_experts, wint2_like


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(bits: int = 4, group: int = 4, capacity: int = 40, **options) -> QuantizedKVCache:
    return QuantizedKVCache(2, 1, 3, capacity, 8, bits, group=group, **options)


@given(st.integers(1, 3), st.integers(2, 20), st.integers(0, 999), st.sampled_from([2, 4, 8]))
@settings(max_examples=40, deadline=None)
def test_error_is_at_most_half_a_step_of_the_range(heads, tokens, seed, bits):
    k = normal(1, heads, tokens, 8, seed=seed)
    for quantize, axis in ((quantize_keys, -2), (quantize_values, -1)):
        codes, scale, lowest = quantize(k, bits)
        step = (k.amax(axis, keepdim=True) - k.amin(axis, keepdim=True)) / (2**bits - 1)
        assert ((codes * scale + lowest - k).abs() <= step / 2 + 1e-5).all()
        assert int(codes.max()) <= 2**bits - 1


def test_large_channels_make_the_axis_matter_and_plain_ones_do_not():
    def error(k, along):
        return float((round_cache(k, 2, along) - k).pow(2).mean())

    plain = normal(1, 2, 64, 32)
    large = plain.clone()
    large[..., 5] += 40
    assert 0.5 < error(plain, "token") / error(plain, "channel") < 2
    assert error(large, "token") > 20 * error(large, "channel")


def test_tokens_one_by_one_give_what_all_at_once_give():
    k, v = normal(1, 3, 11, 8), normal(1, 3, 11, 8, seed=1)
    whole, single = made(), made()
    expected = whole.update(1, k, v)
    whole.advance(11)
    for t in range(11):
        got = single.update(1, k[:, :, t : t + 1], v[:, :, t : t + 1])
        single.advance(1)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    assert torch.equal(got[0][:, :, 8:], k[:, :, 8:])  # the newest fill no group
    assert not torch.equal(got[0][:, :, :8], k[:, :, :8])


@pytest.mark.parametrize("length", [10, 8, 6, 0])
def test_going_back_and_on(length):
    k, v = normal(1, 3, 11, 8), normal(1, 3, 11, 8, seed=1)
    cache = made()
    before = cache.update(0, k, v)[0]
    cache.advance(11)
    cache.truncate(length)
    after = cache.update(0, k[:, :, :1], v[:, :, :1])[0]
    assert cache.length == length and after.shape[2] == length + 1
    # what was packed is read again; a group that was opened and filled anew is rounded once more
    kept = length // 4 * 4
    assert torch.equal(after[:, :, :kept], before[:, :, :kept])


def test_bytes_are_those_of_codes_ranges_and_the_newest():
    cache = made(bits=2, group=4)
    cache.update(0, normal(1, 3, 9, 8), normal(1, 3, 9, 8))
    cache.advance(9)
    heads, layers, two = 3, 2, 2
    codes = 8 * 8 * 2 // 8  # 8 tokens of 8 channels, 2 bits
    keys, values = 2 * 8 * 4, 8 * 4  # ranges of 4 bytes: 2 groups x 8 channels; 8 tokens
    newest = 8 * 4
    assert cache.bytes() == heads * layers * (two * (codes + newest) + keys + values)


def test_a_model_generates_from_it():
    model = shipped("dense")
    config = model.config
    ids = torch.arange(100, 170)[None]
    sizes = (config.num_hidden_layers, 1, config.num_key_value_heads, 128, config.head_dim)
    with torch.no_grad():
        full = model(ids)
        errors = {}
        for bits in (8, 4, 2):
            cache = QuantizedKVCache(*sizes, bits=bits)
            first = model(ids[:, :60], cache)
            rest = [model(ids[:, t : t + 1], cache) for t in range(60, 70)]
            errors[bits] = float((torch.cat([first, *rest], 1) - full).abs().mean())
    assert errors[8] < errors[4] < errors[2] and errors[8] < 0.1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit a cache of 40"):
        made().update(0, normal(1, 3, 41, 8), normal(1, 3, 41, 8))
    with pytest.raises(ValueError, match="one cache per batch"):
        made().update(0, normal(2, 3, 1, 8), normal(2, 3, 1, 8))
    with pytest.raises(ValueError, match="channel"):
        made(keys="head")
    with pytest.raises(ValueError, match="cannot go back"):
        made().truncate(1)


def test_the_recipe_of_ernie_gives_the_published_size():
    size = stored_bytes(find("ERNIE-4.5-300B-A47B").spec, "wint2") / 1e9
    assert round(size) == 89


def test_recipes_reach_the_experts_and_leave_the_rest():
    model = shipped("moe")
    before = weight_bytes(model)
    quantize_model(model, wint2_like(model.config, early=2))
    assert weight_bytes(model) < before / 6
    kimi = shipped("moe")
    attention = kimi.model.layers[1].self_attn.q_proj.weight.clone()
    quantize_model(kimi, int4_experts(kimi.config))
    assert torch.equal(kimi.model.layers[1].self_attn.q_proj.weight, attention)
    assert weight_bytes(model) < weight_bytes(kimi) < before
    with pytest.raises(ValueError, match="no experts"):
        int4_experts(shipped("dense").config)
