"""What users and owners of a cluster see: latencies, goodput, utilisation, and who was busy when.

    TTFT  time to first token: from arrival to the first token
    TBT   time between tokens; of a request, here, the mean of its worst tenth, as in Mooncake
    goodput  the share of all requests, rejected ones included, that keep both limits (the SLO)

Source: Mooncake (Qin et al. 2025, FAST), section 5.1; Zhong et al. 2024 (DistServe) for goodput.
"""

from dataclasses import dataclass

import numpy as np

from course_utils.simulation.cluster import Cluster


def token_times(cluster: Cluster, number: int) -> np.ndarray:
    """When each token of request `number` was chosen (s); empty if it was rejected."""
    served = cluster.served[number]
    nodes = [node for node in (served.entry, served.decode) if node >= 0]
    times = [cluster.nodes[node].token_times(number) for node in nodes]
    return np.concatenate(times) if times else np.empty(0)


@dataclass(frozen=True)
class Latencies:
    """One entry for each request; NaN where there is none (rejected, or a single token)."""

    ttft: np.ndarray
    worst_tbt: np.ndarray  # mean of the worst tenth of its gaps
    mean_tbt: np.ndarray
    gaps: np.ndarray  # all gaps of all requests, sorted


def latencies(cluster: Cluster, hand_over: bool = True) -> Latencies:
    """Seconds of every request of a cluster that has run.

    Without `hand_over`, the gap in which an answer moves to its decode node does not count.
    """
    rows, gaps = [], [np.empty(0)]
    for number, served in enumerate(cluster.served):
        times = token_times(cluster, number)
        skipped = int(served.decode >= 0 and not hand_over)
        own = np.sort(np.diff(times[skipped:]))
        worst = own[-max(1, len(own) // 10) :].mean() if len(own) else np.nan
        mean = own.mean() if len(own) else np.nan
        rows.append((times[0] - served.request.arrival if len(times) else np.nan, worst, mean))
        gaps.append(own)
    ttft, worst_tbt, mean_tbt = np.array(rows).reshape(-1, 3).T
    return Latencies(ttft, worst_tbt, mean_tbt, np.sort(np.concatenate(gaps)))


def goodput(found: Latencies, ttft: float, tbt: float) -> float:
    """Share of the requests with TTFT and worst TBT within the limits (s)."""
    answered = found.ttft <= ttft
    return float(np.mean(answered & ~(found.worst_tbt > tbt)))


def cached_share(cluster: Cluster) -> float:
    """Share of the prompt tokens of accepted requests that nobody had to compute."""
    accepted = [served for served in cluster.served if not served.rejected]
    return sum(s.cached for s in accepted) / max(1, sum(s.request.input for s in accepted))


def utilisation(cluster: Cluster) -> np.ndarray:
    """Share of the whole run during which each node worked on a step."""
    busy = [sum(i.end - i.start for i in node.intervals) for node in cluster.nodes]
    return np.array(busy) / cluster.events.now if cluster.events.now else np.zeros(len(busy))


def mean_inside(cluster: Cluster) -> float:
    """Requests inside on average over time: the left side of Little's law.

    Summed over the moments at which requests arrive and leave, not over the requests.
    """
    served = [one for one in cluster.served if not one.rejected]
    moments = np.array([one.request.arrival for one in served] + [one.finished for one in served])
    steps = np.repeat([1, -1], len(served))
    order = np.argsort(moments, kind="stable")
    inside = np.cumsum(steps[order])[:-1]
    return float((inside * np.diff(moments[order])).sum() / cluster.events.now)
