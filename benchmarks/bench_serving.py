"""The engine on SmolLM2-135M beside `transformers` and llama.cpp, and what its parts cost.

Same weights in float32, same requests (32 prompts of 64 to 256 tokens, 64 new tokens each), greedy,
2 threads. `transformers` answers them one by one, and in static batches of 8, padded on the left;
its own continuous batching is for GPUs. The engine runs on packed weights (`layers/packed.py`), and
once as the model is. Each side of the large workload runs once, because it takes minutes; the small
ones take turns and give medians.

llama.cpp's server has 8 slots and rounds to 8 bits, as our weights beside it (`quantization`).
"""

import copy
import time

import llama_cpp
import torch
from bench_decode import bandwidth, row, transformers_twin
from bench_moe import in_turns

from course_utils.generation import generate
from course_utils.layers import pack_weights
from course_utils.models.pretrained import smollm2
from course_utils.quantization import QuantizationArgs, fuse, quantize_model
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import Engine, SamplingParams

REQUESTS, NEW_TOKENS, SLOTS, STATIC = 32, 64, 16, 8
PREFIX = 512


def prompts() -> list[list[int]]:
    """Random ids; lengths from 64 to 256 in even steps, shuffled."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(64, 256, REQUESTS).long()[
        torch.randperm(REQUESTS, generator=generator)
    ]
    return [torch.randint(40_000, (int(n),), generator=generator).tolist() for n in lengths]


def engine(model, **options) -> Engine:
    """16 slots, blocks of 16 tokens, 512 tokens a step."""
    return Engine(model, SchedulerConfig(400, 16, 512, SLOTS, **options))


def serve(made: Engine, asked: list[list[int]], new: int = NEW_TOKENS) -> list[list[int]]:
    """All requests through an engine that has cached nothing."""
    made.scheduler.pool.clear()
    all_of_them = [made.add(prompt, SamplingParams(new)) for prompt in asked]
    made.run()
    return [one.new_ids for one in all_of_them]


def static(twin, asked: list[list[int]], batch: int) -> list[list[int]]:
    """`transformers` generate in padded batches."""
    options = {
        "do_sample": False,
        "min_new_tokens": NEW_TOKENS,
        "max_new_tokens": NEW_TOKENS,
    }
    found = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in part])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
        out = twin.generate(ids, attention_mask=mask, pad_token_id=0, **options)
        found += out[:, longest:].tolist()
    return found


def timed(function, *arguments) -> tuple[float, object]:
    """Seconds, and the result."""
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def throughput(model, packed, twin) -> list[dict]:
    """Tokens per second of the whole workload."""
    asked, total = prompts(), REQUESTS * NEW_TOKENS
    ours, plain = engine(packed), engine(model)
    for made in (ours, plain):
        serve(made, asked[:2], 2)
    seconds, answers = timed(serve, ours, asked)
    unpacked, _ = timed(serve, plain, asked)
    single, expected = timed(static, twin, asked, 1)
    batched, _ = timed(static, twin, asked, STATIC)
    same = sum(a == b for a, b in zip(answers, expected, strict=True))
    rate = total / seconds
    return [
        row("continuous batching against one by one", rate, total / single, 4.0),
        row("continuous batching against static batches of 8", rate, total / batched, 1.2),
        row("the same on unpacked weights against them", total / unpacked, total / batched, 1.2),
        row("answers equal to transformers', of 32", same, REQUESTS, 1.0),
    ]


def decode(model, packed) -> list[dict]:
    """Batch 1 through the engine, beside the plain model and the bandwidth's bound."""
    prompt, engines = list(range(1000, 1008)), {"packed": engine(packed), "unpacked": engine(model)}
    sides = {name: lambda made=made: serve(made, [prompt], 32) for name, made in engines.items()}
    sides["plain"] = lambda: generate(model, torch.tensor([prompt]), 32)
    times = in_turns(sides, 7, lambda: None)
    rates = {name: 32 / seconds for name, seconds in times.items()}
    bound = bandwidth() / sum(weight.nbytes for weight in model.parameters())
    best = max(rates["packed"], rates["unpacked"])
    return [
        row("engine, batch 1, against the plain model", rates["unpacked"], rates["plain"], 1.0),
        row(
            "packed weights, batch 1, against the plain model",
            rates["packed"],
            rates["plain"],
            None,
        ),
        row("engine, batch 1, against the bandwidth bound", best, bound, 0.55),
    ]


def beside_llama_cpp(model, packed) -> list[dict]:
    """1 and 8 requests at once, in 8 bits and with our best weights, beside llama.cpp's server."""
    servers = llama_cpp.peers(torch.get_num_threads(), ["Q8_0"], STATIC)
    if not servers:
        return []
    (server,) = servers.values()
    small = fuse(quantize_model(copy.deepcopy(model), QuantizationArgs(8)))
    engines, rows = {"int8": engine(small), "float32, packed": engine(packed)}, []
    for count in (1, STATIC):
        asked = [prompt[:64] for prompt in prompts()[:count]]
        sides = {
            name: lambda made=made, asked=asked: serve(made, asked)
            for name, made in engines.items()
        }
        sides["llama.cpp"] = lambda asked=asked: server.tokens_per_second(asked, NEW_TOKENS)
        times = in_turns(sides, 5, lambda: None)
        rates = {name: count * NEW_TOKENS / seconds for name, seconds in times.items()}
        peer = rates.pop("llama.cpp")
        for name, rate in rates.items():
            rows.append(row(f"{name}, {count} at once, against llama.cpp Q8_0", rate, peer, None))
    server.stop()
    return rows


def prefix(model) -> list[dict]:
    """Seconds to the first token of a prompt whose first 512 tokens are cached, and are not."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randint(40_000, (PREFIX,), generator=generator).tolist()
    made, times = engine(model), {"cold": [], "warm": []}
    for turn in range(5):
        made.scheduler.pool.clear()
        for name in ("cold", "warm"):
            made.add([*shared, turn, turn + 1], SamplingParams(1))
            times[name].append(timed(made.run)[0])
    cold, warm = (sorted(found)[2] for found in times.values())
    return [row("first token, prefix of 512 cached, 1/s", 1 / warm, 1 / cold, 5.0)]


def overhead(model) -> list[dict]:
    """Share of a step at batch 8 that is spent outside the model's pass."""
    made, inside = engine(model), []
    forward = made._forward

    def watched(plan):
        seconds, hidden = timed(forward, plan)
        inside.append(seconds)
        return hidden

    made._forward = watched
    for prompt in prompts()[:8]:
        made.add(prompt[:64], SamplingParams(40))
    made.step()
    inside.clear()
    whole = [timed(made.step)[0] for _ in range(30)]
    head = timed(model.logits, torch.zeros(8, model.config.hidden_size))[0]
    share = 1 - (sorted(inside)[15] + head) / sorted(whole)[15]
    return [row("time outside the model, batch 8, share of a step", share, 1.0, 0.1)]


@torch.no_grad()
def run() -> list[dict]:
    """Rows for `course bench serving`."""
    torch.set_num_threads(2)
    model = smollm2().model
    packed = pack_weights(copy.deepcopy(model))
    rows = throughput(model, packed, transformers_twin(model)) + decode(model, packed)
    return rows + prefix(packed) + overhead(packed) + beside_llama_cpp(model, packed)
