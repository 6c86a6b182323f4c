"""Clusters of eight nodes compared over three seeds: roles, placement, early rejection.

`python -m course_utils.records.cluster [--jobs 2]` writes c18_cluster.csv; about two minutes on one
core. The workload is the generated one with the statistics of Mooncake's conversation trace, 1,000
requests; `load` is their rate as a multiple of the trace's 3.4 a second. Model and nodes are those
of `simulation.published`: Llama 2 70B on nodes of 8 A800, 100 GB/s between them.

    roles      "together, n": all eight nodes read and write, n tokens a step at most, computing
               while the memory is read ("no overlap": one after the other); "p + d": p nodes
               read, d write
    placement  five nodes read and three write; which node reads a prompt is a policy's choice
    rejection  seven nodes read and one writes, at twice the load: who is turned away; "load then"
               assumes that every answer takes so many seconds

Columns: mean and 90th percentile of TTFT and median of the TBT (s; of each request the mean of its
worst tenth, the hand-over included but for `rejection`), the share of cached prompt tokens, the
share of rejected requests, and goodput at TTFT 10 s by limit on the TBT in milliseconds.

Everything is drawn from seeds and nothing is timed, so a rerun gives the same digits.
"""

import argparse
from dataclasses import replace
from itertools import product

import numpy as np

from course_utils.records.recorded import code_hash, save_record
from course_utils.records.small_models import run_grid
from course_utils.simulation import policies
from course_utils.simulation.cluster import Cluster, ClusterConfig
from course_utils.simulation.metrics import cached_share, goodput, latencies
from course_utils.simulation.published import mooncake_cluster, together_cluster
from course_utils.simulation.workloads import conversation

RECORD = "c18_cluster"
KEYS = ("experiment", "setup", "load", "seed")
TOLERANCE = {"mean_ttft": 1e-3, "goodput_100": 1e-3}
CODE = ("scheduling", "simulation")
REQUESTS, RATE, SEEDS = 1_000, 12_031 / 3_537, (0, 1, 2)
TTFT_LIMIT, TBT_LIMITS = 10.0, (30, 50, 100, 200, 500, 1000, 2000)
CHUNKS, READERS, LOADS = (256, 512, 4096), (4, 5, 6, 7), (0.5, 1.0, 1.5)
REJECTIONS = {
    "none": {},
    "first token": {"ttft_limit": TTFT_LIMIT},
    "load now": {"ttft_limit": TTFT_LIMIT, "tbt_limit": 0.05},
    "load then, 15 s": {"ttft_limit": TTFT_LIMIT, "tbt_limit": 0.05, "stay": 15.0},
    "load then, 30 s": {"ttft_limit": TTFT_LIMIT, "tbt_limit": 0.05, "stay": 30.0},
}


def setups() -> dict[tuple[str, str], ClusterConfig]:
    """Every cluster by its experiment and name."""
    found = {("roles", f"together, {n}"): together_cluster(8, n) for n in CHUNKS}
    for n in CHUNKS:
        found["roles", f"together, {n}, no overlap"] = together_cluster(8, n, overlap=False)
    found |= {("roles", f"{p} + {8 - p}"): mooncake_cluster(p, 8 - p) for p in READERS}
    for name in ("random_node", "least_loaded", "cache_aware", "mooncake"):
        policy = getattr(policies, name)
        found["placement", name] = mooncake_cluster(5, 3, policy=policy)
    found |= {("rejection", name): mooncake_cluster(7, 1, **o) for name, o in REJECTIONS.items()}
    return found


def run(experiment: str, setup: str, load: float, seed: int) -> dict:
    """One row."""
    trace = conversation(REQUESTS, REQUESTS / (load * RATE), seed)
    config = replace(setups()[experiment, setup], seed=seed)
    cluster = Cluster(config, trace).run()
    seen = latencies(cluster, hand_over=experiment != "rejection")
    row = {"experiment": experiment, "setup": setup, "load": load, "seed": seed}
    row["mean_ttft"] = round(float(np.nanmean(seen.ttft)), 4)
    row["p90_ttft"] = round(float(np.nanpercentile(seen.ttft, 90)), 4)
    row["median_tbt"] = round(float(np.nanmedian(seen.worst_tbt)), 5)
    row["cached"] = round(cached_share(cluster), 4)
    row["rejected"] = sum(bool(one.rejected) for one in cluster.served) / REQUESTS
    for limit in TBT_LIMITS:
        row[f"goodput_{limit}"] = round(goodput(seen, TTFT_LIMIT, limit / 1000), 4)
    return row | {"code": code_hash(CODE), "corpus": "generated"}


def sample() -> dict:
    """Six nodes read and two write, seed 0."""
    return run("roles", "6 + 2", 1.0, 0)


def grid() -> list[tuple]:
    """Arguments of all runs."""
    loads = {"roles": LOADS, "placement": (1.0,), "rejection": (2.0,)}
    return [
        (*name, load, seed) for name in setups() for load, seed in product(loads[name[0]], SEEDS)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    print(save_record(RECORD, run_grid(run, grid(), parser.parse_args().jobs)))
