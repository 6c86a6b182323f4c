"""Whole characters and stop texts, and the filters of sampling against those of `transformers`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from course_utils.data.tokenizer import course_tokenizer
from course_utils.serving import SamplingParams, TextStream, probabilities

TEXTS = st.text(alphabet="ab \nxé漢😀", max_size=30)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(st.text(alphabet="abx漢", min_size=1, max_size=3), max_size=2))
def test_pieces_add_up_to_the_text_before_the_first_stop(text, stops):
    tokenizer = course_tokenizer()
    ids = tokenizer.encode(text)
    stream, said = TextStream(tokenizer, stops), []
    for number, token in enumerate(ids):
        said.append(stream.push([token], last=number == len(ids) - 1))
        assert not any(stop in "".join(said) for stop in stops)
        assert "\ufffd" not in said[-1]
    whole = tokenizer.decode(ids)
    places = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    assert "".join(said) == stream.text == (whole[: min(places)[1]] if places else whole)
    assert stream.stopped == bool(places)


def test_a_beginning_of_a_stop_text_is_held_back_until_it_is_none():
    tokenizer = course_tokenizer()
    stream = TextStream(tokenizer, ["###"])
    assert stream.push(tokenizer.encode("ab#")) == "ab"
    assert stream.push(tokenizer.encode("c#")) == "#c"
    assert stream.push([], last=True) == "#"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**16),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0, 1, 3, 20]),
    st.sampled_from([0.3, 0.9, 1.0]),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_filters_are_those_of_transformers(seed, temperature, top_k, top_p, min_p):
    logits_LV = torch.randn(3, 12, generator=torch.Generator().manual_seed(seed)).double() * 2
    filters = [TemperatureLogitsWarper(temperature)]
    filters += [TopKLogitsWarper(top_k)] if top_k else []
    filters += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    filters += [MinPLogitsWarper(min_p)] if min_p else []
    expected_LV = LogitsProcessorList(filters)(torch.zeros(3, 1), logits_LV).softmax(-1)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    torch.testing.assert_close(probabilities(logits_LV, params), expected_LV)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"min_p": 1.0}, "min_p is 1.0"),
        ({"stop": ("",)}, "stop is"),
        ({"logprobs": 21}, "logprobs is 21"),
    ],
)
def test_bad_parameters_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        SamplingParams(**wrong)
