"""Sending an answer while watching the client: who has left is not computed for.

ASGI tells a disconnect only to those who ask (`receive`). So while the answer is made, a second
task asks; if the client goes away first, the work is cancelled and its blocks are free.

A slow reader stops `send` once the socket's buffers are full. The engine is not held up (pieces
wait in the job's queue), and the request's time limit ends it.

Source: the ASGI specification, "Disconnect - receive event".
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from course_utils.serving.answering import Answering, events, timeout_error
from course_utils.serving.errors import ApiError
from course_utils.serving.wire import event

CLOSED = 499  # nginx's status for a client that went away; nobody reads it
FAREWELL = 1.0  # seconds for the event that tells why a stream ends


class ClientGoneError(Exception):
    """The client closed the connection before its answer was complete."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of the work; if the client leaves, it is cancelled: ClientGoneError."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientGoneError
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def respond(answering: Answering, request: Request, stream: bool) -> Response:
    """The answer as JSON, or as a stream that has been let in."""
    config = answering.service.config

    async def work() -> dict | None:
        try:
            async with answering.limit():
                await answering.begin()
                return None if stream else await answering.whole()
        except TimeoutError:
            raise timeout_error(config) from None

    try:
        body = await unless_gone(request.receive, work())
    except BaseException as error:
        answering.end()
        if isinstance(error, ClientGoneError):
            return Response(status_code=CLOSED)
        raise
    return EventStream(answering) if stream else JSONResponse(body)


class EventStream(Response):
    """Server-sent events of an answer."""

    media_type = "text/event-stream"

    def __init__(self, answering: Answering):
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        start = {"status": 200, "headers": self.raw_headers}
        try:
            await send({"type": "http.response.start", **start})
            await unless_gone(receive, self._send(send, state))
        except ClientGoneError:
            pass  # the gate has noted it
        except BaseException:
            state["outcome"] = "failed"
            raise
        finally:
            self.answering.end()

    async def _send(self, send: Send, state: dict) -> None:
        async def part(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            async with self.answering.limit():
                async for data in events(self.answering):
                    await part(data)
                    await asyncio.sleep(0)  # so that a closed connection is noticed before the next
                await part(b"", False)
        except (TimeoutError, ApiError) as error:
            state["outcome"] = "failed"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL):
                    if isinstance(error, TimeoutError):
                        await part(event(timeout_error(self.answering.service.config).body()))
                    await part(b"", False)
