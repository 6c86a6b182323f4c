"""Wrong answers of chapter 17: waiting before the next attempt, a round trip with tools."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from course_utils.exercises.spec import WrongAnswer

# ---- waiting before the next attempt


def _delay(total: Callable[..., float]) -> Callable[..., float]:
    """An answer from a function of (attempt, told or 0, rng, base, cap)."""

    def answer(attempt, retry_after, rng, base=0.5, cap=8.0) -> float:
        return total(attempt, retry_after or 0.0, rng, base, cap)

    return answer


def _step(attempt: int, base: float, cap: float) -> float:
    return min(cap, base * 2**attempt)


def _told(attempt, retry_after, rng, base=0.5, cap=8.0) -> float:
    return retry_after + rng.random() * _step(attempt, base, cap)


RETRY_DELAY = (
    WrongAnswer(
        "Retry-After ignored",
        _delay(lambda n, told, rng, base, cap: rng.random() * _step(n, base, cap)),
        "You do not use `retry_after`. The server knows when it can take you; whoever comes "
        "earlier is refused again and makes it worse.",
    ),
    WrongAnswer(
        "no jitter",
        _delay(lambda n, told, rng, base, cap: told + _step(n, base, cap)),
        "No chance is involved: all clients that were refused together come back together. Take a "
        "random share of the step, rng.random() * step.",
        also=(
            _delay(lambda n, told, rng, base, cap: max(told, _step(n, base, cap))),
            _delay(lambda n, told, rng, base, cap: told or _step(n, base, cap)),
        ),
    ),
    WrongAnswer(
        "no cap",
        _delay(lambda n, told, rng, base, cap: told + rng.random() * base * 2**n),
        "Nothing limits the step: after 13 failures a client would wait up to an hour. "
        "min(cap, base * 2**attempt).",
    ),
    WrongAnswer(
        "the longer of the two",
        _delay(lambda n, told, rng, base, cap: max(told, rng.random() * _step(n, base, cap))),
        "max(...) makes all clients with the same Retry-After come back in the same moment. Wait "
        "the time that was asked for, and add the jitter.",
    ),
    WrongAnswer(
        "a share of Retry-After",
        _delay(lambda n, told, rng, base, cap: rng.random() * (told + _step(n, base, cap))),
        "You take a random share of everything, so half of the clients come before the time that "
        "the server asked for. Only the step is shared out by chance.",
        also=(_delay(lambda n, told, rng, *limits: rng.random() * max(told, _step(n, *limits))),),
    ),
    WrongAnswer(
        "Retry-After instead of the step",
        _delay(lambda n, told, rng, *limits: told if told else rng.random() * _step(n, *limits)),
        "Where the server gives a time, you wait exactly that, like everybody else who was "
        "refused. Add the jitter in both cases.",
    ),
    WrongAnswer(
        "Retry-After capped",
        _delay(lambda n, told, rng, base, cap: min(cap, told) + rng.random() * _step(n, base, cap)),
        "The cap limits the client's own step. Thirty seconds asked for are thirty seconds.",
        also=(
            _delay(
                lambda n, told, rng, base, cap: min(cap, told + rng.random() * _step(n, base, cap))
            ),
        ),
    ),
    WrongAnswer(
        "counted from one",
        _delay(lambda n, told, rng, base, cap: told + rng.random() * _step(n + 1, base, cap)),
        "The first failure is attempt 0: its step is `base`, and base * 2**0 is that.",
    ),
    WrongAnswer(
        "grows by addition",
        _delay(lambda n, told, rng, base, cap: told + rng.random() * min(cap, base * (n + 1))),
        "The step grows by `base` each time. It must double: 2**attempt.",
        also=(
            _delay(lambda n, told, rng, base, cap: told + rng.random() * min(cap, base * n * 2)),
            _delay(lambda n, told, rng, base, cap: told + rng.random() * min(cap, base * n**2)),
        ),
    ),
    WrongAnswer(
        "chance from elsewhere",
        _delay(lambda n, told, rng, base, cap: told + random.random() * _step(n, base, cap)),
        "You draw from Python's global generator. Take `rng`, which was handed in: a test can then "
        "repeat what happened.",
    ),
    WrongAnswer(
        "no header",
        _told,
        "Without the header retry_after is None, which cannot be added: (retry_after or 0).",
    ),
)


# ---- tools


def _message(call: Mapping[str, Any], content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call["id"], "content": content}


def _result(call: Mapping[str, Any], functions: Mapping[str, Callable]) -> Any:
    name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
    return functions[name](**arguments) if name in functions else {"error": f"no function {name}"}


def _round(
    message: Callable[..., dict] = lambda call, result: _message(call, json.dumps(result)),
    result: Callable[..., Any] = _result,
    keep: bool = True,
    calls: Callable[[list], list] = lambda calls: calls,
    again: bool = False,
) -> Callable[..., list]:
    """The right round trip, with one thing done otherwise."""

    def answer(ask: Callable, messages: Sequence[dict], functions: Mapping[str, Callable]) -> list:
        asked = ask([*messages])
        wanted = asked.get("tool_calls") or []
        messages = [*messages, *([asked] if keep or not wanted else [])]
        messages += [message(call, result(call, functions)) for call in calls(wanted)]
        return [*messages, ask([*messages])] if wanted or again else messages

    return answer


def _without_parsing(call: Mapping[str, Any], functions: Mapping[str, Callable]) -> Any:
    return functions[call["function"]["name"]](**call["function"]["arguments"])


def _as_text(call: Mapping[str, Any], functions: Mapping[str, Callable]) -> Any:
    return functions[call["function"]["name"]](call["function"]["arguments"])


def _known(call: Mapping[str, Any], functions: Mapping[str, Callable]) -> Any:
    return functions[call["function"]["name"]](**json.loads(call["function"]["arguments"]))


def _always_calls(ask: Callable, messages: Sequence[dict], functions: Mapping) -> list:
    messages = [*messages, ask([*messages])]
    for call in messages[-1]["tool_calls"]:
        messages.append(_message(call, json.dumps(_result(call, functions))))
    return [*messages, ask([*messages])]


def _stops_early(ask: Callable, messages: Sequence[dict], functions: Mapping) -> list:
    messages = [*messages, ask([*messages])]
    for call in messages[-1].get("tool_calls") or []:
        messages.append(_message(call, json.dumps(_result(call, functions))))
    return messages


def _one_by_one(ask: Callable, messages: Sequence[dict], functions: Mapping) -> list:
    messages = [*messages, ask([*messages])]
    for call in messages[-1].get("tool_calls") or []:
        messages.append(_message(call, json.dumps(_result(call, functions))))
        messages.append(ask([*messages]))
    return messages


RUN_TOOL_ROUND = (
    WrongAnswer(
        "arguments taken for a dict",
        _round(result=_without_parsing),
        'call["function"]["arguments"] is a text that the model wrote, not a dict: '
        "json.loads(...) first.",
        also=(_round(result=_as_text),),
    ),
    WrongAnswer(
        "the assistant's message forgotten",
        _round(keep=False),
        "You send the results without the message in which the model asked for them. The server "
        "remembers nothing: append the assistant's message first, with its tool_calls.",
    ),
    WrongAnswer(
        "wrong tool_call_id",
        _round(lambda call, r: _message(call, json.dumps(r)) | {"tool_call_id": "call_1"}),
        'tool_call_id must be the id of the call that is answered: call["id"]. With several calls '
        "at once it is the only thing that tells their results apart.",
        also=(
            _round(
                lambda call, r: (
                    _message(call, json.dumps(r)) | {"tool_call_id": call["function"]["name"]}
                )
            ),
        ),
    ),
    WrongAnswer(
        "a call left open",
        _round(calls=lambda calls: calls[:1]),
        "You ask the model again while a call of its message has no answer. It may ask for several "
        "at once: answer every one with a tool message of its own, and only then ask, once.",
        also=(_round(calls=lambda calls: calls[-1:]), _one_by_one),
    ),
    WrongAnswer(
        "a result that is no text",
        _round(lambda call, r: _message(call, r)),
        "The content of a tool message is text. Send the result as JSON: json.dumps(result).",
    ),
    WrongAnswer(
        "Python's text for JSON",
        _round(lambda call, r: _message(call, str(r))),
        "str(...) of a dict has single quotes: no JSON. Use json.dumps(result).",
        also=(_round(lambda call, r: _message(call, f"{r}")),),
    ),
    WrongAnswer(
        "answers as the user",
        _round(lambda call, r: {"role": "user", "content": json.dumps(r)}),
        'The result comes back as a message of the user, so the call stays open: "role": "tool", '
        "with the call's id.",
    ),
    WrongAnswer(
        "no calls, no key",
        _always_calls,
        'A message without calls has no key "tool_calls" (or None there): '
        '.get("tool_calls") or [].',
    ),
    WrongAnswer(
        "asks again without need",
        _round(again=True),
        "The model answered without a tool, and you ask it once more. Then the first answer is the "
        "last.",
        also=(_round(again=True, result=_known),),
    ),
    WrongAnswer(
        "no second question",
        _stops_early,
        "You append the results and stop: the model never reads them. Ask once more.",
    ),
    WrongAnswer(
        "trusts the name",
        _round(result=_known),
        "The model asked for a function that does not exist, and your program ends. A name is only "
        'text that a model wrote: report {"error": "no function ..."} as the result.',
    ),
)
