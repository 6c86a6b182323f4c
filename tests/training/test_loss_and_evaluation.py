"""The loss by hand and against `transformers`; bits per byte by hand; evaluation by definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from course_utils.data.corpus import Corpus
from course_utils.models import DecoderLM, ModelConfig
from course_utils.training import bits_per_byte, evaluate, next_token_loss
from course_utils.training.evaluate import together

some = settings(max_examples=40, deadline=None, derandomize=True)


@some
@given(st.integers(1, 3), st.integers(2, 6), st.integers(1, 9), st.integers(0, 2**31))
def test_loss_is_the_mean_surprise(B, T, V, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, T, V, generator=generator, dtype=torch.float64)
    ids = torch.randint(V, (B, T), generator=generator)
    total = 0.0
    for b in range(B):
        for t in range(T - 1):
            powers = [math.exp(value) for value in logits[b, t].tolist()]
            total -= math.log(powers[int(ids[b, t + 1])] / sum(powers))
    expected = total / (B * (T - 1))
    assert float(next_token_loss(logits, ids)) == pytest.approx(expected, abs=1e-9)


def test_loss_is_that_of_transformers():
    config = dict(vocab_size=30, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    heads = dict(num_attention_heads=2, num_key_value_heads=1, head_dim=4)
    theirs = Qwen3ForCausalLM(Qwen3Config(**config, **heads, pad_token_id=None))
    ids = torch.randint(30, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = theirs(ids, labels=ids)
    torch.testing.assert_close(next_token_loss(out.logits, ids), out.loss)


def test_uniform_logits_cost_log_v_and_the_last_position_is_not_judged():
    ids = torch.tensor([[1, 2, 0]])
    logits = torch.zeros(1, 3, 4)
    assert float(next_token_loss(logits, ids)) == pytest.approx(math.log(4))
    logits[:, -1] = torch.tensor([100.0, -100, 0, 0])
    assert float(next_token_loss(logits, ids)) == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("logits", "ids"),
    [((1, 3, 5), (1, 4)), ((2, 3, 5), (1, 3)), ((1, 1, 5), (1, 1)), ((3, 5), (1, 3))],
)
def test_loss_of_shapes_that_do_not_fit(logits, ids):
    with pytest.raises(ValueError, match=r"expected \(B, T, V\)"):
        next_token_loss(torch.zeros(logits), torch.zeros(ids, dtype=torch.long))


def test_bits_per_byte_by_hand():
    assert bits_per_byte(math.log(2), 8, 8) == pytest.approx(1.0)
    assert bits_per_byte(math.log(256), 10, 10) == pytest.approx(8.0)
    assert bits_per_byte(3 * math.log(2), 10, 30) == pytest.approx(1.0)


@pytest.mark.parametrize(("tokens", "size"), [(0, 5), (5, 0), (-1, 5), (5, -1)])
def test_bits_per_byte_of_nothing(tokens, size):
    with pytest.raises(
        ValueError, match=f"{tokens} tokens and {size} bytes: both must be positive"
    ):
        bits_per_byte(1.0, tokens, size)


V, TOKEN_BYTES = 7, np.array([0, 1, 2, 3, 1, 5, 2])


@pytest.fixture
def tiny():
    """A model and a corpus of two domains of different length, one shorter than is asked for."""
    random = np.random.default_rng(0)
    held = {"long": random.integers(1, V, 100), "short": random.integers(1, V, 25)}
    ids = {domain: numbers.astype(np.uint16) for domain, numbers in held.items()}
    other = {domain: np.ones(64, dtype=np.uint16) for domain in held}
    corpus = Corpus({"train": other, "validation": ids, "test": other})
    model = DecoderLM(ModelConfig(V, 8, 12, 1, 2, 1, 4, 32)).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20)
    return model, corpus


def test_evaluation_is_a_sum_over_tokens(tiny):
    model, corpus = tiny
    results = evaluate(model, corpus, TOKEN_BYTES, windows=5, length=10, batch=2)
    sums = {}
    for domain, count in (("long", 5), ("short", 2)):
        nats = tokens = size = 0
        for n in range(count):
            window = corpus.ids["validation"][domain][10 * n : 10 * (n + 1)].astype(np.int64)
            with torch.no_grad():
                chances = model(torch.from_numpy(window)[None])[0].log_softmax(-1)
            for t in range(9):
                nats -= float(chances[t, window[t + 1]])
                size += int(TOKEN_BYTES[window[t + 1]])
                tokens += 1
        got = results[domain]
        assert (got.tokens, got.text_bytes) == (tokens, size)
        assert got.nats_per_token == pytest.approx(nats / tokens, rel=1e-6)
        assert got.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-6)
        sums[domain] = np.array([nats, tokens, size])
    nats, tokens, size = sum(sums.values())
    whole = results["all"]
    assert (whole.tokens, whole.text_bytes) == (tokens, size)
    assert whole.nats_per_token == pytest.approx(nats / tokens, rel=1e-6)
    assert whole.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-6)
    mean = (results["long"].bits_per_byte + results["short"].bits_per_byte) / 2
    assert abs(whole.bits_per_byte - mean) > 1e-3  # weighted by bytes, not by domains
    assert list(results) == ["long", "short", "all"]


@pytest.mark.parametrize("batch", [1, 3, 5, 100])
def test_the_size_of_the_batch_changes_nothing(tiny, batch):
    model, corpus = tiny
    first = evaluate(model, corpus, TOKEN_BYTES, windows=5, length=10, batch=2)
    again = evaluate(model, corpus, TOKEN_BYTES, windows=5, length=10, batch=batch)
    for name, result in first.items():
        assert again[name].bits_per_byte == pytest.approx(result.bits_per_byte, rel=1e-6)


def test_another_split_and_any_function(tiny):
    _, corpus = tiny
    results = evaluate(
        lambda ids: torch.zeros(*ids.shape, V), corpus, TOKEN_BYTES, split="test", length=8
    )
    for result in results.values():
        assert result.nats_per_token == pytest.approx(math.log(V), rel=1e-6)
        assert result.bits_per_byte == pytest.approx(math.log2(V), rel=1e-6)  # one byte a token


def test_evaluation_leaves_no_gradients(tiny):
    model, corpus = tiny
    evaluate(model, corpus, TOKEN_BYTES, windows=2, length=10)
    assert all(weight.grad is None for weight in model.parameters())


def test_together_of_one_is_itself(tiny):
    model, corpus = tiny
    one = evaluate(model, corpus, TOKEN_BYTES, windows=2, length=10)["long"]
    assert together({"a": one}) == one


def test_a_split_too_short_for_a_window(tiny):
    model, corpus = tiny
    with pytest.raises(ValueError, match="windows of 30 ids from 25 ids"):
        evaluate(model, corpus, TOKEN_BYTES, length=30)
