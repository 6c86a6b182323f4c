"""What is decided before a body is read (key, size, draining), and how long it may take to come.

Plain ASGI around the app, so that a request without a key costs nothing, and so that every request
to an endpoint is counted once when it comes and once when it ends, whatever happens in between. The
outcome is counted before the last byte goes out: who reads /metrics after an answer finds it there.

Source: the ASGI specification, "HTTP connection scope".
"""

import asyncio
import hmac

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from course_utils.serving.errors import ApiError
from course_utils.serving.work import Service

ENDPOINTS = ("/v1/completions", "/v1/chat/completions")


class Gate:
    """ASGI middleware in front of /v1; /health and /metrics pass."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"] in ENDPOINTS:
            await self._counted(scope, receive, send)
        else:
            await self._let_in(scope, receive, send, asks=False)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request, and how it ended: by the handler's word, or by its status."""
        metrics, state = self.service.metrics, scope.setdefault("state", {})
        metrics.received.inc()
        ended, status = False, 500

        def count() -> None:
            nonlocal ended
            if not ended:
                ended = True
                refused = status == 503 or 400 <= status < 500
                default = "refused" if refused else "failed" if status >= 500 else "finished"
                metrics.outcome(state.get("outcome", default))

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                count()
            await send(message)

        self.service.inside += 1
        try:
            await self._let_in(scope, receive, watched, asks=True)
        finally:
            self.service.inside -= 1
            count()

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, asks: bool) -> None:
        headers = dict(scope["headers"])
        if error := self._refusal(headers, asks):
            await error.response()(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.service.config.timeout
        state = scope.setdefault("state", {})
        state["deadline"] = deadline
        await self.app(scope, self._limited(receive, state), send)

    def _refusal(self, headers: dict[bytes, bytes], asks: bool) -> ApiError | None:
        config = self.service.config
        if config.api_key is not None:
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not hmac.compare_digest(given, config.api_key.encode()):
                return ApiError(401, "Incorrect API key provided.", "invalid_api_key")
        if asks and self.service.draining:
            message = "The server is stopping and takes no new requests."
            return ApiError(503, message, "shutting_down", retry_after=1)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > config.max_body_bytes:
            return ApiError(413, self._too_large(), "request_too_large")
        return None

    def _too_large(self) -> str:
        return f"The body is larger than {self.service.config.max_body_bytes} bytes."

    def _limited(self, receive: Receive, state: dict) -> Receive:
        """Bodies are counted as they come, and have to come in time; who goes away is noted."""
        size, complete = 0, False

        async def counting() -> Message:
            nonlocal size, complete
            try:
                async with asyncio.timeout_at(None if complete else state["deadline"]):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "The body did not come in time.") from None
            if message["type"] == "http.disconnect":
                state.setdefault("outcome", "cancelled")
            complete = not message.get("more_body")
            size += len(message.get("body", b""))
            if size > self.service.config.max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return counting
