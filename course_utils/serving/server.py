"""A server that speaks OpenAI's API, in front of an engine.

    POST /v1/chat/completions   POST /v1/completions   GET /v1/models
    GET /health                 what load balancers ask: ok, draining or failed
    GET /metrics                what Prometheus reads

The parts, in the order in which a request meets them: `gate` (key, size, draining), `schemas`
(fields and types), `requests` (prompt and parameters), `admission` in `loop` (the thread that owns
the engine), `answering` (pieces to an answer), `responses` (to a client that may leave or be slow).

Left out: TLS, several models or processes, accounts and quotas, the Responses API, anything that is
kept from one request to the next except the prefix cache. That cache is shared by all clients: who
can time answers can learn whether somebody sent the same prompt before.

Source: OpenAI's API reference; vLLM's server, which has the same endpoints.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from course_utils.serving import errors, requests
from course_utils.serving.admission import Admission, predicted_ttft
from course_utils.serving.answering import Answering
from course_utils.serving.backends import Backend
from course_utils.serving.config import ServerConfig
from course_utils.serving.errors import ApiError
from course_utils.serving.gate import Gate
from course_utils.serving.loop import EngineLoop
from course_utils.serving.metrics import Metrics
from course_utils.serving.responses import FAREWELL, respond
from course_utils.serving.schemas import ChatRequest, CompletionRequest
from course_utils.serving.work import Service, Work

POLL = 0.02  # seconds between two looks at who is still inside
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format


def create_app(
    backend: Backend,
    config: ServerConfig | None = None,
    predict: Callable[..., float] = predicted_ttft,
) -> FastAPI:
    """The app around a backend; its engine's thread lives as long as the app runs.

    `predict` estimates the time to first token, see `admission.predicted_ttft`.
    """
    config = config or ServerConfig()
    admission = Admission(config.max_queue, config.max_ttft, predict)
    loop = EngineLoop(backend.engine, admission)
    service = Service(backend, config, loop, Metrics(lambda: loop.state))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop.start()
        yield
        await loop.stop()

    app = FastAPI(title="Efficient Open Models", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service, app.state.created = service, int(time.time())
    errors.install(app)
    app.add_middleware(Gate, service=service)
    _add_answers(app, service)
    _add_views(app, service)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    async def answer(work: Work, request: Request, stream: bool) -> Response:
        answering = Answering(service, work, request.state.deadline)
        return await respond(answering, request, stream)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        requests.check_model(body, service.backend)
        return await answer(requests.completion(body, service), request, body.stream)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        requests.check_model(body, service.backend)
        return await answer(requests.chat(body, service), request, body.stream)


def _add_views(app: FastAPI, service: Service) -> None:
    backend, loop = service.backend, service.loop
    model = {
        "id": backend.name,
        "object": "model",
        "created": app.state.created,
        "owned_by": "efficient-open-models",
        "max_model_len": backend.context,
    }

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict:
        if name != backend.name:
            raise ApiError(404, f"The model {name!r} does not exist.", "model_not_found", "model")
        return model

    @app.get("/health")
    async def health() -> JSONResponse:
        status = "draining" if service.draining else "ok" if loop.alive else "failed"
        state = loop.state
        told = {
            "status": status,
            "model": backend.name,
            "slots": {"running": state.running, "all": state.slots, "waiting": state.waiting},
            "blocks": {"used": state.used, "cached": state.cached, "free": state.free},
        }
        return JSONResponse(told, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def listen(config: ServerConfig) -> socket.socket:
    """The socket. Raises OSError if the port is taken or the host is not this machine's."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        where = f"cannot listen on {config.host}:{config.port} ({error.strerror or error})"
        raise OSError(f"{where}: choose another port, or 0 for any free one") from error


def url_of(listener: socket.socket) -> str:
    """http://host:port of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def uvicorn_server(app: FastAPI, config: ServerConfig, log_level: str) -> uvicorn.Server:
    """uvicorn around the app. What still runs when it is told to exit is cancelled."""
    settings = uvicorn.Config(
        app,
        log_level=log_level,
        access_log=False,
        timeout_keep_alive=max(1, round(config.keep_alive)),
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(settings)


async def close(service: Service) -> None:
    """End all who are inside, and tell them."""
    service.draining = True
    await service.loop.stop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL):
            while service.inside:
                await asyncio.sleep(POLL)


async def drain(service: Service) -> bool:
    """Take no new requests; True once all have ended, False after `config.drain` seconds."""
    service.draining = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(service.config.drain):
            while service.inside:
                await asyncio.sleep(POLL)
    return not service.inside


def serve(backend: Backend, config: ServerConfig, on_start=lambda url: None) -> bool:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once.

    `on_start` gets the URL. Returns whether every request could end.
    """
    listener, app = listen(config), create_app(backend, config)
    service, server = app.state.service, uvicorn_server(app, config, "warning")

    def signalled(*_) -> None:
        server.force_exit = service.draining
        service.draining = True
        if server.force_exit:
            server.should_exit = True

    server.handle_exit = signalled  # uvicorn's own would close the door without an answer

    async def run() -> bool:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(POLL)
        on_start(url_of(listener))
        while not service.draining and not serving.done():
            await asyncio.sleep(POLL)
        ended = await drain(service)
        await close(service)
        server.should_exit = True
        await serving
        return ended

    return asyncio.run(run())
