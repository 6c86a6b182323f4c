"""Turns of a conversation as the ids that a model reads.

A chat is one text to the model, with marks that say whose turn it is. `chatml` has the marks of
SmolLM2 and Qwen; `plain` is for models that were trained on no chat, and writes the roles in words.

The words of a turn are encoded as plain text: somebody who writes `<|im_end|>` writes ten letters,
and does not end their turn. Left out: the templates in Jinja that checkpoints carry, and roles
beyond those of the API.

Source: OpenAI's ChatML; the `chat_template` of SmolLM2-135M-Instruct.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from course_utils.data.tokenizer import Tokenizer

SYSTEM = "You are a helpful AI assistant."


@dataclass(frozen=True)
class Turn:
    """Who said what. An assistant's turn may call tools: (name, arguments as JSON text)."""

    role: str  # system, user, assistant or tool
    text: str
    calls: tuple[tuple[str, str], ...] = field(default=())

    def written(self) -> str:
        """The turn as text: a call is written as JSON."""
        calls = [call_text(name, arguments) for name, arguments in self.calls]
        return "\n".join(part for part in (self.text, *calls) if part)


def call_text(name: str, arguments: str) -> str:
    """How a call of a tool is written."""
    return f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'


Template = Callable[[Tokenizer, Sequence[Turn], Sequence[dict]], list[int]]


def encode_words(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which no special token is recognised."""
    special = [token.content for token in tokenizer.inner.get_added_tokens_decoder().values()]
    pieces = [text]
    for mark in special:  # cut inside the mark, so that neither half is one
        pieces = [part for piece in pieces for part in _cut(piece, mark)]
    return [number for piece in pieces for number in tokenizer.encode(piece)]


def _cut(text: str, mark: str) -> list[str]:
    parts = text.split(mark)
    for place in range(len(parts) - 1):
        parts[place] += mark[:1]
        parts[place + 1] = mark[1:] + parts[place + 1]
    return parts


def with_tools(turns: Sequence[Turn], tools: Sequence[dict], default: str = "") -> list[Turn]:
    """The turns behind a system turn that lists the tools."""
    rest = list(turns)
    system = rest.pop(0).text if rest and rest[0].role == "system" else default
    if tools:
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        system = f"{system}\nTools:\n{listed}".strip()
    return [Turn("system", system), *rest] if system else rest


def plain(tokenizer: Tokenizer, turns: Sequence[Turn], tools: Sequence[dict]) -> list[int]:
    """`User: ...`, `Assistant: ...`, one turn a line; the assistant's is begun."""
    lines = [f"{turn.role.title()}: {turn.written()}\n" for turn in with_tools(turns, tools)]
    return encode_words(tokenizer, "".join(lines) + "Assistant:")


def chatml(tokenizer: Tokenizer, turns: Sequence[Turn], tools: Sequence[dict]) -> list[int]:
    """`<|im_start|>role`, the words, `<|im_end|>`; the assistant's turn is begun."""
    start, end = (tokenizer.inner.token_to_id(mark) for mark in ("<|im_start|>", "<|im_end|>"))
    if start is None or end is None:
        raise ValueError("the tokenizer has no <|im_start|> and <|im_end|>: use `plain`")
    ids = []
    for turn in with_tools(turns, tools, SYSTEM):
        words = encode_words(tokenizer, f"{turn.role}\n{turn.written()}")
        ids += [start, *words, end, *encode_words(tokenizer, "\n")]
    return [*ids, start, *encode_words(tokenizer, "assistant\n")]
