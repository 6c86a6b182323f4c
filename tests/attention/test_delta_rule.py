"""The delta rule: chunked is recurrent, both are `transformers`', and texts may be cut anywhere."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.kimi_linear import modeling_kimi_linear as kimi
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

from course_utils.attention import chunked_delta_rule, recurrent_delta_rule

some = settings(max_examples=60, deadline=None, derandomize=True)


def in_double(function, module):
    """The reference function, which rounds to 32 bits inside, computing in 64."""
    source = inspect.getsource(function).replace("torch.float32", "torch.float64")
    source = source.replace(".float()", ".double()")
    source = source[source.index("def ") :]  # without its decorator
    scope = dict(vars(module))
    exec(source, scope)
    return scope[function.__name__]


def inputs(seed, B, H, T, K, V, per_channel, decay=1.0, dtype=torch.float64):
    """q and k of length 1, v, log decays around -decay, beta, and a state."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q, k, v = normal(B, H, T, K), normal(B, H, T, K), normal(B, H, T, V)
    g = -decay * torch.rand(B, H, T, K if per_channel else 1, generator=generator).double()
    beta = torch.rand(B, H, T, generator=generator).double()
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    return [x.to(dtype) for x in (q, k, v, g, beta, normal(B, H, K, V))]


def test_without_decay_what_was_written_is_read():
    _, k, v, g, beta, _ = inputs(0, 1, 2, 5, 8, 3, False)
    out, _ = recurrent_delta_rule(k, k, v, g * 0, beta * 0 + 1)
    torch.testing.assert_close(out, v)


def test_a_new_value_replaces_the_old_one_under_the_same_key():
    _, k, v, g, beta, _ = inputs(1, 1, 1, 2, 4, 3, False)
    k[:, :, 1] = k[:, :, 0]
    _, state = recurrent_delta_rule(k, k, v, g * 0, beta * 0 + 1)
    torch.testing.assert_close((k[:, :, :1] @ state), v[:, :, 1:])


@some
@given(
    st.integers(0, 2**31),
    st.tuples(*[st.integers(1, n) for n in (2, 3, 40, 6, 5)]),
    st.booleans(),
    st.sampled_from([0.0, 0.01, 1.0, 30.0, 1e4]),
    st.integers(1, 20),
    st.booleans(),
)
def test_chunked_is_recurrent(seed, shape, per_channel, decay, chunk, with_state):
    *given_inputs, state = inputs(seed, *shape, per_channel, decay)
    state = state if with_state else None
    expected = recurrent_delta_rule(*given_inputs, state)
    found = chunked_delta_rule(*given_inputs, state, chunk=chunk)
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_extremes_of_the_strength(beta):
    q, k, v, g, b, state = inputs(3, 2, 2, 33, 6, 5, True)
    k[:, :, 1::2] = k[:, :, ::2][:, :, :16]  # every key twice: the hardest system
    expected = recurrent_delta_rule(q, k, v, g, b * 0 + beta, state)
    found = chunked_delta_rule(q, k, v, g, b * 0 + beta, state, chunk=8)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@some
@given(st.integers(0, 2**31), st.integers(2, 30), st.booleans(), st.data())
def test_the_state_does_not_depend_on_how_the_text_is_cut(seed, T, per_channel, data):
    cut = data.draw(st.integers(1, T - 1))
    *tokens, state = inputs(seed, 1, 2, T, 4, 3, per_channel)
    at_once = chunked_delta_rule(*tokens, state, chunk=8)
    first, middle = chunked_delta_rule(*(x[:, :, :cut] for x in tokens), state, chunk=8)
    second, end = recurrent_delta_rule(*(x[:, :, cut:] for x in tokens), middle)
    torch.testing.assert_close(
        (torch.cat([first, second], dim=2), end), at_once, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_are_finite_and_equal(per_channel):
    found = []
    for form in (recurrent_delta_rule, lambda *x: chunked_delta_rule(*x, chunk=5)):
        given_inputs = inputs(5, 1, 2, 13, 4, 3, per_channel, decay=1e3)
        for x in given_inputs:
            x.requires_grad_()
        out, state = form(*given_inputs)
        ((out**2).sum() + (state**3).sum()).backward()
        found.append([x.grad for x in given_inputs])
    for ours, right in zip(*found, strict=True):
        assert right.isfinite().all()
        torch.testing.assert_close(ours, right, rtol=1e-8, atol=1e-8)


KIMI = (kimi.recurrent_kimi_delta_attention, kimi.chunk_kimi_delta_attention, kimi)
QWEN = (qwen.torch_recurrent_gated_delta_rule, qwen.torch_chunk_gated_delta_rule, qwen)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("form", [0, 1], ids=["recurrent", "chunked"])
@pytest.mark.parametrize("family", [QWEN, KIMI], ids=["qwen3-next", "kimi-linear"])
@pytest.mark.parametrize("T, with_state", [(1, True), (37, False), (64, True), (70, True)])
def test_transformers(family, form, dtype, tolerance, T, with_state):
    *tokens, state = inputs(9, 2, 3, T, 8, 6, family is KIMI, dtype=dtype)
    state = state if with_state else None
    q, k, v, g, beta = tokens
    reference = family[form]
    reference = in_double(reference, family[2]) if dtype == torch.float64 else reference
    g_theirs = g if family is KIMI else g[..., 0]
    given_inputs = [x.transpose(1, 2) for x in (q * 8**0.5, k, v, g_theirs, beta)]  # unscaled
    expected, final = reference(
        *given_inputs, initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=False
    )
    for ours in (
        recurrent_delta_rule(*tokens, state),
        chunked_delta_rule(*tokens, state, chunk=16),
    ):
        torch.testing.assert_close(ours[0], expected.transpose(1, 2), rtol=0, atol=tolerance)
        torch.testing.assert_close(ours[1], final, rtol=0, atol=tolerance)
