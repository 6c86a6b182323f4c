"""The engine on SmolLM2-135M in float32: continuous batching beside `transformers`, and its parts.

Same weights, same requests (32 prompts of 64 to 256 tokens, 64 new tokens each), greedy, 2 threads.
`transformers` answers them one by one, and in static batches of 8, padded on the left; its own
continuous batching is for GPUs. Each side of the large workload runs once, because it takes
minutes; the small ones take turns and give medians.
"""

import time

import torch
from bench_decode import bandwidth, row, transformers_twin
from bench_moe import in_turns

from course_utils.generation import generate
from course_utils.models.pretrained import smollm2
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


def serve(model, asked: list[list[int]], new: int = NEW_TOKENS) -> list[list[int]]:
    """All requests through a new engine."""
    made = engine(model)
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


def throughput(model, twin) -> list[dict]:
    """Tokens per second of the whole workload."""
    asked, total = prompts(), REQUESTS * NEW_TOKENS
    serve(model, asked[:2], 2)
    ours, answers = timed(serve, model, asked)
    single, expected = timed(static, twin, asked, 1)
    batched, _ = timed(static, twin, asked, STATIC)
    same = sum(a == b for a, b in zip(answers, expected, strict=True))
    return [
        row("continuous batching against one by one", total / ours, total / single, 4.0),
        row(
            "continuous batching against static batches of 8",
            total / ours,
            total / batched,
            1.2,
        ),
        row("answers equal to transformers', of 32", same, REQUESTS, 1.0),
    ]


def decode(model) -> list[dict]:
    """Batch 1 through the engine, beside the plain model and the bandwidth's bound."""
    prompt = list(range(1000, 1008))

    def through_engine():
        serve(model, [prompt], 32)

    def plain():
        generate(model, torch.tensor([prompt]), 32)

    times = in_turns({"engine": through_engine, "plain": plain}, 7, lambda: None)
    bound = bandwidth() / sum(weight.nbytes for weight in model.parameters())
    rate = 32 / times["engine"]
    return [
        row("engine, batch 1, against the plain model", rate, 32 / times["plain"], 1.0),
        row("engine, batch 1, against the bandwidth bound", rate, bound, 0.55),
    ]


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
    twin = transformers_twin(model)
    return throughput(model, twin) + decode(model) + prefix(model) + overhead(model)
