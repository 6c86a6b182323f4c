"""Calls of tools, by constrained decoding: the server writes the fixed parts, the model the values.

A call is JSON with a known shape: `{"name": "get_weather", "arguments": {"city": "Paris"}}`. Where
a call is wanted, everything that the schema fixes is written by the server, and the model goes on
from there only where there is something to choose:

    name      one of several tools: token by token, among those that continue a name
    string    text up to the closing quote
    integer   digits only, up to the comma or brace
    boolean, enum   token by token among the possible values, as for the name

Each choice is a request of its own to the engine; its prompt is all that was written so far, which
the prefix cache holds. What comes out is always JSON with the schema's required properties,
whatever the model knows. Left out: nested objects and arrays (refused), negative numbers,
optional properties where others are required, patterns and lengths of strings.

Source: Willard & Louf 2023, section 3 (guided generation), by masks where we write; OpenAI's API
reference, "Function calling".
"""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from course_utils.data.tokenizer import Tokenizer
from course_utils.serving.params import SamplingParams

STRING, DIGITS = 32, 9  # tokens of a value at most

Write = Callable[[list[int], SamplingParams], Awaitable[list[int]]]  # prompt ids to new ids


def properties(parameters: dict | None) -> dict[str, dict]:
    """The properties to fill: the required ones, or all. ValueError for what cannot be filled."""
    schema = parameters or {"type": "object", "properties": {}}
    known = schema.get("properties", {})
    if schema.get("type", "object") != "object" or not isinstance(known, dict):
        raise ValueError("parameters must be a JSON schema with type 'object' and properties")
    names = schema.get("required") or list(known)
    for name in names:
        value = known.get(name)
        if not isinstance(value, dict):
            raise ValueError(f"property {name!r} is required and not described")
        if not choices(value) and value.get("type") not in ("string", "integer"):
            raise ValueError(
                f"property {name!r} has type {value.get('type')!r}: string, integer, boolean and "
                "enum can be filled"
            )
    return {name: known[name] for name in names}


def choices(value: dict) -> list[str]:
    """The JSON texts of a property that has few values; else nothing."""
    if value.get("type") == "boolean":
        return ["true", "false"]
    return [json.dumps(one, ensure_ascii=False) for one in value.get("enum", ())]


class Filler:
    """Writes one call behind a prompt. `write` asks the model for some tokens."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: list[int], write: Write, params: SamplingParams
    ):
        self.tokenizer, self.prompt, self.write = tokenizer, prompt, write
        self.params = replace(params, logprobs=-1, stop=(), stop_ids=())
        self.text = ""

    async def call(self, tools: dict[str, dict]) -> tuple[str, str]:
        """(name, arguments as JSON text) of a call of one of the tools, schemas by name."""
        self.text += '{"name": "'
        name = next(iter(tools))
        if len(tools) > 1:
            name = json.loads('"' + await self._choose([f'{one}"' for one in tools]))
        self.text += f'{name}", "arguments": ' if len(tools) == 1 else ', "arguments": '
        arguments = await self.arguments(tools[name])
        self.text += "}"
        return name, arguments

    async def arguments(self, schema: dict[str, dict]) -> str:
        """JSON text with every property of the schema."""
        start = len(self.text)
        self.text += "{"
        for number, (name, value) in enumerate(schema.items()):
            self.text += f"{', ' if number else ''}{json.dumps(name)}: "
            await self._value(value)
        self.text += "}"
        return self.text[start:]

    async def _value(self, value: dict) -> None:
        if possible := choices(value):
            await self._choose(possible)
        elif value["type"] == "string":
            self.text += '"'
            words = await self._ask(max_tokens=STRING, stop=('"', "\n"))
            said = re.split(r'["\n\ufffd]', self.tokenizer.decode(words))[0]
            self.text += json.dumps(said.strip(), ensure_ascii=False)[1:]
        else:
            await self._integer()

    async def _integer(self) -> None:
        digits = [self.tokenizer.encode(str(digit))[-1] for digit in range(10)]
        ends = tuple(self.tokenizer.encode(mark)[-1] for mark in ",}")
        first = await self._ask(max_tokens=1, allowed_ids=tuple(digits))
        self.text += self.tokenizer.decode(first)
        more = await self._ask(max_tokens=DIGITS, allowed_ids=(*digits, *ends), stop_ids=ends)
        whole = self.tokenizer.decode(first) + self.tokenizer.decode(more).rstrip(",}")
        start = len(self.text) - 1
        self.text = self.text[:start] + str(int(whole))

    async def _choose(self, possible: Sequence[str]) -> str:
        """Append one of the texts; the model chooses wherever two go on differently."""
        end = self.tokenizer.encode(",")[-1]  # so that no text is the beginning of another
        left = {text: [*self.tokenizer.encode(text), end] for text in possible}
        ids: list[int] = []
        while len(left) > 1:
            nexts = dict.fromkeys(own[len(ids)] for own in left.values())
            if len(nexts) == 1:
                token = next(iter(nexts))
            else:
                text = self.text + self.tokenizer.decode(ids)
                (token,) = await self._ask(text, max_tokens=1, allowed_ids=tuple(nexts))
            ids.append(token)
            left = {text: own for text, own in left.items() if own[: len(ids)] == ids}
        (chosen,) = left
        self.text += chosen
        return chosen

    async def _ask(self, text: str | None = None, **limits) -> list[int]:
        ids = self.tokenizer.encode(self.text if text is None else text)
        return await self.write([*self.prompt, *ids], replace(self.params, **limits))
