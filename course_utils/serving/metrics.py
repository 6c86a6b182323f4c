"""What Prometheus reads at /metrics: counters, histograms, and the state of the engine.

Each server has its own registry, so that two in one process do not mix. Gauges are read from the
engine's last state when somebody asks. Every POST to an endpoint of the API counts once as received
and once under an outcome, before its last byte is sent:

    finished    answered as asked
    cancelled   the client went away
    refused     a 4xx, or 503 while the server drains: no answer was begun
    failed      a 5xx or a timeout

Source: Prometheus, "Metric and label naming" and "Histograms and summaries". Left out: labels by
model, the metrics of the process.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from course_utils.serving.jobs import State

OUTCOMES = ("finished", "cancelled", "refused", "failed")
FIRST = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)  # seconds
EACH = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)


class Metrics:
    """One server's counters; `read` gives the engine's state."""

    def __init__(self, read: Callable[[], State]):
        self.registry = CollectorRegistry()
        of = {"registry": self.registry}
        self.received = Counter("course_requests_received", "Requests that came in", **of)
        self.requests = Counter("course_requests", "Requests by outcome", ["outcome"], **of)
        for outcome in OUTCOMES:
            self.requests.labels(outcome)
        self.prompt_tokens = Counter("course_prompt_tokens", "Tokens of prompts", **of)
        self.cached_tokens = Counter(
            "course_cached_tokens", "Tokens of prompts found in the prefix cache", **of
        )
        self.generated_tokens = Counter("course_generated_tokens", "Tokens generated", **of)
        self.ttft = Histogram(
            "course_time_to_first_token_seconds", "From arrival to first token", buckets=FIRST, **of
        )
        self.tpot = Histogram(
            "course_time_per_output_token_seconds", "Between tokens, mean", buckets=EACH, **of
        )
        for name, words in (("running", "in a slot"), ("waiting", "waiting for a slot")):
            gauge = Gauge(f"course_requests_{name}", f"Prompts {words}", **of)
            gauge.set_function(lambda name=name: getattr(read(), name))
        blocks = Gauge("course_blocks", "Blocks of the cache by state", ["state"], **of)
        for name in ("used", "cached", "free"):
            blocks.labels(name).set_function(lambda name=name: getattr(read(), name))

    def outcome(self, name: str) -> None:
        """A request has ended so."""
        self.requests.labels(name).inc()

    def text(self) -> bytes:
        """All of it, in the format that Prometheus reads."""
        return generate_latest(self.registry)
