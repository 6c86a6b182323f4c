"""Reading a stream of server-sent events, from bytes that are cut anywhere.

An event is one or more lines `data: ...`, ended by an empty line. The network cuts the bytes where
it likes: in the middle of an event, a line, or a character of several bytes. OpenAI's streams end
with an event `[DONE]`, which is no JSON.

Source: HTML standard, section 9.2.6 (interpreting an event stream). Left out: `event:`, `id:` and
`retry:`, which OpenAI's streams do not use, and a lone carriage return as the end of a line.
"""

from collections.abc import Iterable, Iterator


def parse_sse(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each event, as soon as it is complete, up to `[DONE]`."""
    rest, data = b"", []
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line.removeprefix(b"data:").removeprefix(b" ").decode())
            elif not line and data:
                event, data = "\n".join(data), []
                if event == "[DONE]":
                    return
                yield event
