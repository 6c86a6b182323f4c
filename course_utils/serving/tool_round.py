"""One round trip with tools: the model asks for a function, the client calls it and reports back.

The server remembers nothing between two requests, so the client sends the whole conversation again:
also the message in which the model asked, followed by one message with the result of every call,
which names the call's id. A model never runs anything itself. It writes a name and a text that
should be JSON; what is done with it is the client's decision, and its responsibility.

Source: OpenAI's API reference, "Create chat completion": `tool_calls` and the tool message. Left
out: several rounds, asking the user before a call, and validation against the schema.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def run_tool_round(
    ask: Callable[[list[dict]], dict],
    messages: Sequence[dict],
    functions: Mapping[str, Callable[..., Any]],
) -> list[dict]:
    """The whole conversation after the model's answer; `ask(messages)` gives its next message.

    An unknown function is reported to the model, as {"error": "..."}; results go back as JSON.
    """
    messages = [*messages, ask([*messages])]
    calls = messages[-1].get("tool_calls") or []
    for call in calls:
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
        known = name in functions
        result = functions[name](**arguments) if known else {"error": f"no function {name}"}
        content = json.dumps(result)
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    return [*messages, ask([*messages])] if calls else messages
