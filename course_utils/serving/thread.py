"""A server in a thread of this process, for notebooks and tests.

    server = serve_in_thread(MockBackend())
    client = openai.OpenAI(base_url=server.base_url, api_key="none")
    ...
    server.stop()

It can also be the object of a `with`. It is stopped at the latest when the process ends.
"""

import asyncio
import atexit
import threading
import time
from collections.abc import Callable

from course_utils.serving.admission import predicted_ttft
from course_utils.serving.backends import Backend
from course_utils.serving.config import ServerConfig
from course_utils.serving.server import close, create_app, drain, listen, url_of, uvicorn_server

START = 30.0  # seconds


class ServerThread:
    """A server that runs. `url` is http://host:port, `base_url` the API's below it."""

    def __init__(self, backend: Backend, config: ServerConfig, predict: Callable[..., float]):
        self.backend, self.config = backend, config
        self.app = create_app(backend, config, predict)
        self.service = self.app.state.service
        self._server = uvicorn_server(self.app, config, log_level="critical")
        self._listener = listen(config)
        self.url = url_of(self._listener)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._thread.start()
        self._wait_for_start()
        atexit.register(self.stop)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._listener])

        asyncio.run(main())

    def _wait_for_start(self) -> None:
        until = time.monotonic() + START
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise RuntimeError("the server did not start: see the error of its thread above")
            time.sleep(0.002)

    @property
    def base_url(self) -> str:
        """What the official client takes."""
        return f"{self.url}/v1"

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def drain(self) -> bool:
        """Refuse new requests with 503; True once all inside have ended, False if some have not
        after `config.drain` seconds."""
        return asyncio.run_coroutine_threadsafe(drain(self.service), self._loop).result()

    def stop(self) -> None:
        """End it now; who is inside is cut off. Twice does nothing."""
        atexit.unregister(self.stop)
        if self.running:
            asyncio.run_coroutine_threadsafe(close(self.service), self._loop).result()
        self._server.should_exit = True
        self._thread.join()

    def __enter__(self) -> "ServerThread":
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def serve_in_thread(
    backend: Backend,
    config: ServerConfig | None = None,
    predict: Callable[..., float] = predicted_ttft,
) -> ServerThread:
    """A running server (any free port of 127.0.0.1, unless the config says otherwise).

    A backend has one engine: serve it once at a time.
    """
    return ServerThread(backend, config or ServerConfig(port=0), predict)
