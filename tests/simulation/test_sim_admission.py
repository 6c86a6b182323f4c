"""Early rejection: at the limits, by the load of the right moment, and within a cluster."""

import math
from dataclasses import replace

import numpy as np
import pytest

from course_utils.scheduling import SchedulerConfig
from course_utils.simulation import metrics
from course_utils.simulation.admission import InFlight, early_rejection
from course_utils.simulation.cluster import Cluster, ClusterConfig
from course_utils.simulation.costs import LLAMA2_70B, StepCost, break_even_bandwidth, prefill_flops
from course_utils.simulation.node import NodeConfig
from course_utils.simulation.prefix_study import prefix_hits
from course_utils.simulation.workloads import conversation

COST = StepCost(0.01, per_request=0.001, per_context=1e-6)


def ask(in_flight, ttft=2.0, tokens=1000, nodes=1, ttft_limit=5.0, tbt_limit=0.0141):
    return early_rejection(ttft, tokens, in_flight, nodes, COST, ttft_limit, tbt_limit)


def test_limits_are_kept_up_to_their_value():
    assert ask([], ttft=5.0) == "" and ask([], ttft=5.1) == "ttft"
    assert ask([], tbt_limit=0.012) == "" and ask([], tbt_limit=0.0119) == "tbt"
    assert ask([], ttft=5.1, tbt_limit=0.0) == "ttft"


@pytest.mark.parametrize(
    ("joins", "leaves", "found"),
    [
        (0.0, 2.0, ""),  # gone at the moment when the prompt has been read
        (0.0, 2.1, "tbt"),
        (1.9, 9.0, "tbt"),  # not there yet, but then
        (2.0, 9.0, "tbt"),
        (2.1, 9.0, ""),
        (-3.0, math.inf, "tbt"),
    ],
)
def test_the_load_is_that_of_the_moment_when_the_prompt_is_read(joins, leaves, found):
    assert ask([InFlight(2000, joins, leaves)]) == found


def test_decode_nodes_share_the_load():
    others = [InFlight(2000, 0.0, 9.0)] * 3
    assert ask(others, nodes=4, tbt_limit=0.01275) == ""  # 1 request and 1,750 tokens on each
    assert ask(others, nodes=4, tbt_limit=0.01274) == "tbt"


def overloaded(**options) -> Cluster:
    reads = StepCost(0.01, per_token=1e-4)
    writes = StepCost(0.01, per_request=2e-3)
    prompts = NodeConfig(SchedulerConfig(3000, 512, 2**17, 1), reads)
    answers = NodeConfig(SchedulerConfig(9000, 512, 2**17, 64), writes)
    config = ClusterConfig(4, prompts, 1, answers, kv_bytes=3e5)
    trace = conversation(400, 80, seed=2)
    return Cluster(replace(config, **options), trace).run()


def test_the_cluster_rejects_by_the_load_now_or_then():
    now = overloaded(ttft_limit=20.0, tbt_limit=0.05)
    then = overloaded(ttft_limit=20.0, tbt_limit=0.05, stay=10.0)
    for cluster in (now, then):
        assert {one.rejected for one in cluster.served} >= {"", "tbt"}
        assert not cluster.in_flight
        answered = [one for one in cluster.served if not one.rejected]
        assert np.isfinite([one.finished for one in answered]).all()
    assert [one.rejected for one in now.served] != [one.rejected for one in then.served]
    free = metrics.latencies(overloaded(), hand_over=False)
    strict = metrics.latencies(now, hand_over=False)
    assert np.nanmax(strict.worst_tbt) < np.nanmax(free.worst_tbt)


def test_gaps_with_and_without_the_hand_over():
    cluster = overloaded()
    whole, inner = metrics.latencies(cluster), metrics.latencies(cluster, hand_over=False)
    assert len(whole.gaps) == len(inner.gaps) + sum(r.request.output > 1 for r in cluster.served)
    assert np.array_equal(whole.ttft, inner.ttft)


def test_moments_and_transfers_are_noted():
    cluster = overloaded()
    moved = [one for one in cluster.served if one.decode >= 0]
    assert sum(t.size for t in cluster.network.transfers) == sum(
        p.bytes for p in cluster.network.out
    )
    for number, one in enumerate(cluster.served):
        begun = cluster.nodes[one.entry].begun[number]
        assert one.request.arrival <= begun < metrics.token_times(cluster, number)[0]
    for transfer in cluster.network.transfers:
        assert transfer.end - transfer.start == pytest.approx(transfer.size / 100e9)
    assert len(moved) <= len(cluster.network.transfers)


def test_break_even_by_hand():
    rate = 8 * 312e12
    speed = break_even_bandwidth(LLAMA2_70B, 0, 8192, rate)
    assert speed == pytest.approx(8192 * 327_680 / (prefill_flops(LLAMA2_70B, 8192) / rate))
    assert round(speed / 1e9) == 6  # 8 A800 without losses
    later = break_even_bandwidth(LLAMA2_70B, 8192, 16384, rate)
    assert later < speed  # tokens further back cost more to compute, and as many bytes


def test_hits_are_those_of_the_beginning():
    prompts = [[1, 2, 3], [1, 2, 4], [9, 2, 3], [1, 2, 3, 5]]
    assert prefix_hits(prompts) == [0, 2, 0, 3]
    assert prefix_hits(prompts, 3) == [0, 2, 0, 0]
    assert prefix_hits([[], [1], [1]], 1) == [0, 0, 1]
