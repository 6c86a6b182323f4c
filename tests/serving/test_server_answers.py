"""What the server answers, through the official client and a real socket: mock and model alike."""

import json

import httpx
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from server_common import TOKENIZER, client_of, dense_engine

from course_utils.serving import SamplingParams, plain
from course_utils.serving.templates import Turn

PROMPT = "In the beginning God created the heaven and the earth. And the earth was without form"
GREEDY = {"temperature": 0, "max_tokens": 24}


def name(server) -> str:
    return server.backend.name


def ask(client, server, words=PROMPT, **options):
    messages = options.pop("messages", [{"role": "user", "content": words}])
    return client.chat.completions.create(model=name(server), messages=messages, **options)


def alone(prompt: list[int], **params):
    """The engine's own answer, without a server."""
    engine = dense_engine()
    made = engine.add(prompt, SamplingParams(stop_ids=(TOKENIZER.end_id,), **params))
    engine.run()
    return made


def test_text_is_the_engines_own(dense_server):
    client = client_of(dense_server)
    answer = client.completions.create(model="dense", prompt=PROMPT, **GREEDY)
    made = alone(TOKENIZER.encode(PROMPT), **GREEDY)
    assert answer.choices[0].text == made.text.text == TOKENIZER.decode(made.new_ids)
    chat = ask(client, dense_server, **GREEDY)
    prompt = plain(TOKENIZER, [Turn("user", PROMPT)], [])
    made = alone(prompt, **GREEDY)
    assert chat.choices[0].message.content == made.text.text
    assert chat.usage.prompt_tokens == len(prompt) and chat.usage.completion_tokens == 24
    assert chat.choices[0].finish_reason == "length"


def test_pieces_of_a_chat_join_to_the_whole(client, server):
    options = {"temperature": 0, "max_tokens": 30}
    whole = ask(client, server, **options)
    stream = ask(client, server, stream=True, stream_options={"include_usage": True}, **options)
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    first, *middle, last, usage = chunks
    assert first.choices[0].delta.role == "assistant" and first.choices[0].delta.content == ""
    text = "".join(chunk.choices[0].delta.content for chunk in middle)
    assert text == whole.choices[0].message.content and len(middle) > 5
    assert [chunk.choices[0].finish_reason for chunk in middle] == [None] * len(middle)
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert usage.choices == [] and usage.usage.completion_tokens == 30
    assert usage.usage.total_tokens == whole.usage.total_tokens


def test_pieces_of_a_completion_join_to_the_whole(client, server):
    options = {"model": name(server), "prompt": [PROMPT, "And"], "n": 2, "seed": 5, "max_tokens": 9}
    whole = client.completions.create(**options)
    texts = [""] * 4
    for chunk in client.completions.create(stream=True, **options):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]
    assert len(set(texts)) > 2


def test_the_wire_is_server_sent_events(server):
    body = {"model": name(server), "prompt": "And", "max_tokens": 3, "stream": True}
    answer = httpx.post(f"{server.base_url}/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, end = answer.text.split("\n\n")
    assert end == "" and events.pop() == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events)


def test_bodies_are_valid_for_the_clients_strict_models(server):
    url, chat = server.base_url, {"messages": [{"role": "user", "content": "And"}]}
    options = {"model": name(server), "max_tokens": 4, "logprobs": True, "top_logprobs": 2}
    whole = httpx.post(f"{url}/chat/completions", json=chat | options).json()
    ChatCompletion.model_validate(whole, strict=True)
    told = httpx.post(f"{url}/chat/completions", json=chat | options | {"stream": True}).text
    for line in told.split("\n\n")[:-2]:
        ChatCompletionChunk.model_validate_json(line.removeprefix("data: "), strict=True)
    body = {"model": name(server), "prompt": "And", "max_tokens": 4, "logprobs": 2}
    Completion.model_validate(httpx.post(f"{url}/completions", json=body).json(), strict=True)


def test_an_equal_prompt_again_is_cached_up_to_its_last_block(client, server):
    words = f"Twice: {PROMPT}, and void; and darkness was upon the face of the deep."
    first, again = (ask(client, server, words, **GREEDY) for _ in range(2))
    tokens = first.usage.prompt_tokens
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens == (tokens - 1) // 16 * 16 > 0
    assert first.choices[0].message.content == again.choices[0].message.content


def test_seeds_and_many_answers(client, server):
    options = {"temperature": 1.3, "max_tokens": 12, "seed": 7}
    one, again = (ask(client, server, **options) for _ in range(2))
    many = ask(client, server, n=3, **options)
    texts = [choice.message.content for choice in many.choices]
    assert one.choices[0].message.content == again.choices[0].message.content == texts[0]
    assert len(set(texts)) == 3 and [choice.index for choice in many.choices] == [0, 1, 2]
    later = ask(client, server, **options | {"seed": 8})
    assert later.choices[0].message.content == texts[1]  # answer i has the seed + i
    assert many.usage.prompt_tokens == one.usage.prompt_tokens
    assert many.usage.completion_tokens == sum(3 * [12])


def test_logprobs_of_a_chat_are_the_engines(dense_server):
    chat = ask(client_of(dense_server), dense_server, logprobs=True, top_logprobs=3, **GREEDY)
    made = alone(plain(TOKENIZER, [Turn("user", PROMPT)], []), logprobs=3, **GREEDY)
    content = chat.choices[0].logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == made.text.text
    for entry, token, expected in zip(content, made.new_ids, made.logprobs, strict=True):
        assert entry.logprob == pytest.approx(expected[token], abs=1e-5)
        assert [one.logprob for one in entry.top_logprobs] == pytest.approx(
            sorted(expected.values(), reverse=True)[:3], abs=1e-5
        )
        assert entry.top_logprobs[0].token == entry.token  # greedy


def test_logprobs_of_a_completion_have_offsets(client, server):
    options = {"model": name(server), "prompt": PROMPT, "logprobs": 2, "seed": 3, "max_tokens": 20}
    whole = client.completions.create(**options)
    found, text = whole.choices[0].logprobs, whole.choices[0].text
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs)
    for token, start in zip(found.tokens, found.text_offset, strict=True):
        assert token.startswith("bytes:") or text[start:].startswith(token)
    chunks = list(client.completions.create(stream=True, **options))
    joined = [one for c in chunks if c.choices[0].logprobs for one in c.choices[0].logprobs.tokens]
    assert joined == found.tokens


@pytest.mark.parametrize("stream", [False, True])
def test_stop_texts_never_leak(client, server, stream):
    options = {"model": name(server), "prompt": PROMPT, "temperature": 0, "max_tokens": 40}
    text = client.completions.create(**options).choices[0].text
    stop = text[12:15]
    end = text.index(stop)
    options |= {"stop": ["\x00", stop], "logprobs": 1, "stream": stream}
    made = client.completions.create(**options)
    chunks = list(made) if stream else [made]
    assert "".join(chunk.choices[0].text for chunk in chunks) == text[:end]
    told = [one for c in chunks if c.choices[0].logprobs for one in c.choices[0].logprobs.tokens]
    assert text[:end].startswith("".join(told))
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_prompts_of_ids_and_ignored_ends(client, server):
    ids = TOKENIZER.encode(PROMPT)
    options = {"model": name(server), "temperature": 0, "max_tokens": 70}
    extra = {"ignore_eos": True, "top_k": 5, "min_p": 0.1}
    of_ids = client.completions.create(prompt=ids, extra_body=extra, **options)
    of_text = client.completions.create(prompt=PROMPT, extra_body=extra, **options)
    assert of_ids.choices[0].text == of_text.choices[0].text
    assert of_ids.usage.completion_tokens == 70 and of_ids.choices[0].finish_reason == "length"


def test_models_health_and_metrics(client, server):
    (model,) = client.models.list().data
    assert model.id == name(server) == client.models.retrieve(model.id).id
    health = httpx.get(f"{server.url}/health")
    assert health.status_code == 200 and health.json()["status"] == "ok"
    blocks = health.json()["blocks"]
    assert sum(blocks.values()) == server.backend.engine.scheduler.config.num_blocks
    text = httpx.get(f"{server.url}/metrics").text
    assert f'course_blocks{{state="free"}} {float(blocks["free"])}' in text
