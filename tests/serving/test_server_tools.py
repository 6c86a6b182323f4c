"""Calls of tools: one round trip, and JSON of the schema whatever the model says."""

import asyncio
import json

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_common import TOKENIZER, client_of

from course_utils.data.assets import AssetMissing
from course_utils.models.pretrained import smollm2
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import Engine, EngineBackend, SamplingParams, chatml
from course_utils.serving.tools import Filler, properties

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "wind": {"type": "boolean"},
            },
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
QUESTION = [{"role": "user", "content": "How is the weather in Paris, for 14 days in fahrenheit?"}]


def test_one_round_trip_with_the_mock(mock_server):
    client = client_of(mock_server)
    options = {"model": "mock", "tools": [CLOCK, WEATHER]}
    first = client.chat.completions.create(messages=QUESTION, **options).choices[0]
    assert first.finish_reason == "tool_calls" and first.message.content is None
    (call,) = first.message.tool_calls
    assert call.function.name == "get_weather"
    expected = {"city": "Paris", "days": 14, "unit": "fahrenheit", "wind": False}
    assert json.loads(call.function.arguments) == expected
    answer = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 57}'}
    messages = [*QUESTION, first.message, answer]
    second = client.chat.completions.create(messages=messages, **options).choices[0]
    assert second.finish_reason == "stop" and second.message.content == '{"degrees": 57}'
    messages[1] = first.message.model_dump()  # with all the fields that are None
    third = client.chat.completions.create(messages=messages, **options).choices[0]
    assert third.message.content == second.message.content


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_forced_call_has_the_schemas_shape(client, server, choice):
    tools = [WEATHER] if choice == "required" else [CLOCK, WEATHER]
    options = {"model": server.backend.name, "messages": QUESTION, "tools": tools}
    options |= {"tool_choice": choice, "temperature": 1.5, "seed": 3}
    (call,) = client.chat.completions.create(**options).choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    kinds = {key: type(value) for key, value in arguments.items()}
    assert kinds == {"city": str, "days": int, "unit": str, "wind": bool}
    assert arguments["unit"] in ("celsius", "fahrenheit")
    deltas = [
        chunk.choices[0].delta for chunk in client.chat.completions.create(stream=True, **options)
    ]
    parts = [one for delta in deltas for one in delta.tool_calls or ()]
    assert parts[0].id and parts[0].function.name == "get_weather"
    assert "".join(part.function.arguments for part in parts) == call.function.arguments


def test_without_a_wish_the_mock_answers_in_words(mock_server):
    client = client_of(mock_server)
    for options in ({"tool_choice": "none"}, {"messages": [{"role": "user", "content": "Hello"}]}):
        settings = {"model": "mock", "messages": QUESTION, "tools": [WEATHER]} | options
        assert client.chat.completions.create(**settings).choices[0].message.content


CALLED = {"id": "x", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
CALL = {"role": "assistant", "tool_calls": [CALLED]}
ANSWER = {"role": "tool", "tool_call_id": "x", "content": "1"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tool_choice": NAMED, "tools": [CLOCK]}, "the tools are get_time"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice needs tools"),
        ({"n": 2, "tool_choice": "required"}, "n must be 1"),
        ({"messages": [*QUESTION, ANSWER]}, "answers no call"),
        ({"messages": [*QUESTION, CALL, ANSWER | {"tool_call_id": "y"}]}, "answers no call"),
        ({"messages": [*QUESTION, CALL, *QUESTION]}, "before the answers to tool calls"),
    ],
)
def test_wrong_use_of_tools_is_told(mock_server, change, words):
    options = {"model": "mock", "messages": QUESTION, "tools": [WEATHER]} | change
    with pytest.raises(openai.BadRequestError, match=words):
        client_of(mock_server).chat.completions.create(**options)


VALUES = st.one_of(
    st.just({"type": "string"}),
    st.just({"type": "integer"}),
    st.just({"type": "boolean"}),
    st.lists(st.integers(-20, 120) | st.text('ab,"é', max_size=3), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.text('ab_"', min_size=1, max_size=4), VALUES, max_size=4),
    st.randoms(use_true_random=False),
)
def test_whatever_the_model_writes_the_call_is_json_of_the_schema(known, chance):
    """A model that writes anything: any allowed id, any text, at any length."""

    async def write(prompt, params):
        if params.allowed_ids:
            ids = chance.choices(params.allowed_ids, k=chance.randint(1, params.max_tokens))
            ends = [place for place, one in enumerate(ids) if one in params.stop_ids]
            return ids[: ends[0] + 1] if ends else ids
        count = chance.randint(1, params.max_tokens)
        return chance.choices(range(TOKENIZER.vocab_size), k=count)

    filler = Filler(TOKENIZER, [1], write, SamplingParams(5))
    tools = {"get": properties({"type": "object", "properties": known}), "get_more": {}}
    name, arguments = asyncio.run(filler.call(tools))
    assert json.loads(filler.text) == {"name": name, "arguments": json.loads(arguments)}
    for key, value in json.loads(arguments).items():
        if "enum" in known[key]:
            assert value in known[key]["enum"]
        else:
            kind = {"string": str, "integer": int, "boolean": bool}[known[key]["type"]]
            assert type(value) is kind
    assert json.loads(arguments).keys() == tools[name].keys()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array"}, "type 'object'"),
        ({"properties": {"a": {"type": "array"}}}, "'a' has type 'array'"),
        ({"properties": {}, "required": ["b"]}, "'b' is required and not described"),
    ],
)
def test_schemas_that_cannot_be_filled_are_refused(schema, words):
    with pytest.raises(ValueError, match=words):
        properties(schema)


def test_smollm2_fills_the_call_from_the_question(serve):
    try:
        found = smollm2()
    except AssetMissing as error:
        pytest.skip(str(error))
    engine = Engine(found.model, SchedulerConfig(64), found.tokenizer)
    server = serve(EngineBackend(engine, found.tokenizer, "smollm2", chatml))
    options = {"model": "smollm2", "tools": [WEATHER], "tool_choice": "required", "temperature": 0}
    question = [{"role": "user", "content": "What is the weather in Paris for 12 days?"}]
    answer = client_of(server).chat.completions.create(messages=question, **options)
    arguments = json.loads(answer.choices[0].message.tool_calls[0].function.arguments)
    assert (arguments["city"], arguments["days"]) == ("Paris", 12)
