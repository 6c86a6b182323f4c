"""The layers around linear attention are those of Qwen3-Next, Kimi Linear and MiniMax."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import KimiLinearConfig, MiniMaxConfig, Qwen3NextConfig
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from course_utils.accounting import linear_attention as counted
from course_utils.attention import (
    GatedDeltaNet,
    KimiDeltaAttention,
    LayeredCache,
    LightningAttention,
    LinearAttentionConfig,
    short_convolution,
)

some = settings(max_examples=40, deadline=None, derandomize=True)
D = 16
DELTA = LinearAttentionConfig("gated_deltanet", 2, 4, 6, 5)
KDA = LinearAttentionConfig("kda", 3, 3, 4, 4)
LIGHTNING = LinearAttentionConfig("lightning", 4, 4, 6, 6)
KINDS = ["gated_deltanet", "kda", "lightning"]


def ours(kind: str) -> torch.nn.Module:
    if kind == "lightning":
        return LightningAttention(D, LIGHTNING, 1, 4)
    return GatedDeltaNet(D, DELTA) if kind == "gated_deltanet" else KimiDeltaAttention(D, KDA)


def theirs(kind: str) -> torch.nn.Module:
    sizes = {"hidden_size": D, "num_hidden_layers": 4, "num_attention_heads": 4}
    types = {"layer_types": ["linear_attention"] * 4}
    if kind == "lightning":
        config = MiniMaxConfig(**sizes, **types, head_dim=6, block_size=8, hidden_act="silu")
        return MiniMaxLightningAttention(config, 1)
    if kind == "kda":
        linear = {"head_dim": 4, "num_heads": 3, "short_conv_kernel_size": 4}
        config = KimiLinearConfig(**sizes, **types, linear_attn_config=linear, rms_norm_eps=1e-6)
        return KimiLinearDeltaAttention(config, 1)
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
    linear = {f"linear_{name}": getattr(DELTA, f"linear_{name}") for name in names}
    return Qwen3NextGatedDeltaNet(Qwen3NextConfig(**sizes, **types, **linear), 1)


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    for name, weight in module.named_parameters():
        torch.nn.init.normal_(weight, 0.5 if "norm" in name or weight.dim() == 1 else 0.0, 0.3)
    return module


def in_parts(layer, x, cuts):
    """The outputs for x cut at `cuts`, through a cache; and the cache."""
    cache = LayeredCache([layer.cache_layout()], x.shape[0], x.shape[1], x.dtype)
    out = []
    for start, end in pairwise([0, *sorted(cuts), x.shape[1]]):
        out.append(layer(x[:, start:end], cache=cache))
        cache.advance(end - start)
    return torch.cat(out, dim=1), cache


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [1, 9, 64, 71])
def test_transformers(kind, T):
    layer, reference = randomize(ours(kind)), theirs(kind)
    missing, unexpected = reference.load_state_dict(layer.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) <= {"slope_rate", "query_decay", "key_decay", "diagonal_decay"}
    x = torch.randn(2, T, D)
    found = reference(x, None, None) if kind == "lightning" else reference(x)
    expected = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


def test_lightning_in_64_bits():
    torch.set_default_dtype(torch.float64)
    try:
        layer, reference = randomize(ours("lightning")), theirs("lightning")
        reference.load_state_dict(layer.state_dict(), strict=False)
        reference.norm = layer.norm  # theirs rounds to 32 bits inside
        x = torch.randn(2, 37, D)
        torch.testing.assert_close(layer(x), reference(x, None, None)[0], rtol=0, atol=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)


@some
@given(st.sampled_from(KINDS), st.integers(1, 70), st.data())
def test_however_the_text_is_cut_the_result_is_the_same(kind, T, data):
    cuts = data.draw(st.sets(st.integers(1, T - 1), max_size=8)) if T > 1 else set()
    layer, x = randomize(ours(kind)).double(), torch.randn(2, T, D, dtype=torch.float64)
    parts, _ = in_parts(layer, x, cuts)
    torch.testing.assert_close(parts, layer(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_looks_ahead(kind):
    layer, x = randomize(ours(kind)).double(), torch.randn(1, 9, D, dtype=torch.float64)
    other = x.clone()
    other[:, 5] += 1
    difference = (layer(x) - layer(other)).abs().amax(dim=(0, 2))
    assert (difference[:5] == 0).all()
    assert (difference[5:] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_before_the_text_writes_nothing(kind):
    layer, x = randomize(ours(kind)).double(), torch.randn(2, 9, D, dtype=torch.float64)
    mask = torch.arange(9).expand(2, 9) >= torch.tensor([[0], [4]])
    out = layer(x, mask_BT=mask)
    torch.testing.assert_close(out[1:, 4:], layer(x[1:, 4:]), rtol=0, atol=1e-10)
    torch.testing.assert_close(out[:1], layer(x[:1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_and_the_weights_are_what_accounting_counts(kind):
    layer = ours(kind)
    spec = {
        "gated_deltanet": lambda: counted.GatedDeltaNet(2, 4, 6, 5, 4),
        "kda": lambda: counted.KimiDeltaAttention(3, 4, 4),
        "lightning": lambda: counted.LightningAttention(4, 6),
    }[kind]()
    assert sum(w.numel() for w in layer.parameters()) == sum(w.total for w in spec.weights(D))
    for T in (1, 2, 30):
        _, cache = in_parts(layer, torch.randn(3, T, D), [])
        kept = sum(span.at(T) for span in spec.keeps())
        assert cache.elements(T) == kept
        assert cache.bytes() == 3 * 4 * kept
        assert cache.elements_per_token() == 0


def test_the_convolution_sees_the_last_tokens_and_itself():
    x, weight = torch.randn(1, 6, 2).double(), torch.randn(2, 3).double()
    out, past = short_convolution(x, weight)
    y = weight[:, 0] * x[0, 2] + weight[:, 1] * x[0, 3] + weight[:, 2] * x[0, 4]
    torch.testing.assert_close(out[0, 4], torch.nn.functional.silu(y))
    torch.testing.assert_close(past, x[:, 4:].mT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [1, 20])
def test_the_given_function_computes(kind, T):
    calls = []

    def form(*args):
        calls.append(args[0].shape[2])
        return ours(kind).recurrent(*args)

    layer = ours(kind)
    layer.recurrent = layer.chunked = form
    layer(torch.randn(1, T, D))
    assert calls == [T]


@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_comes_back_as_it_went_in(kind):
    layer = ours(kind).bfloat16()
    out, cache = in_parts(layer, torch.randn(2, 9, D).bfloat16(), [4, 8])
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    assert {tensor.dtype for tensor in cache.read(0)} == {torch.bfloat16}
