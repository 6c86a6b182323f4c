"""A cluster: placement, fetching, rejection, roles, links, and results that repeat."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from course_utils.scheduling import SchedulerConfig
from course_utils.simulation import metrics
from course_utils.simulation.cluster import Cluster, ClusterConfig
from course_utils.simulation.costs import StepCost
from course_utils.simulation.links import Network
from course_utils.simulation.node import NodeConfig
from course_utils.simulation.policies import (
    Choice,
    Job,
    Option,
    always_fetch,
    cache_aware,
    least_loaded,
    mooncake,
    random_node,
)
from course_utils.simulation.workloads import TraceRequest, bursty, conversation

COST = StepCost(0.01, per_token=1e-4, per_context=1e-7)
NODE = NodeConfig(SchedulerConfig(3000, 512, 2**17, 32), COST)
READER = NodeConfig(SchedulerConfig(3000, 512, 2**17, 1), COST)
SPLIT = ClusterConfig(2, READER, 2, NODE, mooncake, kv_bytes=3e5, bandwidth=25e9)


def test_same_seed_same_result_whatever_the_order_of_ids():
    trace = conversation(120, 40, seed=1)
    renamed = [  # other numbers for the same blocks: dicts and sets iterate in another order
        replace(one, blocks=tuple(hash(str(block * 7919)) for block in one.blocks)) for one in trace
    ]
    for policy in (mooncake, random_node):
        config = replace(SPLIT, policy=policy, seed=3)
        first, second, other = (Cluster(config, t).run() for t in (trace, trace, renamed))
        ends = [[node.step_ends for node in cluster.nodes] for cluster in (first, second, other)]
        assert ends[0] == ends[1] == ends[2]
    again = Cluster(replace(SPLIT, policy=random_node, seed=4), trace).run()
    assert [one.entry for one in again.served] != [one.entry for one in first.served]


def test_little_and_conservation_in_a_split_cluster():
    trace = bursty(150, 6.0, 2.0, input=2000, output=40)
    cluster = Cluster(SPLIT, trace).run()
    stays = [one.finished - one.request.arrival for one in cluster.served]
    rate = len(trace) / cluster.events.now
    assert metrics.mean_inside(cluster) == pytest.approx(rate * np.mean(stays))
    read = sum(i.tokens for node in cluster.entries for i in node.intervals)
    written = sum(i.tokens * i.steps for node in cluster.decoders for i in node.intervals)
    assert read == 150 * 2000 and written == 150 * 39  # the first token is the prefill's
    moved = sum(port.bytes for port in cluster.network.out)
    assert moved == sum(port.bytes for port in cluster.network.into) == 150 * 2000 * 3e5
    for node, share in zip(cluster.nodes, metrics.utilisation(cluster), strict=True):
        busy = sum(i.end - i.start for i in node.intervals)
        assert share == pytest.approx(busy / cluster.events.now) and 0 < share <= 1
        for before, after in zip(node.intervals, node.intervals[1:], strict=False):
            assert before.end <= after.start


def test_one_request_by_hand():
    trace = [TraceRequest(1.0, 1000, 3)]
    cluster = Cluster(SPLIT, trace).run()
    read = 1.0 + 0.01 + 1000 * 1e-4 + 1000 * 1e-7
    moved = read + 1000 * 3e5 / 25e9
    first = moved + 0.01 + 1e-4 + 1001e-7
    second = first + 0.01 + 1e-4 + 1002e-7
    assert metrics.token_times(cluster, 0) == pytest.approx([read, first, second])
    found = metrics.latencies(cluster)
    assert found.ttft[0] == pytest.approx(read - 1.0)
    assert found.worst_tbt[0] == pytest.approx(first - read)
    assert metrics.goodput(found, 0.2, 0.03) == 1 and metrics.goodput(found, 0.1, 0.03) == 0
    assert metrics.goodput(found, 0.2, 0.02) == 0


def test_a_split_cluster_keeps_prompts_away_from_the_answers():
    trace = bursty(120, 5.0, 1.0, input=4000, output=60, seed=2)
    split = metrics.latencies(Cluster(SPLIT, trace).run())
    both = ClusterConfig(4, NODE, policy=least_loaded)
    mixed = metrics.latencies(Cluster(both, trace).run())
    assert np.nanmedian(mixed.worst_tbt) > 3 * np.nanmedian(split.worst_tbt)


def test_a_repeated_prompt_is_read_once_and_fetched_where_it_is_missing():
    prompt = tuple(range(20))
    trace = [TraceRequest(moment, 20 * 512, 1, prompt) for moment in (0.0, 10.0, 10.0)]
    local = Cluster(replace(SPLIT, policy=cache_aware), trace).run()
    assert [one.entry for one in local.served] == [0, 0, 0]
    assert [one.cached for one in local.served] == [0, 19 * 512, 19 * 512]
    shared = Cluster(SPLIT, trace).run()
    assert [one.entry for one in shared.served] == [0, 0, 0]
    slow = replace(COST, base=5.0)  # a queue is worth avoiding
    busy = replace(SPLIT, entry_node=replace(READER, cost=slow))
    spread = Cluster(busy, [replace(one, arrival=2 * one.arrival) for one in trace]).run()
    assert [one.entry for one in spread.served] == [0, 0, 1]
    assert [one.fetched for one in spread.served] == [0, 0, 20 * 512]
    assert metrics.cached_share(spread) > 0.6


def test_early_rejection_keeps_what_is_accepted_within_the_limit():
    trace = bursty(200, 8.0, 2.0, input=8000, output=20)
    free = Cluster(SPLIT, trace).run()
    strict = Cluster(replace(SPLIT, ttft_limit=1.5), trace).run()
    turned_away = [one for one in strict.served if one.rejected]
    assert 0 < len(turned_away) < 200 and {one.rejected for one in turned_away} == {"ttft"}
    ttft = metrics.latencies(strict).ttft
    assert np.nanmax(ttft) <= 1.5 + 1e-9 and np.isnan(ttft).sum() == len(turned_away)
    limits = {"ttft": 1.5, "tbt": 1.0}
    before = metrics.goodput(metrics.latencies(free), **limits)
    assert metrics.goodput(metrics.latencies(strict), **limits) > before
    decode = Cluster(replace(SPLIT, tbt_limit=0.0112), trace).run()
    assert {one.rejected for one in decode.served} == {"", "tbt"}


def test_transfers_queue_at_both_ends():
    network = Network(3, bandwidth=100.0, latency=0.5)
    assert network.send(0.0, 0, 1, 200) == 2.5
    assert network.send(1.0, 0, 2, 100) == 3.5  # the sender is busy until 2
    assert network.send(1.0, 2, 1, 100) == 3.5  # so is the receiver
    assert network.arrives(1.0, 1, 0, 100) == 2.5  # other directions are free
    assert network.out[0].busy == 3.0
    with pytest.raises(ValueError, match="bandwidth 0 must be above 0"):
        Network(2, 0)


def test_less_bandwidth_costs_more_than_its_share_once_transfers_queue():
    trace = bursty(150, 8.0, 1.0, input=4000, output=10)
    gaps, reader = [], replace(READER, cost=StepCost(per_token=1e-5))
    for bandwidth in (1e11, 1e10, 5e9):
        config = replace(SPLIT, entry_node=reader, bandwidth=bandwidth)
        cluster = Cluster(config, trace).run()
        gaps.append(np.nanmean(metrics.latencies(cluster).worst_tbt))
    assert gaps[2] - gaps[0] > 2 * 4000 * 3e5 / 5e9 and gaps[0] < gaps[1] < gaps[2]


JOB = Job(1000, lambda cached: (1000 - cached) / 100, lambda source, node, tokens: tokens / 500)
OPTIONS = [Option(0, 9.0, 900), Option(1, 2.0, 100), Option(2, 0.5, 0)]


def test_policies_weigh_what_they_say():
    rng = Random(0)
    assert least_loaded(JOB, OPTIONS, rng) == Choice(2, 10.5, 0)
    assert cache_aware(JOB, OPTIONS, rng) == Choice(0, 10.0, 900)
    fetched = mooncake(JOB, OPTIONS, rng)
    assert fetched == Choice(2, 1.8 + 1.0, 0, source=0, fetched=900)
    assert mooncake(JOB, OPTIONS, rng, threshold=float("inf")) == Choice(0, 10.0, 900)
    assert always_fetch(JOB, OPTIONS, rng) == fetched
    far = Job(JOB.tokens, JOB.prefill, lambda source, node, tokens: 60.0)
    assert mooncake(far, OPTIONS, rng) == cache_aware(JOB, OPTIONS, rng)
    assert always_fetch(far, OPTIONS, rng).ttft == 61.0
    seen = {random_node(JOB, OPTIONS, rng).node for _ in range(50)}
    assert seen == {0, 1, 2}


def test_bad_clusters_are_named():
    with pytest.raises(ValueError, match="0 entry"):
        ClusterConfig(0, NODE)
    with pytest.raises(ValueError, match="give its NodeConfig"):
        ClusterConfig(1, NODE, 2)
    with pytest.raises(ValueError, match="give the entry nodes the trace's block_size"):
        Cluster(ClusterConfig(1, NODE), [TraceRequest(0, 1000, 1, (1, 2, 3))]).run()
    with pytest.raises(ValueError, match="give the cache more blocks"):
        Cluster(ClusterConfig(1, NODE), [TraceRequest(0, 2_000_000, 1)]).run()
