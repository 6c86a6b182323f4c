"""Reading streams cut anywhere, waiting before the next attempt, and a round trip with tools."""

import json
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.serving.retry import retry_delay
from course_utils.serving.sse import parse_sse
from course_utils.serving.tool_round import run_tool_round

STREAM = 'data: {"text": "鹿 é"}\n\n: keep-alive\n\ndata: two\ndata:  lines\n\n'
STREAM += "data: [DONE]\n\ndata: x\n\n"
EVENTS = ['{"text": "鹿 é"}', "two\n lines"]


@given(st.sets(st.integers(1, len(STREAM.encode()) - 1)), st.booleans())
def test_events_do_not_depend_on_where_the_bytes_are_cut(places, returns):
    stream = STREAM.encode()
    bounds = [0, *sorted(places), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(bounds)]
    if returns:
        chunks = [chunk.replace(b"\n", b"\r\n") for chunk in chunks]
    assert list(parse_sse(chunks)) == EVENTS


def test_an_event_is_given_before_the_next_bytes_come_and_nothing_is_read_after_done():
    def chunks():
        yield b"data: a\n\n"
        asked.append("more")
        yield b"data: [DONE]\n\n"
        raise AssertionError("read on after [DONE]")

    asked: list[str] = []
    events = parse_sse(chunks())
    assert next(events) == "a" and not asked
    assert list(events) == [] and asked


def test_half_an_event_at_the_end_is_no_event():
    assert list(parse_sse([b"data: a\n\ndata: b\n"])) == ["a"]


@given(st.integers(0, 40), st.none() | st.floats(0, 60), st.integers(0, 99))
def test_a_client_waits_as_long_as_it_was_told_and_then_a_random_share(attempt, told, seed):
    delay = retry_delay(attempt, told, Random(seed), base=0.5, cap=8.0)
    least = told or 0.0
    assert least <= delay <= least + min(8.0, 0.5 * 2**attempt)


def test_clients_that_were_refused_together_come_back_apart():
    delays = {retry_delay(3, 1.0, Random(seed)) for seed in range(50)}
    assert len(delays) == 50


def model(*calls):
    """A model that asks for these calls, then answers with the results that it was given."""

    def ask(messages):
        results = [message["content"] for message in messages if message["role"] == "tool"]
        if results or not calls:
            return {"role": "assistant", "content": " ".join(results) or "hello"}
        return {"role": "assistant", "content": None, "tool_calls": list(calls)}

    return ask


def call(number: int, name: str, arguments: dict) -> dict:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{number}", "type": "function", "function": function}


def test_every_call_is_answered_with_its_own_id():
    ask = model(call(1, "add", {"a": 2, "b": 3}), call(2, "nothing", {}))
    asked = [{"role": "user", "content": "2 + 3?"}]
    messages = run_tool_round(ask, asked, {"add": lambda a, b: a + b})
    assert [message["role"] for message in messages] == "user assistant tool tool assistant".split()
    assert [m["tool_call_id"] for m in messages[2:4]] == ["call_1", "call_2"]
    assert messages[-1]["content"] == '5 {"error": "no function nothing"}'
    assert len(asked) == 1


def test_without_calls_the_first_answer_is_the_last():
    messages = run_tool_round(model(), [{"role": "user", "content": "hi"}], {})
    assert [message["role"] for message in messages] == ["user", "assistant"]


def test_a_function_that_fails_is_the_callers_business():
    ask = model(call(1, "fail", {}))
    with pytest.raises(ZeroDivisionError):
        run_tool_round(ask, [{"role": "user", "content": "?"}], {"fail": lambda: 1 / 0})
