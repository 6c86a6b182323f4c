"""What the tests of the server share: servers with a model, the official client, and counts."""

import re
import time

import httpx
import openai

from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import shipped
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import Engine
from course_utils.serving.metrics import OUTCOMES

TOKENIZER = course_tokenizer()


def client_of(server, **options) -> openai.OpenAI:
    """A client that never tries again, so that a test sees what the server said."""
    settings = {"api_key": "none", "max_retries": 0, "timeout": 30} | options
    return openai.OpenAI(base_url=server.base_url, **settings)


def dense_engine(**sizes) -> Engine:
    return Engine(shipped("dense"), SchedulerConfig(**{"num_blocks": 256} | sizes), TOKENIZER)


def metrics(server) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r"^(course_\S+) (\S+)$", text, re.MULTILINE)
    return {key: float(value) for key, value in found}


def ended(server) -> dict[str, int]:
    """Requests by outcome; all that were received are among them."""
    found = metrics(server)
    counts = {name: int(found[f'course_requests_total{{outcome="{name}"}}']) for name in OUTCOMES}
    assert found["course_requests_received_total"] == sum(counts.values())
    return counts


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def blocks(server) -> dict[str, int]:
    return httpx.get(f"{server.url}/health").json()["blocks"]


def nobody_inside(server) -> bool:
    """No request is under way, and every block is free or cached."""
    found = blocks(server)
    total = server.backend.engine.scheduler.config.num_blocks
    everything = found["used"] == 0 and found["free"] + found["cached"] == total
    return everything and server.service.inside == 0
