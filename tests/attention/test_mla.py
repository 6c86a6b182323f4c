"""Latent attention: both forms agree, with `DeepseekV3Attention` too, whole and token by token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    DeepseekV3RMSNorm,
    DeepseekV3RotaryEmbedding,
)

from course_utils.accounting import attention as accounting
from course_utils.attention import (
    LatentAttention,
    LayeredCache,
    MLAConfig,
    YarnConfig,
    absorbing_pays,
    grouped_query_attention,
    mla_absorbed,
    mla_naive,
    softmax_scale,
    yarn_frequencies,
    yarn_tables,
)
from course_utils.attention.mla import scaled_attention
from course_utils.layers import apply_rope, apply_rope_interleaved, rms_norm, rope_tables

some = settings(max_examples=60, deadline=None, derandomize=True)
WIDTH, HEADS, THETA = 40, 3, 500.0
DEEPSEEK = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32, "beta_fast": 4}
SCALINGS = {
    "no YaRN": None,
    "YaRN": YarnConfig.from_dict(DEEPSEEK | {"mscale": 1.0, "mscale_all_dim": 1.0}),
    "YaRN, unequal mscales": YarnConfig.from_dict(
        DEEPSEEK | {"mscale": 0.5, "mscale_all_dim": 0.8}
    ),
}
in_both_precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["fp32", "fp64"]
)


def normal(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@st.composite
def mla_inputs(draw):
    """Queries, rows, W_UK, W_UV, a scale, and a mask per sequence, shared, or none; T <= S."""
    B, H, seed = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 2**31))
    T, past = draw(st.integers(1, 5)), draw(st.integers(0, 5))
    N, P, V, R = (draw(st.integers(1, 6)) for _ in range(4))
    q, rows = normal(seed, B, H, T, N + P), normal(seed + 1, B, T + past, R + P)
    given = (q, rows, normal(seed + 2, H, N, R), normal(seed + 3, H, V, R), 0.1 + N / 7)
    kind = draw(st.sampled_from(["none", "per sequence", "shared"]))
    if kind == "none":
        return *given, None
    shape = (B, 1, T, T + past) if kind == "per sequence" else (T, T + past)
    own = torch.eye(T + past, dtype=torch.bool)[past:]  # so that no row is empty
    return *given, (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6) | own


@some
@given(mla_inputs())
def test_naive_is_absorbed(inputs):
    naive, absorbed = mla_naive(*inputs), mla_absorbed(*inputs)
    assert naive.shape == (*inputs[0].shape[:3], inputs[3].shape[1])
    torch.testing.assert_close(absorbed, naive, rtol=1e-10, atol=1e-10)


@some
@given(mla_inputs())
def test_both_are_a_loop_over_heads_and_queries(inputs):
    q, rows, w_uk, w_uv, scale, mask = inputs
    (B, H, T, _), (S, R) = q.shape, (rows.shape[1], w_uk.shape[2])
    expected = torch.empty(B, H, T, w_uv.shape[1], dtype=q.dtype)
    for b in range(B):
        for h in range(H):
            keys = [torch.cat([w_uk[h] @ row[:R], row[R:]]) for row in rows[b]]
            for t in range(T):
                seen = [s for s in range(S) if s <= S - T + t]
                if mask is not None:
                    visible = mask[b, 0, t] if mask.dim() == 4 else mask[t]
                    seen = [s for s in range(S) if visible[s]]
                scores = torch.stack([scale * q[b, h, t] @ keys[s] for s in seen])
                values = torch.stack([w_uv[h] @ rows[b, s, :R] for s in seen])
                expected[b, h, t] = scores.softmax(0) @ values
    for form in (mla_naive, mla_absorbed):
        torch.testing.assert_close(form(*inputs), expected, rtol=1e-10, atol=1e-10)


def test_both_forms_have_the_same_gradients():
    given = [normal(n, *s) for n, s in enumerate([(2, 3, 4, 7), (2, 4, 8), (3, 5, 6), (3, 4, 6)])]
    grads = []
    for form in (mla_naive, mla_absorbed):
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        form(*leaves, 0.3).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("value", [2, 6, 9])
@pytest.mark.parametrize(("T", "S"), [(1, 5), (3, 5), (5, 5)])
def test_values_of_any_width(value, T, S):
    q, k, v = normal(0, 2, 3, T, 6), normal(1, 2, 3, S, 6), normal(2, 2, 3, S, value)
    expected = grouped_query_attention(q, k, v)
    torch.testing.assert_close(scaled_attention(q, k, v, 6**-0.5), expected)


# --- beside transformers -----------------------------------------------------------------------


def published(mla: MLAConfig) -> DeepseekV3Config:
    scaling, rope = mla.rope_scaling, {"rope_type": "default", "rope_theta": THETA}
    if scaling is not None:
        rope = vars(scaling) | {"rope_type": "yarn", "rope_theta": THETA}
    config = DeepseekV3Config(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=128,
        q_lora_rank=mla.q_lora_rank,
        kv_lora_rank=mla.kv_lora_rank,
        qk_nope_head_dim=mla.qk_nope_head_dim,
        qk_rope_head_dim=mla.qk_rope_head_dim,
        v_head_dim=mla.v_head_dim,
        rope_parameters=rope,
    )
    config._attn_implementation = "sdpa"  # their eager softmax rounds to 32 bits
    return config


@torch.no_grad()
def pair(mla: MLAConfig, dtype: torch.dtype, monkeypatch) -> tuple:
    """Ours and theirs on the same random weights, norms included; their RMSNorm in `dtype`."""
    if dtype == torch.float64:  # theirs rounds to 32 bits inside, which alone costs 1e-7

        def forward(self, x):
            return rms_norm(x, self.weight, self.variance_epsilon)

        monkeypatch.setattr(DeepseekV3RMSNorm, "forward", forward)
    theirs, generator = DeepseekV3Attention(published(mla), 0), torch.Generator().manual_seed(3)
    for weight in theirs.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else 0.3 * noise)
    ours = LatentAttention(WIDTH, HEADS, mla)
    ours.load_state_dict(theirs.state_dict())
    return ours.to(dtype).eval(), theirs.to(dtype).eval()


def tables(mla: MLAConfig, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    width, scaling = mla.qk_rope_head_dim, mla.rope_scaling
    if scaling is None:
        return rope_tables(positions, width, THETA)
    return yarn_tables(positions, width, THETA, scaling)


@in_both_precisions
@pytest.mark.parametrize("q_rank", [None, 24])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
@torch.no_grad()
def test_deepseek_prefill_and_token_by_token(scaling, q_rank, dtype, tolerance, monkeypatch):
    mla = MLAConfig(16, 12, 8, 10, q_rank, scaling)
    ours, theirs = pair(mla, dtype, monkeypatch)
    assert ours.scale == pytest.approx(theirs.scaling, rel=1e-12)
    T = 45  # past the 32 positions of the trained context
    x = normal(5, 2, T, WIDTH).to(dtype)
    rotary = DeepseekV3RotaryEmbedding(published(mla))(x, torch.arange(T)[None])
    unseen = torch.full((1, 1, T, T), float("-inf"), dtype=dtype).triu(1)
    expected = theirs(x, rotary, unseen)[0]
    assert expected.abs().max() > 0.5
    cos, sin = tables(mla, torch.arange(T))
    for absorbed in (False, True, None):
        whole = ours(x, cos, sin, absorbed=absorbed)
        torch.testing.assert_close(whole, expected, rtol=0, atol=tolerance)
        cache, parts = LayeredCache([ours.cache_layout()], 2, T, dtype), []
        for step in [slice(0, 20), *(slice(t, t + 1) for t in range(20, T))]:
            turned = (cos[step], sin[step])
            parts.append(ours(x[:, step], *turned, cache=cache, absorbed=absorbed))
            cache.advance(parts[-1].shape[1])
        torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", list(SCALINGS)[1:])
@pytest.mark.parametrize("theta", [500.0, 10_000.0])
@pytest.mark.parametrize("beta_fast", [4.0, 32.0])
def test_yarn_is_that_of_transformers(name, theta, beta_fast):
    scaling = YarnConfig(**(vars(SCALINGS[name]) | {"beta_fast": beta_fast}))
    config = published(MLAConfig(16, 12, 16, 10, None, scaling))
    config.rope_parameters["rope_theta"] = theta
    frequencies, length = ROPE_INIT_FUNCTIONS["yarn"](config)
    torch.testing.assert_close(yarn_frequencies(16, theta, scaling), frequencies)
    cos, _ = yarn_tables(torch.tensor([0]), 16, theta, scaling)
    assert float(cos[0, 0]) == pytest.approx(length)


def test_yarn_leaves_fast_pairs_and_stretches_slow_ones():
    scaling = YarnConfig(factor=40, original_max_position_embeddings=4096)
    plain = 1 / 10_000 ** (torch.arange(0, 64, 2) / 64)
    stretched = yarn_frequencies(64, 10_000, scaling)
    torch.testing.assert_close(stretched[:8], plain[:8])
    torch.testing.assert_close(stretched[-6:], plain[-6:] / 40)
    assert softmax_scale(192) == 192**-0.5
    v3 = YarnConfig(40, 4096, 32, 1, 1.0, 1.0)
    assert softmax_scale(192, v3) == pytest.approx(192**-0.5 * 1.3688879**2)
    same = YarnConfig(factor=1, original_max_position_embeddings=64, mscale_all_dim=1.0)
    torch.testing.assert_close(yarn_frequencies(64, 10_000, same), plain)
    assert softmax_scale(192, same) == 192**-0.5


# --- RoPE, cache, choice of form ---------------------------------------------------------------


def test_interleaved_is_half_split_of_sorted_channels():
    x, (cos, sin) = normal(0, 2, 3, 5, 8), rope_tables(torch.arange(5), 8)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    sorted_ = apply_rope(x[..., order], cos, sin)
    torch.testing.assert_close(apply_rope_interleaved(x, cos, sin)[..., order], sorted_)
    assert not torch.allclose(apply_rope_interleaved(x, cos, sin), apply_rope(x, cos, sin))


def test_the_wrong_pairs_give_another_output():
    mla = MLAConfig(16, 12, 8, 10)
    right = LatentAttention(WIDTH, HEADS, mla)
    wrong = LatentAttention(WIDTH, HEADS, mla, rope=apply_rope)
    wrong.load_state_dict(right.state_dict())
    x, turned = normal(0, 1, 6, WIDTH).float(), rope_tables(torch.arange(6), 8)
    assert not torch.allclose(right(x, *turned), wrong(x, *turned), atol=1e-4)


@some
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([None, True, False]))
def test_chunks_give_what_one_pass_gives(sizes, absorbed):
    layer = LatentAttention(WIDTH, HEADS, MLAConfig(6, 4, 2, 3, 5)).double()
    T = sum(sizes)
    x, (cos, sin) = normal(T, 2, T, WIDTH), rope_tables(torch.arange(T), 2)
    cache, parts, done = LayeredCache([layer.cache_layout()], 2, T, torch.float64), [], 0
    with torch.no_grad():
        expected = layer(x, cos, sin)
        for size in sizes:
            here = slice(done, done + size)
            out = layer(x[:, here], cos[here], sin[here], cache=cache, absorbed=absorbed)
            parts.append(out)
            cache.advance(size)
            done += size
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-10, atol=1e-10)


def test_the_cache_is_normed_and_turned_and_not_copied():
    mla = MLAConfig(6, 4, 2, 3)
    layer = LatentAttention(WIDTH, HEADS, mla).double()
    cache, x = LayeredCache([layer.cache_layout()], 1, 9, torch.float64), normal(0, 1, 4, WIDTH)
    seen = []

    def spy(*inputs):
        seen.append(inputs[1])
        return mla_absorbed(*inputs)

    layer.absorbed = spy
    with torch.no_grad():
        layer(x, *rope_tables(torch.arange(4), 2), cache=cache, absorbed=True)
        cache.advance(4)
        raw = layer.kv_a_proj_with_mqa(x)
        latent = rms_norm(raw[..., :6], layer.kv_a_layernorm.weight)
        key = apply_rope_interleaved(raw[..., 6:], *rope_tables(torch.arange(4), 2))
    (rows,) = cache.read(0)
    torch.testing.assert_close(rows, torch.cat([latent, key], -1))
    assert seen[0].data_ptr() == rows.data_ptr()
    assert cache.elements_per_token() == 6 + 2 and cache.bytes() == 4 * 8 * 8


@pytest.mark.parametrize("shape", [(128, 64, 32, 64), (512, 128, 64, 128), (8, 32, 8, 32)])
def test_the_form_that_multiplies_less_is_taken(shape):
    rank, nope, rope, value = shape
    config = MLAConfig(rank, nope, rope, value)
    counted = accounting.LatentAttention(1, rank, nope, rope, value)
    per_pair = {form: counted.reads(absorbed=form)[0].amount for form in (False, True)}
    for T, S in [(1, 1), (1, 4096), (64, 4096), (300, 4096), (512, 512)]:
        moved = 2 * rank * (nope + value)
        naive = S * moved + T * S * per_pair[False]
        absorbed = T * moved + T * S * per_pair[True]
        assert absorbing_pays(config, T, S) == (absorbed < naive)


def test_v3_absorbs_up_to_170_new_tokens_of_a_long_text():
    v3 = MLAConfig(512, 128, 64, 128, 1536)
    assert absorbing_pays(v3, 170, 10**6) and not absorbing_pays(v3, 171, 10**6)
    assert not absorbing_pays(v3, 2048, 2048)
