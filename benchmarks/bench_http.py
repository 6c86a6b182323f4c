"""What HTTP costs: the same requests through the server and to its engine alone, 2 threads.

The course's dense model, and SmolLM2-135M where it has been fetched; 16 slots, greedy, answers of
full length. Client and server share the process and its cores, so the server's side counts the load
test's own work too. Both sides take turns; medians.

All computing is done in threads that end: OpenMP keeps workers for every thread that has computed,
and with more of them than cores GNU's lets all sleep between products. The last row is what that
costs: the engine in a thread of its own while this one keeps workers too.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from bench_decode import row
from bench_moe import in_turns

from course_utils.data.assets import AssetMissing
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import shipped
from course_utils.models.pretrained import smollm2
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import (
    Engine,
    EngineBackend,
    MockBackend,
    SamplingParams,
    prompt_of,
    run_load,
    serve_in_thread,
)
from course_utils.simulation.workloads import TraceRequest

REQUESTS, PROMPT, NEW_TOKENS, SLOTS = 16, 64, 48, 16


def apart(function: Callable, *arguments):
    """The function's result, from a thread that ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def backends() -> list:
    """The models behind their engines."""
    config = SchedulerConfig(512, max_requests=SLOTS, prefix_cache=False)
    tokenizer = course_tokenizer()
    found = [EngineBackend(Engine(shipped("dense"), config, tokenizer), tokenizer, "dense")]
    try:
        real = smollm2()
    except AssetMissing:
        return found
    engine = Engine(real.model, config, real.tokenizer)
    return [*found, EngineBackend(engine, real.tokenizer, "smollm2")]


def alone(backend, trace: list[TraceRequest]) -> None:
    """Answer the requests without a server."""
    for number, request in enumerate(trace):
        backend.engine.add(prompt_of(request, number), SamplingParams(NEW_TOKENS))
    backend.engine.run()


def compare(backend) -> dict:
    """Tokens per second through HTTP, and from the engine alone."""
    trace = [TraceRequest(0.0, PROMPT, NEW_TOKENS) for _ in range(REQUESTS)]

    def served():
        with serve_in_thread(backend) as server:
            nonlocal seconds
            began = time.perf_counter()
            records = run_load(server.base_url, trace, model=backend.name)
            seconds = time.perf_counter() - began
        if [record.tokens for record in records] != [NEW_TOKENS] * REQUESTS:
            raise RuntimeError(f"not every request was answered: {records}")

    seconds, inside = 0.0, []

    def timed_inside():
        served()
        inside.append(seconds)

    sides = {"alone": lambda: apart(alone, backend, trace), "served": timed_inside}
    times = in_turns(sides, 5, lambda: None)
    through = sorted(inside)[len(inside) // 2]
    total = REQUESTS * NEW_TOKENS
    name = f"{backend.name}, 16 streams over HTTP against the engine alone"
    target = 0.9 if backend.name == "smollm2" else None  # the small model's steps take 5 ms
    return row(name, total / through, total / times["alone"], target)


def path() -> dict:
    """Streamed tokens per second when tokens cost nothing: the server's own limit."""
    trace = [TraceRequest(0.0, PROMPT, NEW_TOKENS) for _ in range(64)]
    with serve_in_thread(MockBackend(speed=0)) as server:
        run_load(server.base_url, trace[:8])
        began = time.perf_counter()
        run_load(server.base_url, trace)
        rate = 64 * NEW_TOKENS / (time.perf_counter() - began)
    engine = MockBackend(speed=0).engine
    for number, request in enumerate(trace):
        engine.add(prompt_of(request, number), SamplingParams(NEW_TOKENS))
    began = time.perf_counter()
    engine.run()
    alone = 64 * NEW_TOKENS / (time.perf_counter() - began)
    return row("a mock that never waits, 64 streams against its scheduler alone", rate, alone, None)


def crowded(backend) -> dict:
    """The engine in a thread of its own, after this thread has computed and before."""
    trace = [TraceRequest(0.0, PROMPT, NEW_TOKENS) for _ in range(REQUESTS)]
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        apart(alone, backend, trace)
        seconds.append(time.perf_counter() - began)
        torch.randn(1000, 1000) @ torch.randn(1000, 1000)
    before, after = (REQUESTS * NEW_TOKENS / one for one in seconds)
    return row("the engine while another thread keeps workers, against alone", after, before, None)


def run() -> list[dict]:
    """Rows for `course bench http`."""
    found = apart(backends)
    return [*(compare(backend) for backend in found), path(), crowded(found[-1])]
