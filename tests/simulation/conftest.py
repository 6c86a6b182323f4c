"""Mooncake's released traces, if they are here; the project does not carry them."""

import os
from pathlib import Path

import pytest

from course_utils.simulation.workloads import TraceRequest, mooncake_trace

ROOT = Path(__file__).parents[2]


def _load(name: str) -> list[TraceRequest]:
    folders = [os.environ.get("COURSE_TRACES", ""), ROOT / "../shared/traces", ROOT / "traces"]
    for folder in folders:
        if folder and (path := Path(folder) / f"{name}_trace.jsonl").is_file():
            return mooncake_trace(path)
    pytest.skip(
        f"{name}_trace.jsonl is not here: set COURSE_TRACES to a folder with the files of "
        "FAST25-release/traces from Mooncake's repository (kvcache-ai) to run this test"
    )


@pytest.fixture(scope="session")
def conversation_trace() -> list[TraceRequest]:
    return _load("conversation")


@pytest.fixture(scope="session")
def synthetic_trace() -> list[TraceRequest]:
    return _load("synthetic")
