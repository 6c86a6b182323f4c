"""What answers look like on the wire: the JSON of both endpoints, whole and in pieces.

A streamed answer is a series of server-sent events: `data: ` and a chunk of JSON, a blank line, and
at the end `data: [DONE]`. All chunks of an answer have one id. A chat's first chunk names the role,
its last one the reason for the end; with `include_usage` a chunk without choices follows.

Source: OpenAI's API reference, "The chat completion (chunk) object" and "The completion object";
HTML standard, section 9.2 (server-sent events).
"""

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from course_utils.serving.token_report import Entry, readable


@dataclass
class Answer:
    """One choice as far as it is known."""

    index: int
    text: str = ""
    entries: list[Entry] = field(default_factory=list)
    finish_reason: str | None = None
    tokens: int = 0
    calls: list[dict] = field(default_factory=list)


def usage(prompt: int, cached: int, generated: int) -> dict:
    """Tokens read and written."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def event(body: dict | str) -> bytes:
    """A server-sent event."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


DONE = event("[DONE]")


def chat_logprobs(entries: Iterable[Entry]) -> dict:
    """In the form of chat completions."""

    def told(token: bytes, logprob: float) -> dict:
        return {"token": readable(token), "logprob": logprob, "bytes": list(token)}

    content = [
        told(entry.token, entry.logprob) | {"top_logprobs": [told(*one) for one in entry.best]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(entries: Sequence[Entry]) -> dict:
    """In the form of completions."""
    return {
        "tokens": [readable(entry.token) for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [
            {readable(token): value for token, value in entry.best} for entry in entries
        ],
        "text_offset": [entry.start for entry in entries],
    }


@dataclass(frozen=True)
class Form:
    """One answer's envelope: the endpoint, the model, and what all its chunks share."""

    chat: bool
    model: str
    logprobs: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def _envelope(self, kind: str, choices: list[dict]) -> dict:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _logprobs(self, entries: Sequence[Entry]) -> dict | None:
        if not self.logprobs:
            return None
        return (chat_logprobs if self.chat else completion_logprobs)(entries)

    def whole(self, answers: Sequence[Answer], used: dict) -> dict:
        """The answer in one piece."""
        choices = []
        for answer in answers:
            choice = {
                "index": answer.index,
                "finish_reason": answer.finish_reason,
                "logprobs": self._logprobs(answer.entries),
            }
            if self.chat:
                message = {"role": "assistant", "content": answer.text, "refusal": None}
                if answer.calls:
                    message |= {"content": None, "tool_calls": answer.calls}
                choices.append(choice | {"message": message})
            else:
                choices.append(choice | {"text": answer.text})
        kind = "chat.completion" if self.chat else "text_completion"
        return self._envelope(kind, choices) | {"usage": used}

    def first(self, index: int) -> list[dict]:
        """What opens a stream: a chat's role."""
        return [self._chunk(index, {"role": "assistant", "content": ""})] if self.chat else []

    def piece(
        self, index: int, text: str, entries: Sequence[Entry], reason: str | None
    ) -> list[dict]:
        """Chunks for a piece of text and for the end; none if there is nothing to tell."""
        if not self.chat:
            if not (text or entries or reason):
                return []
            return [self._chunk(index, {"text": text}, entries, reason)]
        chunks = [self._chunk(index, {"content": text}, entries)] if text or entries else []
        return [*chunks, self._chunk(index, {}, (), reason)] if reason else chunks

    def call(self, index: int, call: dict) -> list[dict]:
        """Chunks for a tool's call: who is called first, then the arguments."""
        function = call["function"]
        opened = call | {"index": 0, "function": function | {"arguments": ""}}
        rest = {"index": 0, "function": {"arguments": function["arguments"]}}
        return [self._chunk(index, {"tool_calls": [part]}) for part in (opened, rest)]

    def last(self, used: dict) -> list[dict]:
        """The usage, if it is asked for."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return [self._envelope(kind, []) | {"usage": used}] if self.include_usage else []

    def _chunk(
        self, index: int, new: dict, entries: Sequence[Entry] = (), reason: str | None = None
    ) -> dict:
        choice = {
            "index": index,
            "finish_reason": reason,
            "logprobs": self._logprobs(entries) if entries else None,
        }
        kind = "text_completion"
        if self.chat:
            choice, kind = choice | {"delta": new}, "chat.completion.chunk"
        else:
            choice |= new
        chunk = self._envelope(kind, [choice])
        return chunk | {"usage": None} if self.include_usage else chunk
