"""Ids to text as they come: whole characters only, and nothing of a stop text.

A character may take several tokens, and a stop text several steps. So what could still become part
of one is held back until it is certain.
"""

from collections.abc import Callable, Sequence

from course_utils.data.tokenizer import Tokenizer


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text could be the beginning of a stop text."""
    for size in range(max((len(stop) for stop in stops), default=0) - 1, 0, -1):
        if any(len(stop) > size and text.endswith(stop[:size]) for stop in stops):
            return size
    return 0


class TextStream:
    """The text of one request. `stopped` once a stop text has appeared; `text` ends before it.

    `hold` is the course's `held_back`, or the learner's.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), hold: Callable = held_back):
        self.tokenizer, self.stop, self.hold = tokenizer, tuple(stop), hold
        self.text, self.stopped = "", False
        self._said = 0
        self._ids: list[int] = []

    def push(self, ids: Sequence[int], last: bool = False) -> str:
        """The text that became certain by these ids; with `last`, all that is left."""
        if self.stopped:
            return ""
        self._ids += ids
        text = self.tokenizer.decode(self._ids)
        whole = text if last else text.rstrip("\ufffd")
        found = [(place + len(stop), place) for stop, place in self._places(whole)]
        if found:  # what is complete first ends the text, at its beginning
            whole, self.stopped = whole[: min(found)[1]], True
        held = 0 if last or self.stopped else self.hold(whole, self.stop)
        self.text = whole[: len(whole) - held]
        said, self._said = self._said, max(self._said, len(self.text))
        return self.text[said:]

    def _places(self, text: str) -> list[tuple[str, int]]:
        """Stop texts that are there, and where; what was said has none."""
        places = [(stop, text.find(stop, max(0, self._said - len(stop)))) for stop in self.stop]
        return [(stop, place) for stop, place in places if place >= 0]
