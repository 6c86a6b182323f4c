"""The exercises of chapter 18: waiting, two limits, moving a cache, placing and rejecting requests.

The wrong answers stand in the files `_c18_*.py` beside this one.
"""

import random
from dataclasses import astuple
from typing import Any

import numpy as np

from course_utils.exercises import _c18_cache_mistakes as cache_mistakes
from course_utils.exercises import _c18_mistakes as mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.simulation.admission import InFlight, early_rejection
from course_utils.simulation.costs import (
    LLAMA2_70B,
    ModelSize,
    StepCost,
    break_even_bandwidth,
)
from course_utils.simulation.metrics import Latencies, goodput
from course_utils.simulation.policies import Choice, Job, Option, cache_aware
from course_utils.simulation.prefix_study import prefix_hits
from course_utils.simulation.queueing import mg1_wait

# ---- the wait of a queue


def _wait_cases(rng: random.Random) -> list[Case]:
    service = round(rng.uniform(0.2, 3.0), 2)
    return [
        Case((0.5, 1.0, 0.0), "half busy, all requests alike"),
        Case((0.5, 1.0, 1.0), "half busy, exponential times"),
        Case((0.9, 1.0, 0.0), "90% busy, all alike"),
        Case((1.0, 1.0, 0.0), "as much work as the server can do"),
        Case((2.0, 1.0, 1.0), "twice the work that it can do"),
        Case((0.0, 1.0, 1.0), "nobody comes"),
        Case((0.9 / service, service, 2.5), "90% busy, times that differ widely"),
        Case((0.3 / service, service, 0.5), "30% busy, times that differ a little"),
    ]


MG1_WAIT = ExerciseSpec(
    name="c18.mg1_wait",
    title="How long a request waits",
    why="Average load says that a server keeps up, and nothing about how long anybody waits.",
    reference=mg1_wait,
    cases=_wait_cases,
    wrong_answers=mistakes.MG1_WAIT,
    hints=(
        "The load is rate * service, the share of time in which the server is busy. What must hold "
        "for it?",
        "With exponential times the wait is load * service / (1 - load). With equal times it is "
        "half of that.",
        "load * service / (1 - load) * (1 + variation**2) / 2, and ValueError if rate or service "
        "is not above 0 or the load is not below 1.",
    ),
)


# ---- goodput


def _latencies(ttft: list[float], worst: list[float], mean: list[float] | None = None) -> Latencies:
    parts = (ttft, worst, worst if mean is None else mean, [])
    return Latencies(*(np.array(part, float) for part in parts))


def _goodput_cases(rng: random.Random) -> list[Case]:
    nan, draw = float("nan"), np.random.default_rng(rng.getrandbits(32))
    many = draw.exponential(1.0, (2, 40))
    return [
        Case((_latencies([1.0], [0.05]), 2.0, 0.1), "one request within both limits"),
        Case((_latencies([1.0, 3.0], [0.2, 0.05]), 2.0, 0.1), "each breaks another limit"),
        Case((_latencies([2.0, 2.0], [0.1, 0.3]), 2.0, 0.1), "values exactly at the limits"),
        Case((_latencies([1.0, nan], [0.05, nan]), 2.0, 0.1), "the second was rejected"),
        Case((_latencies([1.0, 1.0, 9.0], [nan, 0.05, nan]), 2.0, 0.1), "answers of one token"),
        Case((_latencies([1.0, 1.0], [0.5, 0.05], [0.06, 0.04]), 2.0, 0.1), "one long pause"),
        Case((_latencies([nan, nan], [nan, nan]), 2.0, 0.1), "all were rejected"),
        Case((_latencies([*many[0], nan], [*many[1], nan]), 0.8, 0.9), "41 requests"),
    ]


GOODPUT = ExerciseSpec(
    name="c18.goodput",
    title="Goodput under two limits",
    why="It is what a cluster is compared by: answers that keep their promise, of all asked for.",
    reference=goodput,
    cases=_goodput_cases,
    wrong_answers=mistakes.GOODPUT,
    hints=(
        "What does NaN mean in `ttft`, and what in `worst_tbt` alone? Which of them is a failure?",
        "Comparisons with NaN are False. So ask `ttft <= limit`, where NaN should fail, and "
        "`~(worst_tbt > limit)`, where it should not.",
        "float(np.mean((found.ttft <= ttft) & ~(found.worst_tbt > tbt)))",
    ),
)


# ---- break-even bandwidth


def _bandwidth_cases(rng: random.Random) -> list[Case]:
    small = ModelSize(2, 64, a=4, b=24, weight_bytes=1e6, kv_bytes=1024)
    start = rng.randint(100, 5000)
    return [
        Case((small, 0, 1, 1e9), "one token of a small model"),
        Case((small, 0, 100, 1e9), "100 tokens of a small model"),
        Case((small, 50, 100, 1e9), "the second half of them"),
        Case((LLAMA2_70B, 0, 8192, 8 * 312e12), "8,192 tokens of Llama 2 70B on 8 A800"),
        Case((LLAMA2_70B, 65_536, 131_072, 8 * 312e12), "the second half of a very long prompt"),
        Case((LLAMA2_70B, start, start + rng.randint(1, 9000), 1e15), "some tokens in the middle"),
    ]


BREAK_EVEN = ExerciseSpec(
    name="c18.break_even_bandwidth",
    title="Fetch or compute?",
    why="It says from which network on a cache that lies elsewhere is worth having.",
    reference=break_even_bandwidth,
    cases=_bandwidth_cases,
    wrong_answers=cache_mistakes.BREAK_EVEN,
    hints=(
        "How many bytes have to be moved? How many seconds does it take to compute them instead? "
        "At which speed do the bytes arrive in just these seconds?",
        "Bytes: model.kv_bytes for each of the end - start tokens. Operations: "
        "prefill_flops(model, end, start), where the first `start` tokens are there already.",
        "(end - start) * model.kv_bytes * flops / prefill_flops(model, end, start)",
    ),
)


# ---- hits of a cache


def _hits_cases(rng: random.Random) -> list[Case]:
    talk = [1, 2, 3, 4]
    many = [
        [0, *(rng.randint(1, 3) * 10 + place for place in range(rng.randint(1, 5)))]
        for _ in range(30)
    ]
    return [
        Case(([[1, 2], [1, 2]],), "the same prompt twice"),
        Case(([[1, 2, 3], [1, 9, 3]],), "the same beginning, then another block"),
        Case(([[1, 2], [9, 2]],), "the same end, another beginning"),
        Case(([[1, 2], [3, 4], [1, 2]], 2), "two blocks of room: the first prompt is pushed out"),
        Case(([[1, 2], [1, 3], [1, 2]], 2), "the common block is used again and stays"),
        Case(([[5], [6], [7], [5]], 3), "just enough room"),
        Case(([talk[:2], talk[:3], [8], talk], 4), "a talk that goes on, and another request"),
        Case(([[1, 2, 3], [1, 2, 3]], 2), "a prompt larger than the cache"),
        Case(([[], [1]], 1), "an empty prompt"),
        Case((many, 12), "30 prompts, room for 12 blocks"),
        Case((many,), "the same without a limit"),
    ]


PREFIX_HITS = ExerciseSpec(
    name="c18.prefix_hits",
    title="Hits of a prefix cache",
    why="Figure 9 of the paper is this count, on a trace of 12,031 requests.",
    reference=prefix_hits,
    cases=_hits_cases,
    wrong_answers=cache_mistakes.PREFIX_HITS,
    hints=(
        "Three things happen for a prompt: look, store, evict. In which order?",
        "An OrderedDict keeps the order of insertion. move_to_end(block) makes a block the most "
        "recent; popitem(last=False) takes the least recent out.",
        "Hits end at the first block that is not there: next((n for n, block in enumerate(prompt) "
        "if block not in recent), len(prompt)).",
    ),
)


# ---- placement


def _job(speed: float, tokens: int = 1000) -> Job:
    """Linear prefill, so that waits and prefixes can be weighed by hand."""
    return Job(tokens, lambda cached: (tokens - cached) / speed, lambda *route: 0.0)


def _placement_cases(rng: random.Random) -> list[Case]:
    def case(says: str, *options: tuple[float, int], speed: float = 100.0) -> Case:
        made = [Option(node, wait, cached) for node, (wait, cached) in enumerate(options)]
        return Case((_job(speed), made, random.Random(0)), says)

    drawn = [(round(rng.uniform(0, 9), 2), 100 * rng.randint(0, 9)) for _ in range(6)]
    return [
        case("a single node", (1.0, 0)),
        case("both wait the same, one holds a prefix", (1.0, 0), (1.0, 500)),
        case("both hold the same, one waits longer", (5.0, 500), (1.0, 500)),
        case("a long prefix behind a long queue", (20.0, 900), (1.0, 0)),
        case("a prefix worth waiting for", (4.0, 900), (1.0, 0)),
        case("the wait is longer than the prefill", (8.0, 600), (9.0, 900)),
        case("equal estimates", (2.0, 0), (1.0, 0), (3.0, 200)),
        case("nobody holds anything", (3.0, 0), (0.5, 0), (2.0, 0)),
        case("six nodes", *drawn),
        case("six nodes, fast prefill", *drawn, speed=1e4),
    ]


def _as_numbers(result: Any, args: tuple) -> Any:
    """A Choice as its fields; anything else as it is."""
    return astuple(result) if isinstance(result, Choice) else result


CACHE_AWARE = ExerciseSpec(
    name="c18.cache_aware",
    title="Where is the prompt read?",
    why="A prefix that is there already saves seconds, and a queue costs them: a policy weighs.",
    reference=cache_aware,
    cases=_placement_cases,
    wrong_answers=cache_mistakes.CACHE_AWARE,
    hints=(
        "When does the first token come if the prompt goes to one particular node? Write that down "
        "for each node.",
        "option.wait + job.prefill(option.cached). Make a Choice(node, ttft, cached) for each.",
        "min(choices, key=lambda choice: (choice.ttft, choice.node))",
    ),
    observe=_as_numbers,
)


# ---- early rejection


def _rejection_cases(rng: random.Random) -> list[Case]:
    cost = StepCost(base=0.01, per_request=0.001, per_context=1e-6)

    def case(says: str, others=(), ttft=2.0, tokens=1000, nodes=1, limits=(5.0, 0.0155)) -> Case:
        made = [InFlight(*one) for one in others]
        return Case((ttft, tokens, made, nodes, cost, *limits), says)

    crowd = [
        (rng.randint(500, 3000), rng.uniform(-3, 4), rng.uniform(4.5, 9) - rng.choice([0, 3]))
        for _ in range(12)
    ]
    return [
        case("nobody else"),
        case("a first token that comes too late", ttft=5.1),
        case("a first token exactly at the limit", ttft=5.0),
        case("a step exactly at the limit", limits=(5.0, StepCost(0.0125).base)),
        case("a prompt too large by itself", tokens=9000),
        case("too late and too slow", ttft=6.0, tokens=9000),
        case("three are there and stay", [(1000, -1.0, 9.0)] * 3),
        case("four are there and stay", [(1000, -1.0, 9.0)] * 4),
        case("they are there now and leave in time", [(1000, -1.0, 1.5)] * 4),
        case("they come before this one does", [(1000, 1.0, 9.0)] * 4),
        case("they come later", [(1000, 3.0, 9.0)] * 4),
        case("they come and go before", [(1000, 0.5, 1.5)] * 4),
        case("six on two nodes", [(1000, -1.0, 9.0)] * 6, nodes=2),
        *(
            case("twelve in flight", crowd, nodes=3, limits=(5.0, limit))
            for limit in (0.012, 0.014, 0.016, 0.018, 0.02)
        ),
    ]


EARLY_REJECTION = ExerciseSpec(
    name="c18.early_rejection",
    title="Say no early",
    why="A prompt that is read for an answer that comes too slowly is work thrown away.",
    reference=early_rejection,
    cases=_rejection_cases,
    wrong_answers=mistakes.EARLY_REJECTION,
    hints=(
        "At which moment does this request reach the decode nodes, and who is there then?",
        "one.joins <= ttft < one.leaves. Its own tokens come on top. A decode node has 1 / nodes "
        "of the requests and of the tokens.",
        "Work(size, size, context, 2 * context) is the step; cost.seconds(...) its time. First "
        '"ttft", then "tbt", else "".',
    ),
)

EXERCISES = [MG1_WAIT, GOODPUT, BREAK_EVEN, PREFIX_HITS, CACHE_AWARE, EARLY_REJECTION]
