"""What the server refuses, in OpenAI's form, and what it does when somebody leaves."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from server_common import (
    TOKENIZER,
    blocks,
    client_of,
    dense_engine,
    ended,
    metrics,
    nobody_inside,
    until,
)

from course_utils.scheduling import SchedulerConfig
from course_utils.serving import EngineBackend, MockBackend, ServerConfig
from course_utils.simulation.costs import StepCost

ASK = {"model": "mock", "messages": [{"role": "user", "content": "Hello"}]}
FOREVER = {"max_tokens": 4000, "ignore_eos": True}
SLOW = StepCost(base=0.01)


def post(server, body, path="chat/completions", **options):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | options.pop("headers", {})
    url = f"{server.base_url}/{path}"
    return httpx.post(url, content=content, headers=headers, timeout=30, **options)


def error_of(answer) -> dict:
    """The error of an answer, which has the four fields and nothing else."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-5"}, 404, "model_not_found", "model"),
        ({"model": None}, 400, "invalid_value", "model"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, 400, "invalid_value", "messages.0.role"),
        ({"messages": "Hello"}, 400, "invalid_value", "messages"),
        ({"temperature": "0.5"}, 400, "invalid_value", "temperature"),
        ({"temperature": 2.5}, 400, "invalid_value", "temperature"),
        ({"temperature": float("nan")}, 400, "invalid_value", "temperature"),
        ({"top_p": 0}, 400, "invalid_value", "top_p"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"max_tokens": 10**30}, 400, "context_length_exceeded", "messages"),
        ({"n": 9}, 400, "invalid_value", "n"),
        ({"seed": 2**70}, 400, "invalid_value", "seed"),
        ({"stop": ["a"] * 5}, 400, "invalid_value", "stop"),
        ({"stop": ""}, 400, "invalid_value", "stop"),
        ({"top_logprobs": 2}, 400, "invalid_value", None),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value", None),
        ({"temprature": 0}, 400, "unknown_parameter", "temprature"),
        ({"presence_penalty": 1}, 400, "invalid_value", None),
        ({"user": "me", "presence_penalty": 0, "logit_bias": None}, 200, None, None),
        ({"messages": [{"role": "user", "content": "a " * 5000}]}, 400, None, "messages"),
        ({"messages": [{"role": "user", "content": "ab" * 400_000}]}, 400, None, None),
    ],
)
def test_wrong_fields_are_named(mock_server, change, status, code, param):
    answer = post(mock_server, ASK | change)
    assert answer.status_code == status
    if status != 200:
        error = error_of(answer)
        code = code or "context_length_exceeded"
        assert (error["code"], error["param"]) == (code, param)
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b"\xff\xfe{}", b"[" * 50_000, b'"a"'])
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_malformed_bodies_are_answered(mock_server, body, path):
    answer = post(mock_server, body, path)
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "invalid_request_error"


def test_a_body_without_its_type_is_told_so(mock_server):
    answer = httpx.post(f"{mock_server.base_url}/completions", content=json.dumps(ASK))
    assert answer.status_code == 400 and "with its Content-Type" in error_of(answer)["message"]


def test_other_paths_and_methods_have_the_same_form(mock_server):
    for method, path, status, code in (
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
    ):
        answer = httpx.request(method, mock_server.url + path)
        assert (answer.status_code, error_of(answer)["code"]) == (status, code)


def test_ids_that_are_none_of_the_vocabulary(mock_server):
    answer = post(mock_server, {"model": "mock", "prompt": [1, 999_999]}, "completions")
    assert answer.status_code == 400 and "vocabulary" in error_of(answer)["message"]


def test_bodies_that_are_too_large(serve):
    server = serve(MockBackend(speed=0), max_body_bytes=1000)

    def parts():
        for _ in range(50):
            yield b"x" * 100

    told = post(server, b"x" * 1001)
    streamed = httpx.post(
        f"{server.base_url}/completions",
        content=parts(),
        headers={"content-type": "application/json"},
    )
    for answer in (told, streamed):
        assert answer.status_code == 413 and error_of(answer)["code"] == "request_too_large"
    assert post(server, ASK).status_code == 200


def test_a_key_is_needed_where_one_is_set(serve):
    server = serve(MockBackend(speed=0), api_key="sesame")
    for key in ("", "Bearer", "Bearer sesame2", "sesam", "Bearer \u00e4"):
        answer = post(server, b"not even JSON", headers={"authorization": key.encode()})
        assert answer.status_code == 401 and error_of(answer)["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        client_of(server).models.list()
    client = client_of(server, api_key="sesame")
    assert client.chat.completions.create(**ASK).choices[0].message.content
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert ended(server) == {"finished": 1, "cancelled": 0, "refused": 5, "failed": 0}


def test_a_full_queue_is_told_with_the_time_to_come_back(serve):
    server = serve(MockBackend(SLOW, SchedulerConfig(1000, max_requests=2)), max_queue=1)
    client = client_of(server)
    streams = [
        client.chat.completions.create(**ASK, stream=True, extra_body=FOREVER) for _ in range(2)
    ]
    for stream in streams:  # both run
        next(stream)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(post, server, ASK | {"max_tokens": 1})
        until(lambda: metrics(server)["course_requests_waiting"] == 1)
        answer = post(server, ASK)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        error = error_of(answer)
        assert (error["type"], error["code"]) == ("rate_limit_error", "server_busy")
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**ASK)
        for stream in streams:
            stream.close()
        assert waiting.result().status_code == 200  # its turn came
    until(lambda: nobody_inside(server))
    assert ended(server) == {"finished": 1, "cancelled": 2, "refused": 2, "failed": 0}


def test_a_late_first_token_is_refused_by_the_given_prediction(serve):
    asked = []

    def predict(prompt, cached, load, base, per_token):
        asked.append((prompt, cached, load.waiting, len(load.running)))
        return 5.0

    config = SchedulerConfig(1000, max_requests=2)
    server = serve(MockBackend(SLOW, config), predict, max_ttft=2.0)
    client = client_of(server)
    stream = client.chat.completions.create(**ASK, stream=True, extra_body=FOREVER)
    next(stream)  # the first is let in: nobody is inside
    answer = post(server, ASK)
    stream.close()
    assert answer.status_code == 429 and answer.headers["retry-after"] == "3"
    assert "5.0 s" in error_of(answer)["message"] and asked[0][2:] == (0, 1)
    until(lambda: nobody_inside(server))
    assert post(server, ASK).status_code == 200


def noted(engine) -> list:
    """Every generation that the engine is asked for from now on."""
    made, add = [], engine.add
    engine.add = lambda *arguments: made.append(add(*arguments)) or made[-1]
    return made


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_blocks(serve, stream):
    for backend in (MockBackend(SLOW), EngineBackend(dense_engine(), TOKENIZER, "dense")):
        server, made = serve(backend), noted(backend.engine)
        body = ASK | {"model": backend.name, "max_tokens": 400, "ignore_eos": True}
        text = json.dumps(body | {"stream": stream}).encode()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n"
            )
            connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + text)
            until(lambda server=server: blocks(server)["used"] > 0)
        until(lambda server=server: nobody_inside(server))
        assert ended(server)["cancelled"] == 1
        assert [one.finish_reason for one in made] == ["cancelled"]  # nobody computed it to the end


def test_a_request_that_takes_too_long_ends(serve):
    server = serve(MockBackend(SLOW), timeout=0.3)
    made = noted(server.backend.engine)
    answer = post(server, ASK | FOREVER)
    assert answer.status_code == 504 and error_of(answer)["code"] == "timeout"
    with pytest.raises(openai.APIError, match=r"longer than 0\.3 s"):
        for _ in client_of(server).chat.completions.create(**ASK, stream=True, extra_body=FOREVER):
            pass
    until(lambda: nobody_inside(server))
    assert ended(server) == {"finished": 0, "cancelled": 0, "refused": 0, "failed": 2}
    assert [one.finish_reason for one in made] == ["cancelled"] * 2


def test_a_body_that_does_not_come_is_not_waited_for(serve):
    server = serve(MockBackend(speed=0), timeout=0.3)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = b""
        while not answer.endswith(b"}}"):
            answer += connection.recv(4000)
    assert answer.startswith(b"HTTP/1.1 408") and b'"code":"timeout"' in answer
    assert ended(server)["refused"] == 1


def test_a_step_that_fails_ends_who_is_inside_and_nobody_else(serve):
    backend = MockBackend(SLOW)
    server, step = serve(backend), backend.engine.step
    client = client_of(server)
    stream = client.chat.completions.create(**ASK, stream=True, extra_body=FOREVER)
    next(stream)

    def broken():
        backend.engine.step = step
        raise MemoryError("no room")

    backend.engine.step = broken
    with pytest.raises(openai.APIError, match="no room"):
        list(stream)
    until(lambda: nobody_inside(server))
    assert post(server, ASK).status_code == 200
    assert ended(server)["failed"] == 1


def test_draining_lets_those_inside_end_and_nobody_in(serve):
    server = serve(MockBackend(SLOW), drain=20)
    stream = client_of(server).chat.completions.create(
        **ASK, stream=True, max_tokens=30, extra_body={"ignore_eos": True}
    )
    next(stream)
    done = []
    thread = threading.Thread(target=lambda: done.append(server.drain()))
    thread.start()
    until(lambda: httpx.get(f"{server.url}/health").json()["status"] == "draining")
    answer = post(server, ASK)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert error_of(answer)["code"] == "shutting_down"
    assert [c.choices[0].finish_reason for c in stream][-1] == "length"
    thread.join()
    assert done == [True] and httpx.get(f"{server.url}/health").status_code == 503
    server.stop()
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def test_a_server_listens_to_this_machine_alone_and_says_if_the_port_is_taken(serve):
    assert ServerConfig().host == "127.0.0.1"
    server = serve(MockBackend(speed=0))
    assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(OSError, match="choose another port"):
        serve(MockBackend(speed=0), port=int(server.url.rsplit(":", 1)[1]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"port": -1}, "port is -1"),
        ({"api_key": ""}, "api_key is ''"),
        ({"max_ttft": 0}, "max_ttft is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"max_queue": -1}, "max_queue is -1"),
    ],
)
def test_configs_that_cannot_be_meant_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        ServerConfig(**values)
