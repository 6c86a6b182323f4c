"""Decoders of mixed layers: a text may be cut anywhere, and the cache is what accounting says."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.accounting.cache import cache_elements
from course_utils.accounting.ledger import course_spec
from course_utils.attention import IndexerConfig, LayeredCache, LinearAttentionConfig, MLAConfig
from course_utils.models import DecoderLM, ModelConfig

some = settings(max_examples=60, deadline=None, derandomize=True)
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
DELTA = LinearAttentionConfig("gated_deltanet", 1, 2, 6, 5)
KDA = LinearAttentionConfig("kda", 2, 2, 4, 4)
LIGHTNING = LinearAttentionConfig("lightning", 3, 3, 4, 4)
MLA = MLAConfig(8, 6, 4, 5, q_lora_rank=10)
DSA = MLAConfig(8, 6, 4, 5, q_lora_rank=10, index=IndexerConfig(2, 8, 6))
VARIANTS = {
    "window": {"layer_types": [SLIDING] * 4, "sliding_window": 5},
    "window + full": {"layer_types": [SLIDING] * 3 + [FULL], "sliding_window": 5},
    "delta": {"layer_types": [LINEAR] * 4, "linear": DELTA},
    "delta + full": {"layer_types": [LINEAR] * 3 + [FULL], "linear": DELTA},
    "KDA + MLA": {"layer_types": [LINEAR] * 3 + [FULL], "linear": KDA, "mla": MLA},
    "DSA": {"mla": DSA},
    "window + DSA": {"layer_types": [SLIDING] * 3 + [FULL], "sliding_window": 5, "mla": DSA},
    "lightning + full": {"layer_types": [LINEAR] * 3 + [FULL], "linear": LIGHTNING},
    "all + MLA": {
        "layer_types": [LINEAR, SLIDING, FULL, LINEAR],
        "sliding_window": 3,
        "linear": KDA,
        "mla": MLA,
    },
}


def config(variant: str) -> ModelConfig:
    return ModelConfig(40, 16, 24, 4, 4, 2, 4, max_position_embeddings=64, **VARIANTS[variant])


def model(variant: str) -> DecoderLM:
    made = DecoderLM(config(variant), seed=1).double().eval()
    torch.manual_seed(2)
    for name, weight in made.named_parameters():
        if weight.dim() > 1 and "A_log" not in name:
            torch.nn.init.normal_(weight, 0.0, 0.3)
    return made


def tokens(seed: int, B: int, T: int) -> torch.Tensor:
    return torch.randint(40, (B, T), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def in_parts(made, ids, cuts, mask=None):
    """Logits of ids cut at `cuts`, through a cache; and the cache."""
    cache, out = made.new_cache(*ids.shape), []
    for start, end in pairwise([0, *sorted(cuts), ids.shape[1]]):
        seen = None if mask is None else mask[:, :end]
        out.append(made(ids[:, start:end], cache, seen))
    return torch.cat(out, dim=1), cache


@some
@given(st.sampled_from(list(VARIANTS)), st.integers(1, 30), st.data())
def test_however_the_text_is_cut_the_logits_are_the_same(variant, T, data):
    cuts = data.draw(st.sets(st.integers(1, T - 1), max_size=8)) if T > 1 else set()
    made, ids = model(variant), tokens(T, 2, T)
    with torch.no_grad():
        at_once = made(ids)
    parts, _ = in_parts(made, ids, cuts)
    torch.testing.assert_close(parts, at_once, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_token_by_token(variant):
    made, ids = model(variant), tokens(0, 1, 14)
    parts, _ = in_parts(made, ids, range(1, 14))
    torch.testing.assert_close(parts, made(ids).detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cuts", [[], [4, 7], [7, 8, 9]])
def test_padding_on_the_left_changes_nothing(variant, cuts):
    made, ids = model(variant), tokens(1, 2, 12)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0
    out, _ = in_parts(made, ids, cuts, mask)
    with torch.no_grad():
        torch.testing.assert_close(out[:1], made(ids[:1]), rtol=0, atol=1e-9)
        torch.testing.assert_close(out[1:, 5:], made(ids[1:, 5:]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("T", [1, 4, 6, 20])
def test_the_cache_is_what_accounting_counts(variant, T):
    made = DecoderLM(config(variant))
    with torch.no_grad():
        made(tokens(0, 2, T), cache := made.new_cache(2, 40))
    assert isinstance(cache, LayeredCache)
    counted = cache_elements(course_spec(made.config.to_dict()), T)
    assert cache.elements(T) == counted
    assert cache.bytes() == 2 * 4 * counted


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_weights_are_what_accounting_counts(variant):
    made = DecoderLM(config(variant))
    assert made.count_parameters() == course_spec(made.config.to_dict()).count().total


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_and_weights_are_the_same_again(variant):
    again = ModelConfig.from_dict(config(variant).to_dict())
    assert again == config(variant)
    first, second = DecoderLM(config(variant), seed=3), DecoderLM(again, seed=3)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
        assert weight.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_is_trained(variant):
    made = DecoderLM(config(variant))
    made(tokens(0, 2, 20)).square().mean().backward()
    for name, weight in made.named_parameters():
        if "indexer" in name:  # choosing has no gradient
            assert weight.grad is None, name
            continue
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name
