"""Wrong answers of chapter 17: latencies, goodput."""

from collections.abc import Callable, Sequence
from statistics import mean

from course_utils.exercises.spec import WrongAnswer
from course_utils.serving.slo import RequestRecord

# ---- latencies


def _tpot(r: RequestRecord) -> float:
    return (r.last - r.first) / (r.tokens - 1) if r.tokens > 1 else 0.0


def _unless_none(function: Callable) -> Callable:
    """The mistake with the case of no token handled as asked for."""

    def answer(record: RequestRecord) -> tuple[float | None, float | None]:
        return (None, None) if record.first is None else function(record)

    return answer


LATENCIES = (
    WrongAnswer(
        "from the sending",
        _unless_none(lambda r: (r.first - r.sent, _tpot(r))),
        "You count from `sent`. A user waits from the moment at which the request was due; a test "
        "that sends late and counts from there hides exactly the bad moments (coordinated "
        "omission). Begin at record.due.",
        also=(
            _unless_none(lambda r: (r.first - r.sent, (r.last - r.first) / r.tokens)),
            _unless_none(lambda r: (r.first - r.sent, (r.last - r.first) / (r.tokens - 1))),
            lambda r: (r.first - r.sent, _tpot(r)),
            lambda r: (r.first - r.sent, (r.last - r.first) / r.tokens),
        ),
    ),
    WrongAnswer(
        "tokens for gaps",
        _unless_none(lambda r: (r.first - r.due, (r.last - r.first) / r.tokens)),
        "Ten tokens have nine gaps: from the first to the last there are tokens - 1.",
    ),
    WrongAnswer(
        "the first token twice",
        _unless_none(lambda r: (r.first - r.due, (r.last - r.due) / r.tokens)),
        "Your TPOT contains the wait for the first token. That is TTFT already; begin at "
        "record.first and divide by the gaps.",
        also=(
            _unless_none(lambda r: (r.first - r.due, (r.last - r.due) / max(1, r.tokens - 1))),
            _unless_none(lambda r: (r.first - r.due, (r.last - r.sent) / r.tokens)),
        ),
    ),
    WrongAnswer(
        "a single token",
        _unless_none(lambda r: (r.first - r.due, (r.last - r.first) / (r.tokens - 1))),
        "An answer of one token has no gap: you divide by zero. Its TPOT is 0.0.",
    ),
    WrongAnswer(
        "no token",
        lambda r: (r.first - r.due, _tpot(r)),
        "A refused request has no first token: record.first is None. Ask for that before you "
        "calculate.",
    ),
    WrongAnswer(
        "nothing is fast",
        lambda r: (0.0, 0.0) if r.first is None else (r.first - r.due, _tpot(r)),
        "A request without a token gets latencies of 0: then refusing everybody gives the fastest "
        "server of all. Return (None, None).",
    ),
    WrongAnswer(
        "the whole answer",
        _unless_none(lambda r: (r.last - r.due, _tpot(r))),
        "This is the time to the LAST token. TTFT ends with the first.",
    ),
    WrongAnswer(
        "tokens a second",
        _unless_none(
            lambda r: (r.first - r.due, (r.tokens - 1) / (r.last - r.first) if r.tokens > 1 else 0)
        ),
        "You have tokens per second. TPOT is seconds per token: the other way round.",
    ),
)


# ---- goodput


def _both(r: RequestRecord, ttft: float, tpot: float) -> bool:
    return r.first is not None and r.first - r.due <= ttft and _tpot(r) <= tpot


def _shared(good: Callable[..., bool], of: Callable[[RequestRecord], bool] | None = None):
    """The share of requests (those with `of`) that are `good`."""

    def answer(records: Sequence[RequestRecord], ttft: float, tpot: float) -> float:
        counted = [r for r in records if of is None or of(r)]
        return sum(good(r, ttft, tpot) for r in counted) / len(counted) if counted else 0.0

    return answer


def _answered(r: RequestRecord) -> bool:
    return r.status == 200


def _means(records: Sequence[RequestRecord], ttft: float, tpot: float) -> float:
    found = [r for r in records if r.status == 200]
    if not found:
        return 0.0
    first = mean(r.first - r.due for r in found) <= ttft
    return float(first and mean(map(_tpot, found)) <= tpot)


GOODPUT = (
    WrongAnswer(
        "only those who were answered",
        _shared(_both, _answered),
        "You divide by the requests that were answered. Whoever was refused asked as well: a "
        "server that refuses 99 of 100 does not have a goodput of 1. Divide by all records.",
    ),
    WrongAnswer(
        "one limit is enough",
        _shared(
            lambda r, ttft, tpot: _answered(r) and (r.first - r.due <= ttft or _tpot(r) <= tpot)
        ),
        "You count requests that keep ONE of the two limits. A first token in time and then a "
        "crawl is no good answer: `and`, not `or`.",
    ),
    WrongAnswer(
        "the first token alone",
        _shared(lambda r, ttft, tpot: _answered(r) and r.first - r.due <= ttft),
        "TPOT plays no part. Both limits belong to the promise.",
    ),
    WrongAnswer(
        "the pace alone",
        _shared(lambda r, ttft, tpot: _answered(r) and _tpot(r) <= tpot),
        "TTFT plays no part. Both limits belong to the promise.",
    ),
    WrongAnswer(
        "answers that broke off",
        _shared(_both),
        "You count answers that began in time and then broke off. Only status 200 is an answer.",
        also=(
            _shared(
                lambda r, ttft, tpot: (
                    r.first is not None and r.first - r.sent <= ttft and _tpot(r) <= tpot
                )
            ),
        ),
    ),
    WrongAnswer(
        "below, not at most",
        _shared(lambda r, ttft, tpot: _answered(r) and r.first - r.due < ttft and _tpot(r) < tpot),
        "A request that meets a limit exactly keeps it: <=, not <.",
    ),
    WrongAnswer(
        "the means keep the limits",
        _means,
        "You compare the MEANS with the limits. A mean hides who waited: half of the users at 0.1 "
        "s and half at 1.9 s have a mean of 1 s. Judge every request by itself.",
    ),
    WrongAnswer(
        "a number, not a share",
        lambda records, ttft, tpot: sum(_answered(r) and _both(r, ttft, tpot) for r in records),
        "This is how many were served well. Divide by the number of records.",
    ),
)
