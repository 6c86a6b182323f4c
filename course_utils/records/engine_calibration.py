"""The simulator against our own engine: step times fitted on one workload, another one predicted.

`python -m course_utils.records.engine_calibration` writes c18_engine.csv. On a quiet machine with
two threads it takes about three minutes; without SmolLM2's file its rows are left out.

For each model the engine serves workload A (short prompts, long answers) and workload B (long
prompts, short answers, in bursts), three seeds each. Every step gives its work and its seconds.
The cost model is fitted on the steps of A's runs alone, all of them. Then the simulator, with the
engine's own scheduler and that cost, predicts each run of both workloads: mean time to first token
(ttft) and mean time per output token after it (tpot). Rows of A were seen by the fit, those of B
were not.

The clock of a measured run adds up the seconds of the engine's steps, and jumps over pauses in
which nobody is there; so it leaves out what happens between steps, as the simulator does. Arrivals
are drawn in units of a measured step, so that slow and fast machines see a like load. `constant`
predicts with steps that all take the same mean time: what the features of a step have to beat.

Left out: an engine under load from other programs, other schedulers, and other machines than the
one that measured.
"""

import argparse
import time
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from course_utils.data.assets import available
from course_utils.models import DecoderLM, shipped
from course_utils.models.pretrained import smollm2
from course_utils.records.recorded import code_hash, save_record
from course_utils.scheduling import Plan, SchedulerConfig
from course_utils.serving import Engine, SamplingParams
from course_utils.simulation.cluster import Cluster, ClusterConfig
from course_utils.simulation.costs import Cost, StepCost, Work, fit_cost, work_of
from course_utils.simulation.metrics import latencies
from course_utils.simulation.node import NodeConfig
from course_utils.simulation.workloads import TraceRequest, bursty

RECORD = "c18_engine"
KEYS = ("model", "workload", "seed", "quantity")
TOLERANCE = {"ratio": 0.6}  # of two measured times on a machine of its own
SEEDS, REQUESTS = (0, 1, 2), {"dense": 40, "smollm2": 16}
SCHEDULER = SchedulerConfig(160, 16, max_tokens=128, max_requests=8, prefix_cache=False)
WORKLOADS = {  # prompt tokens, answer tokens, steps between arrivals, burstiness
    "A": ((16, 96), (16, 48), 10.0, 1.0),
    "B": ((96, 224), (4, 24), 8.0, 2.0),
}
CODE = ("scheduling", "serving/engine.py", "serving/paged_cache.py", "simulation")


@cache
def model(name: str) -> DecoderLM:
    """A model of the record, loaded once."""
    return smollm2().model if name == "smollm2" else shipped(name).eval()


def workload(name: str, requests: int, step: float, seed: int) -> list[TraceRequest]:
    """Requests of a workload, with arrivals in units of `step` seconds."""
    prompts, answers, gap, variation = WORKLOADS[name]
    rng = np.random.default_rng(seed)
    trace = bursty(requests, 1 / (gap * step), variation, seed=seed)
    sizes = zip(rng.integers(*prompts, requests), rng.integers(*answers, requests), strict=True)
    return [
        replace(one, input=int(prompt), output=int(answer))
        for one, (prompt, answer) in zip(trace, sizes, strict=True)
    ]


def watch(engine: Engine) -> list[Plan]:
    """The plans of the engine's steps: the list grows as they are made."""
    plans, plan = [], engine.scheduler.plan

    def noted() -> Plan:
        plans.append(plan())
        return plans[-1]

    engine.scheduler.plan = noted
    return plans


def serve(name: str, trace: list[TraceRequest]) -> tuple[list[Work], list[float], np.ndarray]:
    """Work and seconds of every step, and (ttft, tpot) in seconds of every request (R, 2)."""
    engine, generator = Engine(model(name), SCHEDULER), torch.Generator().manual_seed(0)
    plans, seconds, times = watch(engine), [], [[] for _ in trace]
    now, coming = 0.0, 0
    while coming < len(trace) or engine.live:
        if not engine.live:
            now = max(now, trace[coming].arrival)
        while coming < len(trace) and trace[coming].arrival <= now:
            ids = torch.randint(3, 2000, (trace[coming].input,), generator=generator).tolist()
            engine.add(ids, SamplingParams(trace[coming].output))
            coming += 1
        began = time.perf_counter()
        updates = engine.step()
        seconds.append(time.perf_counter() - began)
        now += seconds[-1]
        for update in updates:
            times[update.generation.request.id].append(now)
    found = [(t[0] - r.arrival, np.diff(t).mean()) for t, r in zip(times, trace, strict=True)]
    return [work_of(plan) for plan in plans], seconds, np.array(found)


def predict(trace: list[TraceRequest], cost: Cost) -> np.ndarray:
    """Mean ttft and tpot (s) by the simulator: one node with the engine's scheduler."""
    node = NodeConfig(SCHEDULER, cost)
    found = latencies(Cluster(ClusterConfig(1, node), trace).run())
    return np.array([found.ttft.mean(), np.nanmean(found.mean_tbt)])


def measure(name: str, seeds: tuple[int, ...] = SEEDS, requests: int | None = None) -> list[dict]:
    """All rows of a model."""
    requests = requests or REQUESTS[name]
    serve(name, workload("A", 4, 1.0, 9))  # warm up
    step = float(np.median(serve(name, workload("A", 8, 1e-3, 9))[1]))
    traces = {(w, s): workload(w, requests, step, s) for s in seeds for w in WORKLOADS}
    runs = {key: serve(name, trace) for key, trace in traces.items()}
    works = [work for seed in seeds for work in runs["A", seed][0]]
    seconds = [second for seed in seeds for second in runs["A", seed][1]]
    fitted, constant = fit_cost(works, seconds), StepCost(float(np.mean(seconds)))
    rows = []
    for (kind, seed), trace in traces.items():
        measured = runs[kind, seed][2].mean(0)
        predictions = predict(trace, fitted), predict(trace, constant)
        values = zip(*(side.tolist() for side in (measured, *predictions)), strict=True)
        for quantity, (real, ours, flat) in zip(("ttft", "tpot"), values, strict=True):
            row = {"model": name, "workload": kind, "seed": seed, "quantity": quantity}
            row |= {"predicted_ms": round(1e3 * ours, 3), "measured_ms": round(1e3 * real, 3)}
            row |= {"ratio": round(ours / real, 4), "constant_ratio": round(flat / real, 4)}
            rows.append(row | {"code": code_hash(CODE), "corpus": "random ids"})
    return rows


def rows() -> list[dict]:
    """All rows of the record."""
    torch.set_num_threads(2)
    names = [name for name in REQUESTS if name != "smollm2" or available("smollm2")]
    return [row for name in names for row in measure(name)]


def sample() -> dict:
    """The dense model with one seed: the time per output token of workload B."""
    return next(
        row
        for row in measure("dense", seeds=(0,))
        if (row["workload"], row["quantity"]) == ("B", "tpot")
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    print(save_record(RECORD, rows()))
