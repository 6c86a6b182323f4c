"""Many clients at once, most of them badly behaved: nothing leaks, hangs or goes uncounted."""

import asyncio
import json
import random
import socket
from collections import Counter

import pytest
from server_common import TOKENIZER, client_of, dense_engine, ended, metrics, nobody_inside, until

from course_utils.scheduling import SchedulerConfig
from course_utils.serving import EngineBackend, MockBackend

KINDS = {  # what clients do, and how often
    "whole": 4,
    "stream": 4,
    "slow reader": 2,
    "leave at once": 2,
    "leave while it answers": 4,
    "leave in the middle of the body": 1,
    "malformed": 2,
    "too long": 1,
    "too large": 1,
    "no HTTP": 1,
}


def request_bytes(body: bytes, path: str, length: int | None = None) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length or len(body)}\r\n\r\n"
    )
    return head.encode() + body


def what_to_send(kind: str, model: str, chance: random.Random) -> bytes:
    prompt = chance.choices(range(300, 320), k=chance.randint(1, 60))
    body = {"model": model, "prompt": prompt, "max_tokens": chance.randint(1, 24)}
    body |= {"n": chance.choice([1, 1, 1, 3]), "stream": kind not in ("whole", "leave at once")}
    if kind == "slow reader":
        body |= {"logprobs": 5, "n": 4}
    if kind == "too long":
        body["max_tokens"] = 100_000
    text = json.dumps(body).encode()
    if kind == "malformed":
        text = text[: chance.randint(0, len(text) - 1)] + chance.choice([b"", b"\xff", b"]"])
    if kind == "too large":
        text += b" " * 20_000
    if kind == "leave in the middle of the body":
        return request_bytes(text[: len(text) // 2], "/v1/completions", len(text))
    if kind == "no HTTP":
        return bytes(chance.choices(range(256), k=40)) + b"\r\n\r\n"
    return request_bytes(text, "/v1/completions")


async def behave(kind: str, address: tuple[str, int], model: str, chance: random.Random) -> str:
    """One client; returns the status it saw, or what it did."""
    connection = socket.socket()
    if kind == "slow reader":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, address)
    reader, writer = await asyncio.open_connection(sock=connection, limit=2048)
    try:
        writer.write(what_to_send(kind, model, chance))
        await writer.drain()
        if kind == "leave in the middle of the body" or kind == "leave at once":
            return "left"
        answer = b""
        while data := await reader.read(500):
            answer += data
            if kind == "leave while it answers":
                return "left"
            if kind == "slow reader":
                await asyncio.sleep(0.001)
        return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.1 ") else "none"
    except ConnectionError:
        return "cut"
    finally:
        writer.transport.abort()


async def storm(server, requests: int, together: int, seed: int) -> Counter:
    host, port = server.url.removeprefix("http://").split(":")
    turns, chances = asyncio.Semaphore(together), random.Random(seed)
    kinds = chances.choices(list(KINDS), list(KINDS.values()), k=requests)

    async def one(number: int) -> tuple[str, str]:
        async with turns:
            chance = random.Random(f"{seed} {number}")
            name = server.backend.name
            return kinds[number], await behave(kinds[number], (host, int(port)), name, chance)

    async with asyncio.timeout(120):
        return Counter(await asyncio.gather(*map(one, range(requests))))


def small_mock() -> MockBackend:
    """Too few blocks for its slots, so that requests are preempted too."""
    return MockBackend(config=SchedulerConfig(60, 4, 64, 8), speed=0)


def dense() -> EngineBackend:
    return EngineBackend(dense_engine(num_blocks=60, block_size=4), TOKENIZER, "dense")


@pytest.mark.parametrize(
    ("backend", "requests", "together"), [(small_mock, 2000, 64), (dense, 100, 16)]
)
def test_nothing_leaks_and_all_is_counted(serve, backend, requests, together):
    server = serve(backend(), max_queue=24, max_body_bytes=10_000)
    seen = asyncio.run(storm(server, requests, together, seed=requests))
    until(lambda: nobody_inside(server))
    engine, total = server.backend.engine, sum(seen.values())
    assert total == requests and not engine.live
    assert not any(block.references for block in engine.scheduler.pool.blocks)

    counts = ended(server)  # received = finished + cancelled + refused + failed
    no_http = sum(count for (kind, _), count in seen.items() if kind == "no HTTP")
    assert sum(counts.values()) == requests - no_http
    by_status = Counter()
    for (_, status), count in seen.items():
        by_status[status] += count
    assert counts["failed"] == by_status["cut"] == by_status["none"] == 0
    assert counts["finished"] >= by_status["200"] > requests // 10
    assert set(by_status) <= {"200", "400", "413", "429", "left"}
    assert min(by_status["400"], by_status["413"], by_status["left"]) > 0
    assert counts["cancelled"] > 0
    for kind, status in (("malformed", "400"), ("too long", "400"), ("too large", "413")):
        assert {found for one, found in seen if one == kind} <= {status}

    values = metrics(server)
    assert values["course_requests_running"] == values["course_requests_waiting"] == 0
    answer = client_of(server).completions.create(
        model=server.backend.name, prompt="And", max_tokens=4, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 4
