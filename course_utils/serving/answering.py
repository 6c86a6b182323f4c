"""One request of the API from its job to its answer: pieces in, JSON or events out.

The order matters for the client: whether a request is let in is known before the first byte is
sent, so a refusal is a status and never an event in a stream. After that the status has gone out,
and what fails is told in an event with `error`, which the official client raises.

However it ends (answered, timed out, client gone, server stopping), the job is cancelled at the
end, which does nothing to one that is complete and frees the blocks of any other.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from course_utils.serving.admission import Refusal
from course_utils.serving.config import ServerConfig
from course_utils.serving.errors import ApiError
from course_utils.serving.jobs import Ask, Job, Piece, StoppingError
from course_utils.serving.params import SamplingParams
from course_utils.serving.token_report import TokenReport
from course_utils.serving.tools import Filler
from course_utils.serving.wire import DONE, Answer, event, usage
from course_utils.serving.work import Service, Work


def failure(reason: object) -> ApiError:
    """What a client is told about an event that is no piece."""
    if isinstance(reason, Refusal):
        return ApiError(429, reason.message, "server_busy", retry_after=reason.retry_after)
    if isinstance(reason, ValueError):
        return ApiError(400, f"{reason}.", "invalid_value")
    if isinstance(reason, StoppingError):
        return ApiError(503, "The server has stopped.", "shutting_down", retry_after=1)
    return ApiError(500, f"The engine failed: {reason}.", "engine_error")


class Answering:
    """The life of one request."""

    def __init__(self, service: Service, work: Work, deadline: float):
        self.service, self.work, self.deadline = service, work, deadline
        self.job: Job | None = None
        self.answers = [Answer(index) for index in range(len(work.asks))]
        tokenizer = service.backend.tokenizer
        self.reports = [
            TokenReport(tokenizer, ask.params.logprobs, ask.params.stop_ids) for ask in work.asks
        ]
        self.cached = [0] * len(work.asks)
        self.first: float | None = None
        self.last, self.ended = 0.0, False
        self.arrival = time.monotonic()

    def limit(self) -> asyncio.Timeout:
        """The request's time limit, for `async with`."""
        return asyncio.timeout_at(self.deadline)

    async def _begin(self, asks: Sequence[Ask], admitted: bool = False) -> Job:
        """Send asks to the engine; returns once they are let in, raises ApiError if not."""
        self.job = Job(asks, admitted)
        self.service.loop.submit(self.job)
        answer = await self.job.events.get()
        if answer is not True:
            raise failure(answer)
        return self.job

    async def begin(self) -> None:
        """Be let in, or raise ApiError. A tool's call, which has many parts, is made here."""
        if self.work.tools:
            await self._call()
        else:
            await self._begin(self.work.asks)

    async def pieces(self) -> AsyncIterator[Piece]:
        """All pieces of the job, up to the last one of the last ask."""
        running = len(self.job.asks)
        while running:
            piece = await self.job.events.get()
            if not isinstance(piece, Piece):
                raise failure(piece)
            self.first = self.first or piece.moment
            self.last = piece.moment
            running -= piece.finish_reason is not None
            yield piece

    async def chunks(self) -> AsyncIterator[dict]:
        """The chunks of a streamed answer; `answers` fill on the way."""
        form = self.work.form
        for answer in self.answers:
            for chunk in form.first(answer.index):
                yield chunk
        if self.work.tools:
            for chunk in form.call(0, self.answers[0].calls[0]):
                yield chunk
            for chunk in form.piece(0, "", (), "tool_calls"):
                yield chunk
        else:
            async for piece in self.pieces():
                entries = self._take(piece)
                for chunk in form.piece(piece.index, piece.text, entries, piece.finish_reason):
                    yield chunk
        self.end()
        for chunk in form.last(self.used()):
            yield chunk

    def _take(self, piece: Piece) -> list:
        answer, entries = self.answers[piece.index], []
        if self.work.form.logprobs:
            entries = self.reports[piece.index].push(piece.ids, piece.logprobs, piece.text)
        answer.text += piece.text
        answer.entries += entries
        answer.tokens += len(piece.ids)
        answer.finish_reason = piece.finish_reason
        self.cached[piece.index] = piece.cached_tokens
        return entries

    async def _call(self) -> None:
        """Fill a tool's call; each part is a job of its own."""
        (ask,) = self.work.asks
        answer, parts = self.answers[0], []

        async def write(prompt: list[int], params: SamplingParams) -> list[int]:
            await self._begin([Ask(prompt, params)], admitted=bool(parts))
            ids = []
            async for piece in self.pieces():
                ids += piece.ids
                self.cached[0] = self.cached[0] if parts else piece.cached_tokens
            parts.append(ids)
            return ids

        filler = Filler(self.service.backend.tokenizer, ask.prompt, write, ask.params)
        name, arguments = await filler.call(self.work.tools)
        answer.calls = [
            {
                "id": f"call_{self.work.form.id[:24]}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
        ]
        answer.tokens = len(self.service.backend.tokenizer.encode(filler.text))
        answer.finish_reason = "tool_calls"

    async def whole(self) -> dict:
        """The answer in one piece."""
        if not self.work.tools:
            async for piece in self.pieces():
                self._take(piece)
        self.end()
        return self.work.form.whole(self.answers, self.used())

    def used(self) -> dict:
        """The usage; the prompt of `n` answers counts once, with what the first found cached."""
        firsts = range(0, len(self.work.asks), self.work.n)
        prompt = sum(len(self.work.asks[first].prompt) for first in firsts)
        cached = sum(self.cached[first] for first in firsts)
        return usage(prompt, cached, sum(answer.tokens for answer in self.answers))

    def end(self) -> None:
        """Free what is still inside, and count what was done; once."""
        if self.ended:
            return
        self.ended = True
        if self.job:
            self.service.loop.cancel(self.job)
        metrics, used = self.service.metrics, self.used()
        if self.first is None:
            return
        metrics.prompt_tokens.inc(used["prompt_tokens"])
        metrics.cached_tokens.inc(used["prompt_tokens_details"]["cached_tokens"])
        metrics.generated_tokens.inc(used["completion_tokens"])
        metrics.ttft.observe(self.first - self.arrival)
        longest = max(answer.tokens for answer in self.answers)
        if longest > 1:
            metrics.tpot.observe((self.last - self.first) / (longest - 1))


def timeout_error(config: ServerConfig) -> ApiError:
    """What a client is told when its time is over."""
    return ApiError(504, f"The answer took longer than {config.timeout:g} s.", "timeout")


async def events(answering: Answering) -> AsyncIterator[bytes]:
    """A streamed answer as server-sent events; what fails on the way is the last one."""
    try:
        async for chunk in answering.chunks():
            yield event(chunk)
        yield DONE
    except ApiError as error:
        yield event(error.body())
        raise
