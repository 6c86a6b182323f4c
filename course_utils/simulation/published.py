"""Published figures of two serving systems, each beside what this room makes of it, with a label.

    identity        arithmetic on published inputs
    fitted          a parameter was chosen to match it
    predicted       the model had not seen it
    not reproduced  with the reason

Mooncake's maintainers say that the runs behind section 5.3 of their paper cannot be repeated, as
the production scheduler is not public (their issue 452): shapes and orders can be predicted, not
seconds. Model and nodes: a model like Llama 2 70B on 8 A800 each.

Sources: DeepSeek-AI 2025, "DeepSeek-V3/R1 Inference System Overview"; Mooncake (Qin et al. 2025,
FAST), Figures 5, 8, 9, 10, 13 and 15.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from course_utils.scheduling import SchedulerConfig
from course_utils.simulation import costs, policies
from course_utils.simulation.cluster import Cluster, ClusterConfig
from course_utils.simulation.metrics import cached_share, goodput, latencies
from course_utils.simulation.node import NodeConfig
from course_utils.simulation.prefix_study import hit_ratio, unseen_hits
from course_utils.simulation.workloads import BLOCK, TraceRequest

LABELS = ("identity", "fitted", "predicted", "not reproduced")
MODEL, FLOPS = costs.LLAMA2_70B, costs.A800_NODE_FLOPS
MFU = 0.592  # fitted to the first bar of Figure 8
CACHE_TOKENS = 3_000_000  # of each prefill node, Figure 10


@dataclass(frozen=True)
class Figure:
    """One number: as published, and ours."""

    name: str
    published: float
    ours: float
    label: str
    note: str = ""

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"label is {self.label!r}: choose one of {', '.join(LABELS)}")


def deepseek() -> list[Figure]:
    """The fleet of the inference overview: nodes of 8 H800, one day, tokens and dollars."""
    hits, misses, answers, day = 342e9, 608e9 - 342e9, 168e9, 86_400
    prefill, decode = (hits + misses) / day / 73_700, answers / day / 14_800
    cost = 226.75 * 8 * 24 * 2  # $2 a GPU-hour
    income = (hits * 0.14 + misses * 0.55 + answers * 2.19) / 1e6  # $ a million tokens
    users = 14_800 / 8 / 21  # 20 to 22 tokens/s for each
    latent = 61 * (512 + 64) * 2  # bytes of bf16 MLA cache a token
    rows = [
        (
            "nodes on average",
            226.75,
            prefill + decode,
            f"{prefill:.1f} + {decode:.1f}",
        ),
        ("dollars a day", 87_072, cost, "8 GPUs, 24 hours, $2"),
        ("theoretical income, dollars a day", 562_027, income, "from rounded tokens"),
        ("margin, %", 545, 100 * (income / cost - 1), ""),
        ("routed experts a GPU, prefill EP32", 9, (256 + 32) / 32, "32 redundant"),
        ("routed experts a GPU, decode EP144", 2, (256 + 32) / 144, "32 redundant"),
    ]
    figures = [Figure(name, given, ours, "identity", note) for name, given, ours, note in rows]
    memory = users * 4_989 * latent / 1e9
    note = "users at 21 tokens/s x 4,989 tokens; the weights take the rest of 80 GB"
    return [*figures, Figure("GB of cache a GPU, implied", float("nan"), memory, "identity", note)]


def figure_8(trace: Sequence[TraceRequest]) -> list[Figure]:
    """Mean seconds of prefill on the conversation trace: one bar fits the MFU, one is predicted."""
    tokens = np.array([request.input for request in trace], float)
    cached = np.minimum(tokens, BLOCK * np.array(hit_ratio(trace).hits))
    plain, shared = (
        costs.prefill_flops(MODEL, tokens, there).mean() / FLOPS for there in (0, cached)
    )
    mfu = plain / 1.661
    return [
        Figure("no cache, s", 1.661, plain / mfu, "fitted", f"MFU {mfu:.1%}"),
        Figure("global cache, s", 1.065, shared / mfu, "predicted"),
    ]


def figure_9(trace: Sequence[TraceRequest], name: str) -> list[Figure]:
    """Share of tokens hit by cache size in tokens; for infinity, with the hits that ids hide."""
    found, note = [], "the released ids are coarser than what was measured (an inference)"
    for size, given in FIGURE_9[name].items():
        if size < inf:
            ours = hit_ratio(trace, int(size) // BLOCK).by_token
            found.append(Figure(f"{size:.0e} tokens", given, ours, LABELS[3], note))
    best, note = hit_ratio(trace).by_token, "the trace alone"
    found.append(Figure("no limit, whole blocks", FIGURE_9[name][inf], best, LABELS[3], note))
    best, note = best + unseen_hits(trace), "with a system prompt and half blocks"
    return [*found, Figure("no limit", FIGURE_9[name][inf], best, "predicted", note)]


def _mixed_cost() -> costs.Roofline:
    return costs.node_cost(MODEL, FLOPS, costs.A800_NODE_BANDWIDTH, MFU, 0.6, 0.01)


def mooncake_cluster(entry: int, decode: int = 0, **options) -> ClusterConfig:
    """The paper's testbed as far as it is known; `options` are ClusterConfig's.

    Assumed: decode reaches 60% of the bandwidth, a step has 10 ms besides, and a decode node's
    memory holds 1.4 million tokens (640 GB less weights and a tenth).
    """
    reads = costs.prefill_cost(MODEL, FLOPS, MFU)
    prompts = SchedulerConfig(CACHE_TOKENS // BLOCK, BLOCK, max_tokens=2**18, max_requests=1)
    answers = SchedulerConfig(2_700, BLOCK, max_tokens=2**18, max_requests=256)
    settings = {"policy": policies.mooncake, "kv_bytes": MODEL.kv_bytes} | options
    return ClusterConfig(
        entry, NodeConfig(prompts, reads), decode, NodeConfig(answers, _mixed_cost()), **settings
    )


def together_cluster(nodes: int, max_tokens: int, overlap: bool = True, **options) -> ClusterConfig:
    """The same nodes without roles: each reads and writes, `max_tokens` a step at most."""
    cost = replace(_mixed_cost(), overlap=overlap)
    sizes = SchedulerConfig(CACHE_TOKENS // BLOCK, BLOCK, max_tokens, max_requests=256)
    settings = {"policy": policies.mooncake, "kv_bytes": MODEL.kv_bytes} | options
    return ClusterConfig(nodes, NodeConfig(sizes, cost), **settings)


def mean_ttft(trace: Sequence[TraceRequest], entry: int, **options) -> float:
    """Mean seconds to the first token with `entry` prefill nodes; answers are cut to one token.

    Decode nodes come after the first token, so that they do not change it while the network has
    room.
    """
    prompts = [replace(request, output=1) for request in trace]
    cluster = Cluster(mooncake_cluster(entry, **options), prompts).run()
    return float(latencies(cluster).ttft.mean())


FIGURE_5 = {"mooncake": 3.07, "cache_aware": 3.58, "least_loaded": 5.27, "random_node": 19.65}
FIGURE_9 = {  # share of tokens hit by size of the cache in tokens
    "conversation": {1e5: 0.0731, 1e6: 0.0866, 4e6: 0.2149, 1e7: 0.3263, inf: 0.4006},
    "synthetic": {1e5: 0.0117, 1e6: 0.1461, 4e6: 0.3805, 1e7: 0.5886, inf: 0.6582},
}
FIGURE_10 = {"conversation": (0.169, 0.375), "synthetic": (0.264, 0.622)}  # local, global
FIGURE_13 = {3e9: 5.09, 12.5e9: 1.60, 50e9: 1.25}  # by bytes/s; recomputing instead: 2.62
FIGURE_15A = {5: 0.777, 6: 0.972, 7: 0.991, 8: 0.990, 9: 0.992, 10: 0.984, 11: 0.861}
FIGURE_15B = {5: 5.74, 6: 1.71, 7: 1.30, 8: 1.19, 9: 1.12, 10: 1.11, 11: 1.14}
FIGURE_15B_TBT = {5: 0.0315, 11: 0.0583}  # s; both ends of the line


def figure_5(trace: Sequence[TraceRequest], entry: int = 6) -> list[Figure]:
    """Mean TTFT (s) by policy; the number of nodes is not published, so only the order holds."""
    note = f"order predicted; the number of nodes is not published, {entry} assumed"
    return [
        Figure(
            name, given, mean_ttft(trace, entry, policy=getattr(policies, name)), LABELS[3], note
        )
        for name, given in FIGURE_5.items()
    ]


def figure_10(trace: Sequence[TraceRequest], name: str) -> list[Figure]:
    """Share of prompt tokens that nobody computed, 10 nodes with local caches or a global one."""
    prompts, found = [replace(request, output=1) for request in trace], []
    for policy in (policies.cache_aware, policies.mooncake):
        cluster = Cluster(mooncake_cluster(10, policy=policy), prompts).run()
        found.append(cached_share(cluster))
    local, everywhere = FIGURE_10[name]
    note = "the placement behind it is not public; ours looks for prefixes, and finds more"
    return [
        Figure("local caches", local, found[0], LABELS[3], note),
        Figure("global cache", everywhere, found[1], "predicted"),
    ]


def figure_13(trace: Sequence[TraceRequest], entry: int = 6) -> list[Figure]:
    """Mean TTFT (s) by bandwidth on the synthetic trace if prefixes are always fetched.

    Algorithm 1 as published looks at the network and recomputes where it is full: it hardly
    suffers. That the published runs fetched anyway is an inference.
    """
    note = "order predicted, with a policy that ignores the network"
    always = {"policy": policies.always_fetch}
    rows = [
        (f"{8 * bandwidth / 1e9:.0f} Gbit/s", given, always | {"bandwidth": bandwidth})
        for bandwidth, given in FIGURE_13.items()
    ]
    rows.append(("no fetching", 2.62, {"policy": policies.cache_aware}))
    return [
        Figure(name, given, mean_ttft(trace, entry, **options), LABELS[3], note)
        for name, given, options in rows
    ]


def figure_15(trace: Sequence[TraceRequest], nodes: Sequence[int] = (5, 7, 11)) -> list[Figure]:
    """Synthetic trace by prefill nodes of 16: mean TTFT and TBT (s), goodput at 10 s and 100 ms.

    The hand-over to the decode node does not count as a time between tokens.
    """
    found = []
    for n in nodes:
        cluster = Cluster(mooncake_cluster(n, 16 - n), trace).run()
        seen = latencies(cluster, hand_over=False)
        ttft, tbt = float(seen.ttft.mean()), float(np.nanmean(seen.mean_tbt))
        note = "knee predicted; some 0.35 s on the plateau are not modelled"
        found.append(Figure(f"{n} prefill nodes, TTFT", FIGURE_15B[n], ttft, LABELS[3], note))
        note = "left side predicted; the fall with few decode nodes is not"
        share = goodput(seen, 10.0, 0.1)
        found.append(Figure(f"{n} prefill nodes, goodput", FIGURE_15A[n], share, LABELS[3], note))
        if n in FIGURE_15B_TBT:
            note = "our decode steps read the weights; so few requests hardly make them longer"
            given = FIGURE_15B_TBT[n]
            found.append(Figure(f"{n} prefill nodes, TBT", given, tbt, LABELS[3], note))
    return found


def not_tried() -> list[tuple[str, str]]:
    """Published figures that this room does not attempt, and why."""
    return [
        ("+59% to +498% capacity", "depends on their baseline's scheduler, batches and versions"),
        ("+115%, +107% requests in production", "a cluster and traffic that nobody else has"),
    ]
