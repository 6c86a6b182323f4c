"""Servers that the tests of this folder share."""

import pytest
from server_common import TOKENIZER, client_of, dense_engine

from course_utils.serving import EngineBackend, MockBackend, ServerConfig, serve_in_thread


@pytest.fixture(scope="package")
def mock_server():
    with serve_in_thread(MockBackend(speed=0)) as server:
        yield server


@pytest.fixture(scope="package")
def dense_server():
    with serve_in_thread(EngineBackend(dense_engine(), TOKENIZER, "dense")) as server:
        yield server


@pytest.fixture(params=["mock", "dense"])
def server(request):
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def client(server):
    return client_of(server)


@pytest.fixture
def serve():
    """Start servers with their own backends and configs; all are stopped at the end."""
    running = []

    def start(backend, predict=None, **config):
        extra = {"predict": predict} if predict else {}
        running.append(serve_in_thread(backend, ServerConfig(**{"port": 0} | config), **extra))
        return running[-1]

    yield start
    for server in running:
        server.stop()
