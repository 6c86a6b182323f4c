"""Sequence-level distillation: batched samples, what is kept of them, pass@k."""

import random
from itertools import combinations
from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.data.puzzles import END_ID, PAD_ID, SYMBOLS, encode, questions, verify, worked
from course_utils.distillation.sequence import (
    complete,
    keep_traces,
    pad_left,
    pass_at_k,
    until_end,
)
from course_utils.models import DecoderLM, ModelConfig


def small_model(seed: int = 0) -> DecoderLM:
    model = DecoderLM(ModelConfig(len(SYMBOLS), 16, 32, 2, 2, 2), seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)  # far from uniform
    return model.eval()


def test_a_batch_of_prompts_of_different_length_gives_what_each_gives_alone():
    model, prompts = small_model(), [encode(q) for q in questions(0, 6)]
    assert len({len(prompt) for prompt in prompts}) > 2
    options = {"end_id": END_ID, "temperature": 0.0}
    together = complete(model, prompts, 12, **options)
    assert together == complete(model, prompts, 12, batch=4, **options)
    for prompt, found in zip(prompts, together, strict=True):
        ids = list(prompt)
        for token in found:  # without a cache, without padding
            with torch.no_grad():
                assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
            ids.append(token)


def test_samples_are_reproducible_differ_and_end_with_the_end():
    model, prompts = small_model(), [encode("a=3;a?")] * 200
    found = complete(model, prompts, 10, end_id=END_ID, temperature=2.0, seed=1)
    assert found == complete(model, prompts, 10, end_id=END_ID, temperature=2.0, seed=1)
    assert found != complete(model, prompts, 10, end_id=END_ID, temperature=2.0, seed=2)
    assert len({tuple(row) for row in found}) > 20
    ended = [row for row in found if END_ID in row]
    assert ended and all(row.index(END_ID) == len(row) - 1 for row in ended)
    assert all(len(row) == 10 for row in found if END_ID not in row)


def test_the_frequency_of_first_tokens_is_that_of_the_model():
    model, prompt = small_model(), encode("a=3;a?")
    found = complete(model, [prompt] * 4000, 1, end_id=END_ID, batch=4000)
    with torch.no_grad():
        chances_V = model(torch.tensor([prompt]))[0, -1].softmax(-1)
    counts_V = torch.bincount(torch.tensor(found).flatten(), minlength=len(SYMBOLS))
    error_V = (counts_V / 4000 - chances_V).abs()
    assert bool((error_V < 5 * (chances_V * (1 - chances_V) / 4000).sqrt() + 1e-3).all())


def test_padding_and_the_end():
    ids_BT, mask_BT = pad_left([[5], [6, 7, 8]], PAD_ID)
    assert ids_BT.tolist() == [[PAD_ID, PAD_ID, 5], [6, 7, 8]]
    assert mask_BT.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert until_end([3, END_ID, 4, END_ID], END_ID) == [3, END_ID]
    for rows in ([], [[1], []]):
        with pytest.raises(ValueError, match="empty"):
            pad_left(rows, PAD_ID)


def test_traces_are_kept_if_right_different_and_in_their_order():
    question = "c=b*7;k=b-9;a=3;b=a+5;c?"
    long, short = "a=3;b=3+5=8;k=8-9=9;c=8*7=6;6.", "a=3;b=3+5=8;c=8*7=6;6."
    samples = ["6.", long, long, short, "a=3;b=3+5=9;c=9*7=3;6.", short]
    assert keep_traces(question, samples, verify) == [long]
    assert keep_traces(question, samples, verify, most=5) == [long, short]
    assert keep_traces(question, ["6."], verify, most=5) == []


@given(st.integers(0, 2**32))
def test_everything_kept_passes_and_nothing_right_is_lost(seed):
    rng = random.Random(seed)
    (question,) = questions(seed, 1)
    samples = [worked(question, rng, 0.6) for _ in range(4)]
    samples += [text.replace("=", "-", 1) for text in samples]
    rng.shuffle(samples)
    kept = keep_traces(question, samples, verify, most=8)
    assert all(verify(question, text) for text in kept)
    assert set(kept) == {text for text in samples if verify(question, text)}


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples, data):
    correct = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    right = [True] * correct + [False] * (samples - correct)
    subsets = [any(subset) for subset in combinations(right, k)]
    assert pass_at_k(samples, correct, k) == pytest.approx(sum(subsets) / len(subsets))


def test_pass_at_k_is_unbiased_where_the_power_formula_is_not():
    p, n, k = 0.2, 10, 4
    chances = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(chance * pass_at_k(n, c, k) for c, chance in enumerate(chances))
    power = sum(chance * (1 - (1 - c / n) ** k) for c, chance in enumerate(chances))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-5)
    assert power < mean - 0.02


@pytest.mark.parametrize("values", [(10, 3, 0), (10, 3, 11), (10, 11, 1), (10, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be(values):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(*values)
