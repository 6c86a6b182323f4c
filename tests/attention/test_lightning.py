"""Lightning attention: chunked, recurrent and the sum over pairs are the same."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.attention import chunked_lightning, lightning_slopes, recurrent_lightning

some = settings(max_examples=60, deadline=None, derandomize=True)


def inputs(seed, B, H, T, K, V):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, H, T, K), (B, H, T, K), (B, H, T, V), (B, H, K, V)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


shapes = st.tuples(*[st.integers(1, n) for n in (2, 4, 30, 5, 4)])


def test_it_is_attention_without_a_softmax_whose_weights_fade():
    q, k, v, _ = inputs(0, 2, 3, 9, 4, 5)
    slope = lightning_slopes(3, 0, 2).double()
    distance = torch.arange(9)[:, None] - torch.arange(9)
    fade = (-slope[:, None, None] * distance).exp() * (distance >= 0)
    expected = (q @ k.mT * fade) @ v
    torch.testing.assert_close(recurrent_lightning(q, k, v, slope)[0], expected)


@some
@given(st.integers(0, 2**31), shapes, st.integers(1, 12), st.sampled_from([0.0, 0.5, 200.0]))
def test_chunked_is_recurrent(seed, shape, chunk, slope):
    q, k, v, state = inputs(seed, *shape)
    slopes = torch.full((shape[1],), slope, dtype=torch.float64)
    expected = recurrent_lightning(q, k, v, slopes, state)
    found = chunked_lightning(q, k, v, slopes, state, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@some
@given(st.integers(0, 2**31), st.integers(2, 30), st.data())
def test_the_state_does_not_depend_on_how_the_text_is_cut(seed, T, data):
    cut = data.draw(st.integers(1, T - 1))
    *tokens, state = inputs(seed, 1, 2, T, 4, 3)
    slope = lightning_slopes(2, 1, 4).double()
    at_once = chunked_lightning(*tokens, slope, state, chunk=7)
    first, middle = chunked_lightning(*(x[:, :, :cut] for x in tokens), slope, state, chunk=7)
    second, end = recurrent_lightning(*(x[:, :, cut:] for x in tokens), slope, middle)
    found = (torch.cat([first, second], dim=2), end)
    torch.testing.assert_close(found, at_once, rtol=1e-9, atol=1e-9)
