"""The exercises of chapter 17: latencies, goodput, streams, admission, retries, tools.

The wrong answers stand in the files `_c17_*.py` beside this one.
"""

import copy
import json
import random
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

from course_utils.exercises import _c17_load_mistakes as load_mistakes
from course_utils.exercises import _c17_mistakes as mistakes
from course_utils.exercises import _c17_prediction_mistakes as prediction_mistakes
from course_utils.exercises import _c17_stream_mistakes as stream_mistakes
from course_utils.exercises.spec import Case, ExerciseSpec
from course_utils.exercises.words import count
from course_utils.serving.admission import Load, predicted_ttft
from course_utils.serving.retry import retry_delay
from course_utils.serving.slo import RequestRecord, goodput, latencies
from course_utils.serving.sse import parse_sse
from course_utils.serving.tool_round import run_tool_round

# ---- latencies


def _record(rng: random.Random, status: int = 200, tokens: int | None = None) -> RequestRecord:
    """A request that was sent late, waited, and got its tokens."""
    due = rng.uniform(0, 9)
    sent = due + rng.uniform(0.1, 0.4)
    first = sent + rng.uniform(0.1, 0.9)
    tokens = tokens or rng.randint(5, 40)
    last = first + rng.uniform(0.02, 0.2) * (tokens - 1)
    return RequestRecord(due, sent, first, last, tokens, status)


def _latency_cases(rng: random.Random) -> list[Case]:
    return [
        Case((RequestRecord(0.0, 0.0, 1.0, 3.0, 3, 200),), "three tokens, sent when due"),
        Case((RequestRecord(1.0, 1.5, 2.0, 4.0, 5, 200),), "due at 1 s, sent half a second late"),
        Case((RequestRecord(2.0, 2.25, 3.0, 3.0, 1, 200),), "an answer of a single token"),
        Case((RequestRecord(2.0, 2.0, None, None, 0, 429),), "a request that was refused"),
        Case((RequestRecord(2.0, 2.5, 3.0, 3.75, 4, 0),), "an answer that broke off"),
        *(Case((_record(rng),), "a request of a load test") for _ in range(3)),
    ]


LATENCIES = ExerciseSpec(
    name="c17.latencies",
    title="What a user waits for",
    why="Counted from the wrong moment, an overloaded server looks fast.",
    reference=latencies,
    cases=_latency_cases,
    wrong_answers=load_mistakes.LATENCIES,
    hints=(
        "When does the user begin to wait: when the test got round to sending, or when the request "
        "was due?",
        "Ten tokens have nine gaps between them. The first token belongs to TTFT.",
        "(record.first - record.due, (record.last - record.first) / (record.tokens - 1)), and "
        "think of a single token and of none.",
    ),
)


# ---- goodput


def _met(due: float, waited: float, pace: float, tokens: int = 11) -> RequestRecord:
    first = due + waited
    return RequestRecord(due, due, first, first + pace * (tokens - 1), tokens, 200)


def _goodput_cases(rng: random.Random) -> list[Case]:
    fast, waits, drags = _met(1.0, 0.5, 0.0625), _met(2.0, 4.0, 0.0625), _met(3.0, 0.5, 0.5)
    refused = RequestRecord(4.0, 4.0, None, None, 0, 429)
    broken = RequestRecord(5.0, 5.0, 5.25, 5.75, 9, 0)
    exact = _met(6.0, 1.0, 0.125)
    many = [_record(rng, rng.choice((200, 200, 200, 0))) for _ in range(40)] + [refused] * 5
    return [
        Case(([fast], 1.0, 0.125), "one request, well within both limits"),
        Case(([fast, waits], 1.0, 0.125), "one of two waits too long for its first token"),
        Case(([fast, fast, drags], 1.0, 0.125), "one of three has a TPOT above the limit"),
        Case(([fast, waits, drags, fast], 1.0, 0.125), "a late one and a slow one among four"),
        Case(([fast, refused], 1.0, 0.125), "one of two was refused"),
        Case(([fast, broken, fast], 1.0, 0.125), "one answer broke off (status 0)"),
        Case(([exact, waits], 1.0, 0.125), "one meets both limits exactly"),
        Case(([refused, refused], 1.0, 0.125), "everybody was refused"),
        Case((many, 0.7, 0.1), "45 requests, some broken off, five refused"),
        Case((many, 0.5, 0.15), "the same with other limits"),
    ]


GOODPUT = ExerciseSpec(
    name="c17.goodput",
    title="Goodput",
    why="Throughput counts answers that came too late to be of use; goodput does not.",
    reference=goodput,
    cases=_goodput_cases,
    wrong_answers=load_mistakes.GOODPUT,
    hints=(
        "Go through the requests one by one: was THIS user served well? Then divide by how many "
        "users there were.",
        "Served well: status 200, and TTFT at most `ttft`, and TPOT at most `tpot`. latencies(...) "
        "gives (None, None) where no token came.",
        "sum(r.status == 200 and latencies(r)[0] <= ttft and latencies(r)[1] <= tpot for r in "
        "records) / len(records)",
    ),
)


# ---- server-sent events


def _cut(stream: bytes, places: list[int]) -> list[bytes]:
    return [stream[a:b] for a, b in pairwise([0, *sorted(places), len(stream)])]


def _sse_cases(rng: random.Random) -> list[Case]:
    done = b"data: [DONE]\n\n"
    words = 'data: {"text": "é"}\n\ndata: {"text": "鹿"}\n\n'.encode() + done
    letter = words.index(b"\xc3") + 1  # between the two bytes of é
    everything = b": hello\n\ndata: a\n\n" + words
    places = rng.sample(range(1, len(everything)), 12)
    return [
        Case(([b"data: a\n\n", done],), "one event, then [DONE]"),
        Case(([b"data: a\n\ndata: b\n\n" + done],), "two events and [DONE] in one chunk"),
        Case(([b"data: one", b" event\n", b"\n" + done],), "an event cut into three"),
        Case((_cut(words, [letter]),), "a cut in the middle of a character"),
        Case(([b"data: a\r\n\r\ndata: b\r\n\r\n" + done],), "lines that end in \\r\\n"),
        Case(([b"data: a\n\n: keep-alive\n\ndata: b\n\n" + done],), "a comment between two events"),
        Case(([b"data: two\ndata: lines\n\n" + done],), "an event of two lines"),
        Case(([b"data:no space\n\ndata:  two spaces \n\n" + done],), "other spaces than one"),
        Case(([b"data: a\n\ndata: b\n"],), "the connection breaks before an event is complete"),
        Case(([b"data: a\n\n" + done + b"data: late\n\n"],), "something comes after [DONE]"),
        Case((_cut(everything, places),), "cut in twelve places"),
        Case(([bytes([byte]) for byte in everything],), "byte by byte"),
    ]


def _events(result: Any, args: tuple) -> Any:
    """A list of what was given, or in words what was raised while it was read."""
    if not isinstance(result, Iterator | list | tuple):
        return result
    try:
        return list(islice(result, 200))
    except Exception as error:
        return f"raised {type(error).__name__} while it was read"


PARSE_SSE = ExerciseSpec(
    name="c17.parse_sse",
    title="Reading a stream",
    why="A client that works on one machine breaks where the network cuts elsewhere.",
    reference=parse_sse,
    cases=_sse_cases,
    wrong_answers=stream_mistakes.PARSE_SSE,
    hints=(
        "What do you do with the bytes after the last line break? They may be half a line, or half "
        "a character.",
        "Keep them and put them in front of the next chunk: *lines, rest = (rest + "
        'chunk).split(b"\\n"). A whole line can be decoded.',
        "Collect what follows `data:` (without one space) in a list; at an empty line that list, "
        'joined by "\\n", is the event. Comments begin with a colon. Return at [DONE].',
    ),
    observe=_events,
)


# ---- predicted time to first token


def _prediction_cases(rng: random.Random) -> list[Case]:
    def case(says: str, prompt: int, cached: int, *load: Any, base: float = 0.01) -> Case:
        return Case((prompt, cached, Load(*load), base, 0.001), says)

    def some() -> Case:
        left = tuple(rng.sample(range(3, 90), rng.randint(3, 7)))
        load = Load(rng.choice((64, 128)), rng.randint(200, 900), left, rng.randint(1, 9), 0)
        rates = rng.uniform(0.005, 0.05), rng.uniform(1e-4, 1e-3)
        return Case((rng.randint(200, 900), 16 * rng.randint(1, 9), load, *rates), "a busy server")

    return [
        case("an idle server", 100, 0, 512, 0, (), 0, 4),
        case("64 of 100 tokens are cached", 100, 64, 512, 0, (), 0, 4),
        case("a prompt of three steps", 150, 0, 64, 0, (), 0, 4),
        case("two others write, one slot is free", 100, 0, 64, 0, (20, 7), 0, 1),
        case("300 tokens are read before", 100, 0, 64, 300, (20, 7), 0, 1),
        case("all slots are taken, nobody waits", 100, 0, 512, 0, (20, 7, 9), 0, 0),
        case("all slots are taken, one waits", 100, 0, 512, 40, (20, 7, 9), 1, 0),
        case("three slots, five wait", 100, 48, 512, 400, (20, 7, 9), 5, 0),
        case("two wait though a slot is free", 100, 48, 512, 40, (20, 7, 9), 2, 1),
        case("as many write as a step has tokens", 20, 0, 3, 0, (20, 7, 9), 0, 1),
        *(some() for _ in range(4)),
    ]


PREDICTED_TTFT = ExerciseSpec(
    name="c17.predicted_ttft",
    title="Will it be in time?",
    why="A server that says no at once lets the client go elsewhere, and keeps its other promises.",
    reference=predicted_ttft,
    cases=_prediction_cases,
    wrong_answers=prediction_mistakes.PREDICTED_TTFT,
    hints=(
        "Two waits, one after the other: for a slot, and for the tokens to be read. Count both in "
        "steps first, then in seconds.",
        "turns = load.waiting + 1 - load.free answers must end. With ends = sorted(load.running), "
        "rounds, place = divmod(turns - 1, len(ends)) gives rounds * ends[-1] + ends[place] steps.",
        "(wait + steps) * (base + per_token * len(load.running)) + tokens * per_token, with tokens "
        "= load.unread + prompt - cached and steps = ceil(tokens / max(1, load.budget - "
        "len(load.running)))",
    ),
)


# ---- waiting before the next attempt


def _retry_cases(rng: random.Random) -> list[Case]:
    def case(attempt: int, told: float | None, says: str, **options: float) -> Case:
        return Case((attempt, told, random.Random(rng.getrandbits(32))), says, options)

    return [
        case(0, None, "the first failure, the server says nothing"),
        case(1, None, "the second failure"),
        case(3, None, "the fourth failure"),
        case(12, None, "the thirteenth failure: far above the cap"),
        case(0, 2.0, "the server says Retry-After: 2"),
        case(2, 30.0, "Retry-After: 30, longer than the cap"),
        case(2, 0.0, "Retry-After: 0"),
        case(rng.randint(1, 3), rng.uniform(0.1, 1), "another base", base=0.1, cap=60.0),
        case(rng.randint(5, 9), 1.0, "a low cap", base=1.0, cap=3.0),
        Case((5, 1.0, random.Random(5)), "Retry-After: 1 after many failures"),
    ]


RETRY_DELAY = ExerciseSpec(
    name="c17.retry_delay",
    title="When to come back",
    why="Clients that retry at once, or all together, keep an overloaded server down.",
    reference=retry_delay,
    cases=_retry_cases,
    wrong_answers=mistakes.RETRY_DELAY,
    hints=(
        "Three parts: it doubles, it is limited, and a random share of it is taken.",
        "rng.random() is between 0 and 1. What the server asked for is waited whole, and the "
        "jitter comes on top.",
        "(retry_after or 0) + rng.random() * min(cap, base * 2**attempt)",
    ),
)


# ---- tools


class ScriptedModel:
    """Asks for its calls, then answers; refuses what OpenAI's API refuses. Counts its calls."""

    def __init__(self, *calls: tuple[str, dict]):
        self.work = 0
        self.calls = [
            {
                "id": f"call_{chr(97 + number)}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for number, (name, arguments) in enumerate(calls)
        ]

    def __call__(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        self.work += 1
        open_calls, results = set(), []
        for message in messages:
            if message["role"] == "tool":
                self._accept(message, open_calls)
                results.append(message["content"])
            elif open_calls:
                raise ValueError("400: a call of the assistant's message has no tool message")
            open_calls |= {call["id"] for call in message.get("tool_calls") or ()}
        if open_calls:
            raise ValueError("400: a call of the assistant's message has no tool message")
        if results or not self.calls:
            return {"role": "assistant", "content": "I read: " + ", ".join(results)}
        calls = copy.deepcopy(self.calls)
        return {"role": "assistant", "content": None, "tool_calls": calls}

    @staticmethod
    def _accept(message: dict[str, Any], open_calls: set[str]) -> None:
        if not open_calls:
            raise ValueError("400: a tool message must follow the message that asked for it")
        if message.get("tool_call_id") not in open_calls:
            raise ValueError("400: the tool_call_id belongs to no open call")
        if not isinstance(message.get("content"), str):
            raise ValueError("400: the content of a tool message must be text")
        open_calls.remove(message["tool_call_id"])


def _weather(city: str, unit: str = "C") -> dict[str, Any]:
    return {"city": city, "degrees": len(city) * (1 if unit == "C" else 2)}


def _add(a: float, b: float) -> float:
    return a + b


def _tool_cases(rng: random.Random) -> list[Case]:
    functions = {"weather": _weather, "add": _add}

    def case(says: str, *calls: tuple[str, dict], before: int = 0) -> Case:
        old = [{"role": "system", "content": "Be brief."}][:before]
        messages = [*old, {"role": "user", "content": "a question"}]
        return Case((ScriptedModel(*calls), messages, functions), says)

    numbers = {"a": rng.randint(1, 99), "b": rng.randint(1, 99)}
    return [
        case("the model answers without a tool"),
        case("one call", ("add", {"a": 2, "b": 3})),
        case("one call whose result is an object", ("weather", {"city": "Oslo"}), before=1),
        case(
            f"{count(3, 'call')} at once",
            ("weather", {"city": "Łódź", "unit": "F"}),
            ("add", numbers),
            ("weather", {"city": "Rome"}),
        ),
        case("a function that does not exist", ("divide", {"a": 1, "b": 2}), ("add", numbers)),
    ]


RUN_TOOL_ROUND = ExerciseSpec(
    name="c17.run_tool_round",
    title="A round trip with a tool",
    why="Every agent is this loop; most of its bugs are in the six lines around the call.",
    reference=run_tool_round,
    cases=_tool_cases,
    wrong_answers=mistakes.RUN_TOOL_ROUND,
    hints=(
        "What does the server remember of the first request when the second one comes? Nothing: so "
        "what must the second one contain?",
        'The assistant\'s message, as it is; then for each call {"role": "tool", "tool_call_id": '
        'call["id"], "content": text}. The arguments are a text: json.loads.',
        "messages = [*messages, ask([*messages])]; for call in "
        'messages[-1].get("tool_calls") or []: append json.dumps(functions[name](**arguments)) as '
        "a tool message; then ask once more, if there were calls.",
    ),
    work="calls of the model",
)

EXERCISES = [LATENCIES, GOODPUT, PARSE_SSE, PREDICTED_TTFT, RETRY_DELAY, RUN_TOOL_ROUND]
