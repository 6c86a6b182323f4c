"""Wrong answers of chapter 17: reading a stream of server-sent events."""

from collections.abc import Callable, Iterable, Iterator

from course_utils.exercises.spec import WrongAnswer


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in lines)


def _value(line: bytes) -> str:
    return line.removeprefix(b"data:").removeprefix(b" ").decode()


def _reader(
    value: Callable[[bytes], str] = _value,
    join: str = "\n",
    field: bytes = b"data:",
    done: str = "stop",
    half: bool = False,
    by_line: bool = False,
) -> Callable[[Iterable[bytes]], Iterator[str]]:
    """The right reader, with one thing done otherwise."""

    def answer(chunks: Iterable[bytes]) -> Iterator[str]:
        data: list[str] = []
        for line in _lines(chunks):
            if line.startswith(field) or (not field and line):
                data.append(value(line))
            if data and (by_line or not line):
                event, data = join.join(data), []
                if event == "[DONE]" and done == "stop":
                    return
                if event != "[DONE]" or done == "give":
                    yield event
        if half and data:
            yield join.join(data)

    return answer


def _chunk_by_chunk(chunks: Iterable[bytes]) -> Iterator[str]:
    for chunk in chunks:
        for event in chunk.decode(errors="replace").replace("\r", "").split("\n\n"):
            lines = [x.removeprefix("data:") for x in event.split("\n") if x.startswith("data:")]
            text = "\n".join(line.removeprefix(" ") for line in lines)
            if text == "[DONE]":
                return
            if lines:
                yield text


def _lines_of_each_chunk(chunks: Iterable[bytes]) -> Iterator[str]:
    for chunk in chunks:
        for line in chunk.decode().splitlines():
            if line.startswith("data: "):
                if line == "data: [DONE]":
                    return
                yield line.removeprefix("data: ")


def _first_attempt(chunks: Iterable[bytes]) -> Iterator[str]:
    text = ""
    for chunk in chunks:
        text += chunk.decode()
        *events, text = text.split("\n\n")
        for event in events:
            for line in event.split("\n"):
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    yield line.removeprefix("data: ")


def _decoding(errors: str) -> Callable[[Iterable[bytes]], Iterator[str]]:
    def answer(chunks: Iterable[bytes]) -> Iterator[str]:
        return _reader()(chunk.decode(errors=errors).encode() for chunk in chunks)

    return answer


def _line_breaks_of_unix(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *events, rest = (rest + chunk).split(b"\n\n")
        for event in events:
            lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
            text = "\n".join(map(_value, lines))
            if text == "[DONE]":
                return
            if lines:
                yield text


def _after_colon(line: bytes) -> str:
    return line.partition(b":")[2].removeprefix(b" ").decode()


PARSE_SSE = (
    WrongAnswer(
        "each chunk by itself",
        _chunk_by_chunk,
        "You read each chunk as if it held whole events. The network cuts where it likes: keep "
        "what comes after the last line break, and put it in front of the next chunk.",
        also=(_lines_of_each_chunk,),
    ),
    WrongAnswer(
        "text before lines",
        _first_attempt,
        "You keep what is left over: right. But you decode too early (a cut inside a character), "
        "look for \\n\\n alone (lines may end in \\r\\n), give each line of an event by itself, "
        "and want a space after the colon. Split BYTES into lines, and go on from there.",
    ),
    WrongAnswer(
        "decoded too early",
        _decoding("strict"),
        "You decode a chunk before its last line is whole. A cut in the middle of a character "
        "makes both halves invalid (errors='ignore' or 'replace' loses the letter instead). Split "
        "the bytes into lines first, then decode a whole line.",
        also=(_decoding("ignore"), _decoding("replace")),
    ),
    WrongAnswer(
        "every line an event",
        _reader(by_line=True),
        "You end an event at every line. An EMPTY line ends it; until then, further `data:` lines "
        'belong to it, joined by "\\n".',
    ),
    WrongAnswer(
        "lines glued together",
        _reader(join=""),
        'Two `data:` lines of one event are joined by a line break: "\\n".join(...).',
        also=(_reader(join=" "),),
    ),
    WrongAnswer(
        "only \\n\\n",
        _line_breaks_of_unix,
        "You look for two \\n in a row. Lines may also end in \\r\\n, and then there is none. "
        "Split into lines, remove a \\r at the end, and look for an empty line.",
    ),
    WrongAnswer(
        "[DONE] as an event",
        _reader(done="give"),
        "You give [DONE] away as an event. It is no JSON: it says that the stream is over. Return.",
    ),
    WrongAnswer(
        "reads on after [DONE]",
        _reader(done="skip"),
        "You skip [DONE] and read on. The connection may stay open for the next request, and your "
        "loop waits for ever. Return at [DONE].",
    ),
    WrongAnswer(
        "half an event",
        _reader(half=True),
        "The connection broke before the empty line, and you give away what had come. Half an "
        "event is no event: the standard says to discard it.",
    ),
    WrongAnswer(
        "all spaces removed",
        _reader(value=lambda line: line.removeprefix(b"data:").strip().decode()),
        "One space after the colon is removed, and no more: the others belong to the data.",
        also=(_reader(value=lambda line: line.removeprefix(b"data:").lstrip().decode()),),
    ),
    WrongAnswer(
        "the space kept",
        _reader(value=lambda line: line.removeprefix(b"data:").decode()),
        "One space after the colon belongs to the format, not to the data: remove it.",
    ),
    WrongAnswer(
        "a space is always there",
        _reader(field=b"data: ", value=lambda line: line.removeprefix(b"data: ").decode()),
        "You look for `data: ` with a space. The space is optional: `data:x` means the same.",
        also=(_reader(value=lambda line: line[6:].decode()),),
    ),
    WrongAnswer(
        "comments taken for data",
        _reader(field=b"", value=_after_colon),
        "A line that begins with a colon is a comment (servers send them to keep a connection "
        "alive). Take only lines that begin with `data:`.",
    ),
)
