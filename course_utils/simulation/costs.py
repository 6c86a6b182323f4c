"""What a step takes: seconds from the work of a plan, by a model that is linear in five features.

A step computes tokens for requests, reads the keys and values of their context, and attends. All
of this is counted from the scheduler's plan (`work_of`); seconds then are

    base + per_token * tokens + per_request * requests + per_context * context
         + per_square * squares

Three ways to the five numbers:

    prefill  FLOPs = l (a n^2 d + b n d^2) for n tokens and l layers of width d; peak FLOP/s x MFU
    decode   bytes = weights, once a step, and the keys and values of the context; bandwidth
    fit      least squares on measured steps of an engine

The square of a chunk from `start` to `end` is end^2 - start^2, so that the prefill of a prompt
costs the same in one chunk as in many, and a cached prefix is exactly what is saved. `Roofline`
takes the longer of two such models: a step that mixes prefill with decode computes while it reads
(or, the other extreme, first the one and then the other).

Source: Mooncake (Qin et al. 2025, FAST), section 2.2, for the FLOPs; Williams et al. 2009 for the
roofline.
Left out: steps shorter for CUDA graphs, tile sizes, and interference on the memory bus.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from course_utils.scheduling import Plan, Request

Number = float | np.ndarray


@dataclass(frozen=True)
class Work:
    """The features of a step, or of many like steps (then arrays, one entry for each)."""

    tokens: Number = 0  # computed
    requests: Number = 0
    context: Number = 0  # tokens whose keys and values are read, the new ones included
    squares: Number = 0  # sum of end^2 - start^2 over the chunks


def chunk_work(start: int, count: int) -> Work:
    """The work of `count` tokens of one request after `start` that are there already."""
    end = start + count
    return Work(count, 1, end, end * end - start * start)


def work_of(plan: Plan) -> Work:
    """The work of a scheduler's plan."""
    ends = [(chunk.start, chunk.start + chunk.count) for chunk in plan.chunks]
    squares = sum(end * end - start * start for start, end in ends)
    return Work(plan.tokens, len(ends), sum(end for _, end in ends), squares)


def steady_work(running: Sequence[Request], steps: int) -> Work:
    """The work of each of the next steps in which every running request computes one token."""
    requests = len(running)
    first = sum(request.computed + 1 for request in running)
    context = first + requests * np.arange(steps)
    return Work(requests, requests, context, 2 * context - requests)


@dataclass(frozen=True)
class StepCost:
    """The linear model, in seconds."""

    base: float = 0.0
    per_token: float = 0.0
    per_request: float = 0.0
    per_context: float = 0.0
    per_square: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}: no time is below 0")

    def seconds(self, work: Work) -> Number:
        """Seconds of a step, or of each of many."""
        linear = self.base + self.per_token * work.tokens + self.per_request * work.requests
        return linear + self.per_context * work.context + self.per_square * work.squares

    def scaled(self, factor: float) -> "StepCost":
        """The same, `factor` times as slow."""
        return StepCost(*(factor * getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Roofline:
    """The longer of computing and reading; without `overlap`, one after the other."""

    compute: StepCost
    memory: StepCost
    overlap: bool = True

    def seconds(self, work: Work) -> Number:
        """Seconds of a step, or of each of many."""
        compute, memory = self.compute.seconds(work), self.memory.seconds(work)
        return np.maximum(compute, memory) if self.overlap else compute + memory

    def scaled(self, factor: float) -> "Roofline":
        """The same, `factor` times as slow."""
        return Roofline(self.compute.scaled(factor), self.memory.scaled(factor), self.overlap)


Cost = StepCost | Roofline


@dataclass(frozen=True)
class ModelSize:
    """A dense model, as Mooncake's section 2.2 counts it."""

    layers: int
    hidden: int
    a: float  # FLOPs of attention a layer: a n^2 d
    b: float  # FLOPs of the matrices a layer: b n d^2
    weight_bytes: float
    kv_bytes: float  # keys and values of one token, all layers


# 8 key-value heads of 128 in bf16: 80 * 2 * 8 * 128 * 2 bytes a token; 69 billion weights
LLAMA2_70B = ModelSize(80, 8192, a=4, b=22, weight_bytes=138e9, kv_bytes=327_680)
A800_NODE_FLOPS = 8 * 312e12  # bf16, dense, from the chip's data sheet
A800_NODE_BANDWIDTH = 8 * 2.039e12  # bytes/s


def prefill_flops(model: ModelSize, tokens: Number, cached: Number = 0) -> Number:
    """FLOPs of the prefill of `tokens`, the first `cached` of which are there already."""
    squares, new = tokens * tokens - cached * cached, tokens - cached
    return model.layers * (model.a * squares * model.hidden + model.b * new * model.hidden**2)


def break_even_bandwidth(model: ModelSize, start: int, end: int, flops: float) -> float:
    """Bytes/s at which the tokens `start`, ..., `end` - 1 are fetched as fast as computed.

    The first `start` tokens are there already; `flops` are the FLOP/s that prefill reaches.
    """
    size = (end - start) * model.kv_bytes
    return size * flops / prefill_flops(model, end, start)


def prefill_cost(model: ModelSize, flops: float, mfu: float) -> StepCost:
    """Seconds of computing at `flops` FLOP/s, of which the share `mfu` is reached."""
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is {mfu}: it is a share of the peak, above 0 and at most 1")
    per_layer = model.layers / (flops * mfu)
    return StepCost(
        per_token=per_layer * model.b * model.hidden**2,
        per_square=per_layer * model.a * model.hidden,
    )


def decode_cost(
    model: ModelSize, bandwidth: float, efficiency: float = 1.0, overhead: float = 0.0
) -> StepCost:
    """Seconds of reading at `bandwidth` bytes/s x `efficiency`, and `overhead` (s) a step."""
    if not 0 < efficiency <= 1:
        raise ValueError(f"efficiency is {efficiency}: a share of the bandwidth, at most 1")
    reached = bandwidth * efficiency
    return StepCost(overhead + model.weight_bytes / reached, per_context=model.kv_bytes / reached)


def node_cost(
    model: ModelSize, flops: float, bandwidth: float, mfu: float, efficiency: float, overhead: float
) -> Roofline:
    """A node that reads prompts, writes answers, or mixes both in one step."""
    compute = prefill_cost(model, flops, mfu)
    return Roofline(compute, decode_cost(model, bandwidth, efficiency, overhead))


def fit_cost(works: Sequence[Work], seconds: Sequence[float]) -> StepCost:
    """The linear model of an engine's measured steps: least squares of the relative error.

    Features that would come out below 0 are left out, the most negative first: two features that
    always grow together cannot both be told from one workload.
    """
    if len(works) != len(seconds) or len(works) < 2 or min(seconds) <= 0:
        raise ValueError(
            f"{len(works)} steps with {len(seconds)} times: give two or more, with times above 0"
        )
    rows = [(1, work.tokens, work.requests, work.context, work.squares) for work in works]
    table = np.asarray(rows, float) / np.asarray(seconds)[:, None]
    scale = np.abs(table).max(axis=0)
    kept = [column for column in range(5) if scale[column]]
    while True:
        found, *_ = np.linalg.lstsq(table[:, kept] / scale[kept], np.ones(len(rows)), rcond=None)
        if found.min() >= 0:
            break
        kept.pop(int(found.argmin()))
    values = [0.0] * 5
    for column, value in zip(kept, found, strict=True):
        values[column] = float(value / scale[column])
    return StepCost(*values)
