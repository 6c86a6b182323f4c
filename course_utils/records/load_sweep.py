"""One server under rising load, with three kinds of admission: goodput and latencies (chapter 17).

`python -m course_utils.records.load_sweep` sends one minute of requests (512 tokens in, 32 out) to
the server on simulated time, with the mock's cost: a 70-billion-parameter model on a node of eight
A800. Ten rates; arrivals at random (Poisson) or in bursts (gaps three times as uneven); three kinds
of admission:

    all         everybody waits
    queue       refused if 16 requests wait
    prediction  refused if the first token would come after 0.8 s

The promise is a first token within 1 s and 50 ms a token. Seeds 0, 1, 2 draw the arrivals. Writes
c17_load.csv. No wall-clock is involved: every machine gets the same numbers. Half a minute.
"""

import argparse
from itertools import product

import numpy as np

from course_utils.records.recorded import code_hash, save_record
from course_utils.scheduling import SchedulerConfig
from course_utils.serving.admission import Load, predicted_ttft
from course_utils.serving.mock import NODE
from course_utils.serving.simulated import Admit, SimulatedServer
from course_utils.serving.slo import goodput, latencies
from course_utils.simulation.workloads import TraceRequest, bursty

RECORD = "c17_load"
KEYS = ("arrivals", "admission", "rate", "seed")
TOLERANCE = {"goodput": 1e-4, "ttft_p50": 1e-4, "ttft_p99": 1e-4, "tpot_mean": 1e-5}
SECONDS, PROMPT, ANSWER = 60, 512, 32
TTFT, TPOT, AIM = 1.0, 0.05, 0.8  # s; the promise, and what the prediction may be
RATES = (4, 6, 8, 9, 10, 11, 12, 14, 16, 20)  # requests/s
VARIATION = {"random": 1.0, "bursts": 3.0}
SERVER = SchedulerConfig(num_blocks=1024, block_size=16, max_tokens=512, max_requests=8)
QUEUE = 16
CODE = ("scheduling", "simulation/costs.py", "simulation/workloads.py")
CODE += tuple(f"serving/{part}.py" for part in ("admission", "mock", "simulated", "slo"))


def short_queue(prompt: int, cached: int, load: Load, base: float, per_token: float) -> bool:
    """Whether fewer than 16 requests wait."""
    return load.waiting < QUEUE


def in_time(*arguments) -> bool:
    """Whether the first token is expected early enough."""
    return predicted_ttft(*arguments) <= AIM


ADMISSION: dict[str, Admit | None] = {"all": None, "queue": short_queue, "prediction": in_time}


def arrivals(kind: str, rate: float, seed: int) -> list[TraceRequest]:
    """One minute of requests."""
    return bursty(round(SECONDS * rate), rate, VARIATION[kind], PROMPT, ANSWER, seed)


def row(kind: str, admission: str, rate: float, seed: int) -> dict:
    """One run. Latencies are those of answered requests, in seconds."""
    trace = arrivals(kind, rate, seed)
    records = SimulatedServer(SERVER, NODE, ADMISSION[admission]).run(trace)
    found = np.array([latencies(record) for record in records if record.status == 200])
    ttft, tpot = found.T
    given = dict(zip(KEYS, (kind, admission, rate, seed), strict=True))
    given |= {"requests": len(records), "answered": len(found)}
    given["goodput"] = round(goodput(records, TTFT, TPOT), 5)
    given |= {f"ttft_p{q}": round(float(np.percentile(ttft, q)), 5) for q in (50, 99)}
    given["tpot_mean"] = round(float(tpot.mean()), 6)
    return given | {"code": code_hash(CODE), "corpus": "drawn arrivals"}


def sample() -> dict:
    """One row: past the knee, admission by prediction."""
    return row("random", "prediction", 14, 0)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = []
    for kind, admission, rate, seed in product(VARIATION, ADMISSION, RATES, (0, 1, 2)):
        found.append(row(kind, admission, rate, seed))
        print(list(found[-1].values()), flush=True)
    print(save_record(RECORD, found))
