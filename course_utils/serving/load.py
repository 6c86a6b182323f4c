"""A load test: requests sent at their moments to a server, and what each of them saw.

The loop is open: a request is sent when it is due, whatever became of the ones before it, as users
do who do not know of one another. With `connections`, at most so many are under way, and one that
is due waits for its turn: a closed loop, which goes easy on a slow server. Latencies count from the
moment at which a request was due (`slo.latencies`), so that this waiting shows.

The workload is a trace, the same that the simulator takes: moments, lengths, ids of blocks. Prompts
are token ids drawn from the seed, equal for equal block ids; answers have their full length
(`ignore_eos`). Left out: retries (a load test that tries again measures itself), several machines.

Source: Tene 2013, "How NOT to Measure Latency" (coordinated omission).
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Sequence

import httpx

from course_utils.serving.slo import RequestRecord
from course_utils.simulation.workloads import BLOCK, TraceRequest

IDS = range(300, 4000)  # tokens of text in the vocabularies of all models here
CUT = 504  # the status of an answer that began and was cut off


def prompt_of(request: TraceRequest, number: int, seed: int = 0, block: int = BLOCK) -> list[int]:
    """Ids of a prompt: `block` of them for each block id, always the same; without ids its own."""
    count = -(-request.input // block)
    names = request.blocks or [f"own {number} {place}" for place in range(count)]
    ids: list[int] = []
    for name in names[:count]:
        ids += random.Random(f"{seed} {name}").choices(IDS, k=block)
    return ids[: request.input]


class LoadTest:
    """One run against one server."""

    def __init__(self, client: httpx.AsyncClient, model: str, connections: int | None):
        self.client, self.model = client, model
        self.turns = asyncio.Semaphore(connections) if connections else None
        self.began = time.monotonic()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    async def request(self, due: float, body: dict) -> RequestRecord:
        """Wait until it is due, send it, read its answer."""
        await asyncio.sleep(max(0.0, due - self.now()))
        if self.turns is None:
            return await self._answer(due, body)
        async with self.turns:
            return await self._answer(due, body)

    async def _answer(self, due: float, body: dict) -> RequestRecord:
        sent, moments, rest = self.now(), [], b""
        try:
            async with self.client.stream("POST", "completions", json=body) as response:
                if response.status_code != 200:
                    return RequestRecord(due, sent, None, None, 0, response.status_code)
                async for data in response.aiter_raw():
                    if b'"text"' in data:
                        moments.append(self.now())
                    rest = (rest + data)[-2000:]
        except httpx.HTTPError:
            return RequestRecord(due, sent, None, None, 0, 0)
        return self._record(due, sent, moments, rest)

    @staticmethod
    def _record(due: float, sent: float, moments: list[float], rest: bytes) -> RequestRecord:
        """The usage stands in the last event but one, before [DONE]."""
        events = [line for line in rest.split(b"\n\n") if line.startswith(b"data: {")]
        usage = json.loads(events[-1].removeprefix(b"data: ")).get("usage") if events else None
        if not usage or not moments:
            return RequestRecord(due, sent, None, None, 0, CUT)
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        tokens = usage["completion_tokens"]
        return RequestRecord(due, sent, moments[0], moments[-1], tokens, 200, cached)


def run_load(
    base_url: str,
    trace: Sequence[TraceRequest],
    *,
    model: str = "mock",
    seed: int = 0,
    block: int = BLOCK,
    connections: int | None = None,
    api_key: str | None = None,
    timeout: float = 60.0,
) -> list[RequestRecord]:
    """Send the trace to `base_url` (".../v1"); a record of each request, in the trace's order.

    Works where an event loop runs already, such as in a notebook: it has a thread of its own.
    Raises ValueError for an empty trace.
    """
    if not trace:
        raise ValueError("the trace is empty: give at least one request")
    bodies = [
        {
            "model": model,
            "prompt": prompt_of(request, number, seed, block),
            "max_tokens": request.output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for number, request in enumerate(trace)
    ]
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    settings = {"base_url": base_url, "headers": headers, "timeout": timeout, "limits": limits}
    found: list[RequestRecord] = []

    async def run() -> None:
        async with httpx.AsyncClient(trust_env=False, **settings) as client:
            test = LoadTest(client, model, connections)
            moments = [request.arrival for request in trace]
            found.extend(await asyncio.gather(*map(test.request, moments, bodies)))

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="load")
    thread.start()
    thread.join()
    if not found:
        raise RuntimeError("the load test broke off: see the error of its thread above")
    return found
