"""The simulator on a whole trace: 16 nodes, 12,031 requests, some 4.1 million token-steps.

Many steps at once beside one by one, on the beginning of the trace where one by one is bearable;
then the whole trace against the limits of 10 s of processor time and 500 MB. The trace is
Mooncake's conversation trace if the environment variable COURSE_TRACES names its folder, else the
generated one with the same statistics.
"""

import os
import resource
import sys
import time
from pathlib import Path

from course_utils.simulation.cluster import Cluster
from course_utils.simulation.metrics import latencies
from course_utils.simulation.published import mooncake_cluster
from course_utils.simulation.workloads import TraceRequest, conversation, mooncake_trace

LIMIT_SECONDS, LIMIT_MB, BEGINNING = 10.0, 500.0, 200


def run() -> list[dict]:
    """Rows for `course bench simulation`."""
    trace = load()
    whole = seconds(trace, fast=True)
    memory = megabytes()
    fast, slow = (seconds(trace[:BEGINNING], fast) for fast in (True, False))
    return [
        row("whole trace, s of processor time (peer: the limit)", whole, LIMIT_SECONDS),
        row("memory at its peak, MB (peer: the limit)", memory, LIMIT_MB),
        row(f"first {BEGINNING} requests, s; peer: one step at a time", fast, slow),
    ]


def load() -> list[TraceRequest]:
    """The released trace if it is here, else the generated one."""
    path = Path(os.environ.get("COURSE_TRACES", "")) / "conversation_trace.jsonl"
    return mooncake_trace(path) if path.is_file() else conversation()


def seconds(trace: list[TraceRequest], fast: bool) -> float:
    """Processor time of a run with its latencies."""
    began = time.process_time()
    latencies(Cluster(mooncake_cluster(8, 8), trace, fast).run())
    return time.process_time() - began


def megabytes() -> float:
    """The largest memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def row(name: str, ours: float, peer: float) -> dict:
    """One line of the report; the ratio says how many times less than the peer."""
    return {"name": name, "ours": ours, "peer": peer, "ratio": peer / ours, "target": 1.0}
