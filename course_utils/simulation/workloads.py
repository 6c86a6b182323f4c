"""Workloads: requests with their moments, lengths and block ids; read from traces or generated.

A block id stands for 512 tokens and all before them, so that equal ids mean an equal prefix up to
and including that block; the last id of a prompt may be that of a part of a block (Mooncake's
format). Without ids (Azure's format, Poisson and bursty arrivals) no prompt shares anything.

    mooncake_trace   JSON lines from a path: timestamp (ms), input_length, output_length, hash_ids
    azure_trace      CSV from a path: TIMESTAMP, ContextTokens, GeneratedTokens
    poisson, bursty  arrivals at random, or in clumps
    conversation     the default: sessions like those of Mooncake's conversation trace

`conversation` is calibrated to published statistics of that trace (12,031 requests in 3,537 s): the
lengths of prompts and answers, the share of blocks that were seen before, and how soon they come
again. A session begins with the common system prompt (one block) and a first message; each later
turn appends the answer and a new message after a pause. It is no substitute for the trace: hit
ratios at small caches differ by some points, and days, weeks and tenants are left out.

Sources: Mooncake (Qin et al. 2025, FAST), section 3.1, and its released traces (Apache-2.0);
Patel et al. 2024 (Splitwise), whose traces are Azure's.
"""

import csv
import heapq
import json
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np

BLOCK = 512  # tokens
SYSTEM_PROMPT = 880  # tokens that all conversations share, about: no prompt is shorter than 891


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """Arrival (s), tokens of the prompt and of the answer, ids of the prompt's blocks."""

    arrival: float
    input: int
    output: int
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.arrival < 0 or self.input < 1 or self.output < 1:
            raise ValueError(
                f"arrival {self.arrival} s, {self.input} tokens in, {self.output} out: no arrival "
                "before 0, and at least one token each way"
            )


def load_workload(
    path: str | Path | None = None, requests: int = 1_000, seed: int = 0
) -> list[TraceRequest]:
    """A trace from a path (Azure's format if it ends in .csv, else Mooncake's), or the default."""
    if path is None:
        return conversation(requests, requests * 3_537 / 12_031, seed)
    return azure_trace(path) if Path(path).suffix == ".csv" else mooncake_trace(path)


def mooncake_trace(path: str | Path) -> list[TraceRequest]:
    """Read Mooncake's JSON lines. Raises ValueError with the line that is no request."""
    trace = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                lengths = int(row["input_length"]), int(row["output_length"])
                ids = tuple(row.get("hash_ids", ()))
                trace.append(TraceRequest(row["timestamp"] / 1000, *lengths, ids))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: {error!r}; a line has timestamp (ms), input_length, "
                    "output_length and hash_ids"
                ) from error
    return sorted(trace, key=lambda request: request.arrival)


def azure_trace(path: str | Path) -> list[TraceRequest]:
    """Read Azure's CSV; the first request arrives at 0. Raises ValueError with the bad line."""
    rows = []
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                moment = datetime.fromisoformat(row["TIMESTAMP"]).timestamp()
                rows.append((moment, int(row["ContextTokens"]), int(row["GeneratedTokens"])))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: {error!r}; columns are TIMESTAMP, ContextTokens, "
                    "GeneratedTokens"
                ) from error
    rows.sort()
    return [TraceRequest(moment - rows[0][0], *lengths) for moment, *lengths in rows]


def poisson(
    requests: int, rate: float, input: int = 1024, output: int = 128, seed: int = 0
) -> list[TraceRequest]:
    """Arrivals at random, `rate` a second; all lengths alike."""
    return bursty(requests, rate, 1.0, input, output, seed)


def bursty(
    requests: int,
    rate: float,
    variation: float,
    input: int = 1024,
    output: int = 128,
    seed: int = 0,
) -> list[TraceRequest]:
    """Gaps from a gamma distribution with standard deviation `variation` x mean; 1 is Poisson."""
    if requests < 1 or rate <= 0 or variation <= 0:
        raise ValueError(
            f"requests {requests}, rate {rate} and variation {variation} must be above 0"
        )
    shape = 1 / variation**2
    gaps = np.random.default_rng(seed).gamma(shape, 1 / (rate * shape), requests)
    return [TraceRequest(float(time), input, output) for time in np.cumsum(gaps)]


@dataclass(frozen=True)
class Conversations:
    """What `conversation` draws from; tokens and seconds. Calibrated, see the tests."""

    goes_on: float = 0.395  # share of requests after which the session goes on
    pause: float = 150.0  # median seconds from a request to the next of its session
    pause_sigma: float = 1.25  # of the logarithm
    first_scale: float = 7600.0  # first messages: Weibull
    first_shape: float = 0.72
    next_median: float = 700.0  # later messages: lognormal
    next_sigma: float = 1.7
    longest: int = 126_000
    tick: float = 3.0  # arrivals are rounded to it, as in the trace


def conversation(
    requests: int = 12_031,
    seconds: float = 3_537.0,
    seed: int = 0,
    draws: Conversations | None = None,
) -> list[TraceRequest]:
    """Sessions of several turns, like Mooncake's conversation trace."""
    if requests < 1 or seconds <= 0:
        raise ValueError(f"requests {requests} and seconds {seconds} must be above 0")
    draws, rng = draws or Conversations(), np.random.default_rng(seed)
    ids, waiting, trace = count(1), [], []
    for moment in np.sort(rng.uniform(0, seconds, requests)):
        if waiting and waiting[0][0] <= moment:
            _, _, last = heapq.heappop(waiting)
            length = last.input + last.output + _later(draws, rng)
            known = last.blocks[: last.input // BLOCK]
        else:
            length, known = SYSTEM_PROMPT + _first(draws, rng), (0,)
        length = min(length, draws.longest)
        blocks = known + tuple(next(ids) for _ in range(len(known), -(-length // BLOCK)))
        arrival = float(moment // draws.tick * draws.tick)
        request = TraceRequest(arrival, length, _answer(rng), blocks[: -(-length // BLOCK)])
        trace.append(request)
        if rng.random() < draws.goes_on and length < draws.longest:
            pause = rng.lognormal(np.log(draws.pause), draws.pause_sigma)
            heapq.heappush(waiting, (moment + pause, len(trace), request))
    return trace


def _first(draws: Conversations, rng: np.random.Generator) -> int:
    return 11 + int(draws.first_scale * rng.weibull(draws.first_shape))


def _later(draws: Conversations, rng: np.random.Generator) -> int:
    return 1 + int(rng.lognormal(np.log(draws.next_median), draws.next_sigma))


def _answer(rng: np.random.Generator) -> int:
    """One in eight answers is a few words; the others are some 390 tokens long."""
    length = rng.exponential(30) if rng.random() < 0.12 else rng.normal(386, 200)
    return int(np.clip(length, 1, 2000))
