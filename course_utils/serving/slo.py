"""What a load test records of each request, and how many were served well enough.

    TTFT     time to first token: from the moment at which the request was due to its first token
    TPOT     time per output token: from the first token to the last, over the tokens in between
    SLO      service level objective: here, a limit on TTFT and one on TPOT
    goodput  the share of all requests, refused ones included, that keep both limits

A request is due when its user wants it. A test that is late with sending (because it waits for
answers, or its own loop is busy) and counts from the sending leaves out what users wait:
coordinated omission.

Goodput here is a share, as in `simulation.metrics`; times the rate it is requests a second in time.
DistServe calls goodput the highest rate at which a given share keeps the limits.

Source: Zhong et al. 2024 (DistServe), section 1; Tene 2013, "How NOT to Measure Latency".
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request of a load test. Moments are seconds since its beginning."""

    due: float  # when it should have been sent
    sent: float  # when it was
    first: float | None  # its first token; None if none came
    last: float | None
    tokens: int  # of the answer
    status: int  # HTTP status; 0 if there was no answer
    cached: int = 0  # tokens of the prompt that were in the prefix cache


def latencies(record: RequestRecord) -> tuple[float | None, float | None]:
    """TTFT and TPOT (s); (None, None) if no token came. A single token has a TPOT of 0."""
    if record.first is None:
        return None, None
    gaps = record.tokens - 1
    tpot = (record.last - record.first) / gaps if gaps else 0.0
    return record.first - record.due, tpot


def goodput(records: Sequence[RequestRecord], ttft: float, tpot: float) -> float:
    """Share of all requests that were answered (status 200) within both limits (s)."""
    if not records:
        raise ValueError("there are no records: send at least one request")
    good = 0
    for record in records:
        first, pace = latencies(record)
        if record.status == 200 and first is not None:
            good += first <= ttft and pace <= tpot
    return good / len(records)
