"""One node: queueing theory, work conservation, and many steps at once equal to one by one."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.scheduling import SchedulerConfig
from course_utils.simulation import metrics
from course_utils.simulation.cluster import Cluster, ClusterConfig
from course_utils.simulation.costs import Roofline, StepCost
from course_utils.simulation.node import NodeConfig
from course_utils.simulation.policies import least_loaded, mooncake, random_node
from course_utils.simulation.queueing import md1_wait, mm1_wait
from course_utils.simulation.workloads import TraceRequest, poisson

ARRIVALS, RATE, SERVICE = 8000, 0.7, 1.0
SERVER = NodeConfig(SchedulerConfig(1, 2**20, 2**20, 1), StepCost(per_token=1e-4))


def wait_bound(rate: float, service: float, arrivals: int) -> float:
    """Three standard errors (s) of the mean wait over so many arrivals to an M/M/1 queue.

    Waits of neighbours resemble each other: the variance of the mean of n waits tends to
    service^2 load (2 + 5 load - 4 load^2 + load^3) / ((1 - load)^4 n) (Daley 1968). M/D/1's is
    smaller, so that the bound holds for both.
    """
    load = rate * service
    variance = load * (2 + 5 * load - 4 * load**2 + load**3) / (1 - load) ** 4
    return 3 * service * math.sqrt(variance / arrivals)


@cache
def queue(exponential: bool) -> Cluster:
    """One server; a prompt of 10,000 tokens takes a second, an answer is one token."""
    trace = poisson(ARRIVALS, RATE, input=10_000, output=1, seed=1)
    if exponential:
        lengths = np.random.default_rng(2).exponential(10_000, ARRIVALS)
        trace = [
            replace(request, input=1 + int(length))
            for request, length in zip(trace, lengths, strict=True)
        ]
    config = ClusterConfig(1, SERVER)
    return Cluster(config, trace).run()


@pytest.mark.parametrize(("exponential", "theory"), [(True, mm1_wait), (False, md1_wait)])
def test_waits_are_those_of_queueing_theory(exponential, theory):
    cluster = queue(exponential)
    stay = np.array([one.finished - one.request.arrival for one in cluster.served])
    service = np.array([one.request.input for one in cluster.served]) * 1e-4
    wait = (stay - service).mean()
    assert abs(wait - theory(RATE, SERVICE)) < wait_bound(RATE, SERVICE, ARRIVALS)
    assert mm1_wait(RATE, SERVICE) > md1_wait(RATE, SERVICE) + wait_bound(RATE, SERVICE, ARRIVALS)
    rate = ARRIVALS / cluster.events.now
    assert metrics.mean_inside(cluster) == pytest.approx(rate * stay.mean(), rel=1e-9)
    assert metrics.utilisation(cluster)[0] == pytest.approx(service.sum() / cluster.events.now)


def test_server_never_rests_while_somebody_waits():
    cluster = queue(True)
    free = 0.0
    for one in cluster.served:  # in the order of arrival: the textbook's recursion
        free = max(free, one.request.arrival) + one.request.input * 1e-4
        assert one.finished == pytest.approx(free, rel=1e-9)


def test_unstable_queues_have_no_wait():
    with pytest.raises(ValueError, match=r"load 1.000 is not below 1: lower the rate"):
        mm1_wait(1.0, 1.0)
    with pytest.raises(ValueError, match="rate 0"):
        md1_wait(0, 1.0)


COST = Roofline(StepCost(0.003, 1e-3, 1e-4, 0, 1e-7), StepCost(0.01, per_context=1e-5))
ONE = st.tuples(
    st.integers(0, 12), st.integers(1, 40), st.integers(1, 25), st.integers(0, 2)
)  # arrival in hundredths of a second: ties with each other and with the ends of steps
WORK = st.lists(ONE, min_size=1, max_size=12)


def trace_of(work: list[tuple]) -> list[TraceRequest]:
    trace = []
    for number, (moment, tokens, output, text) in enumerate(sorted(work)):
        full, rest = divmod(tokens, 4)
        blocks = tuple(100 * text + index for index in range(full))
        blocks += (1000 + number,) if rest else ()
        trace.append(TraceRequest(moment / 100, tokens, output, blocks))
    return trace


@settings(max_examples=60, deadline=None)
@given(
    WORK,
    st.integers(0, 2),
    st.sampled_from([least_loaded, mooncake, random_node]),
    st.sampled_from([StepCost(0.01), COST]),
    st.integers(17, 40),
    st.sampled_from([1e5, math.inf]),
    st.sampled_from([math.inf, 0.1]),
)
def test_many_steps_at_once_equal_one_by_one(work, decode, policy, cost, blocks, bandwidth, limit):
    node = NodeConfig(SchedulerConfig(blocks, 4, 24, 4, 9), cost)
    config = ClusterConfig(
        2, node, decode, node, policy, kv_bytes=100.0, bandwidth=bandwidth, ttft_limit=limit, seed=5
    )
    one, many = (Cluster(config, trace_of(work), fast).run() for fast in (False, True))
    assert one.served == many.served
    for slow, fast in zip(one.nodes, many.nodes, strict=True):
        assert slow.step_ends == fast.step_ends and slow.spans == fast.spans
    for number, request in enumerate(trace_of(work)):
        times = metrics.token_times(many, number)
        if many.served[number].rejected:
            assert len(times) == 0
            continue
        assert len(times) == request.output and (np.diff(times) > 0).all()
        assert times[-1] == many.served[number].finished
    assert all(node.scheduler.pool.used == 0 for node in many.nodes)
    assert not any(node.assigned or node.reserved for node in many.nodes)


def test_steps_taken_at_once_are_few_events():
    node = NodeConfig(SchedulerConfig(1000, 16, 512, 8), COST)
    cluster = Cluster(ClusterConfig(1, node), [TraceRequest(0, 100, 5000)]).run()
    assert len(cluster.nodes[0].step_ends) == 5000
    assert len(cluster.nodes[0].intervals) <= 3
