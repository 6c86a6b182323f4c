"""Log-probabilities of an answer's tokens, no earlier than their text.

A stop text is held back until it is complete or impossible; a report of its tokens would give it
away. So an entry waits until the text of its token is out. The text of a token is that of its
bytes; bytes that form no character are written `bytes:\\xe2\\x80`, as OpenAI does.

Source: OpenAI's API reference, "logprobs" of both endpoints.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from course_utils.data.tokenizer import Tokenizer

PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTES = {chr(byte): byte for byte in PRINTABLE}  # byte-level BPE writes a character for each byte
BYTES |= {chr(256 + place): byte for place, byte in enumerate(OTHERS)}


def token_bytes(tokenizer: Tokenizer, number: int) -> bytes:
    """The bytes of a token; of a special one, those of its name."""
    name = tokenizer.inner.id_to_token(number)
    if number in tokenizer.inner.get_added_tokens_decoder():
        return name.encode()
    return bytes(BYTES[letter] for letter in name)


def readable(raw: bytes) -> str:
    """A token as text, or as its bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


@dataclass(frozen=True)
class Entry:
    """A token, its log-probability, and the likeliest tokens with theirs, best first."""

    token: bytes
    logprob: float
    best: tuple[tuple[bytes, float], ...]
    start: int  # characters of the answer before it


class TokenReport:
    """The entries of one answer. `count` likeliest tokens each."""

    def __init__(self, tokenizer: Tokenizer, count: int, stop_ids: Iterable[int] = ()):
        self.tokenizer, self.count, self.stop_ids = tokenizer, count, set(stop_ids)
        self._ids: list[int] = []
        self._said = self._end = 0
        self._waiting: list[tuple[int, Entry]] = []  # (characters to the token's end, entry)

    def push(self, ids: Iterable[int], logprobs: Iterable[dict[int, float]], text: str):
        """Entries whose text is out, now that `text` is."""
        self._said += len(text)
        for number, found in zip(ids, logprobs, strict=True):
            if number in self.stop_ids:
                continue
            self._ids.append(number)
            text_so_far = self.tokenizer.decode(self._ids)
            start, self._end = self._end, len(text_so_far.rstrip("\ufffd"))
            incomplete = len(text_so_far) > self._end  # its character is not out before it is whole
            self._waiting.append((self._end + incomplete, self._entry(number, found, start)))
        out = []
        while self._waiting and self._waiting[0][0] <= self._said:
            out.append(self._waiting.pop(0)[1])
        return out

    def _entry(self, number: int, found: dict[int, float], start: int) -> Entry:
        best = sorted(found.items(), key=lambda pair: -pair[1])[: self.count]
        told = tuple((token_bytes(self.tokenizer, one), value) for one, value in best)
        return Entry(token_bytes(self.tokenizer, number), found[number], told, start)
