"""The server on simulated time, goodput, and admission by predicted time to first token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.scheduling import SchedulerConfig
from course_utils.serving.admission import predicted_ttft
from course_utils.serving.simulated import SimulatedServer
from course_utils.serving.slo import RequestRecord, goodput, latencies
from course_utils.simulation.cluster import Cluster, ClusterConfig
from course_utils.simulation.costs import StepCost
from course_utils.simulation.metrics import token_times
from course_utils.simulation.node import NodeConfig
from course_utils.simulation.policies import least_loaded
from course_utils.simulation.workloads import TraceRequest, poisson

CONFIG = SchedulerConfig(num_blocks=64, block_size=16, max_tokens=64, max_requests=4)
COST = StepCost(base=0.01, per_token=0.001)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.integers(1, 150), st.integers(1, 20)), min_size=1, max_size=20
    )
)
def test_tokens_come_when_the_simulators_node_gives_them(rows):
    trace = [TraceRequest(*row) for row in sorted(rows)]
    records = SimulatedServer(CONFIG, COST).run(trace)
    node = NodeConfig(CONFIG, COST)
    cluster = Cluster(ClusterConfig(1, node, policy=least_loaded), trace).run()
    for number, record in enumerate(records):
        times = token_times(cluster, number)
        assert record.tokens == len(times) == trace[number].output
        assert (record.first, record.last) == pytest.approx((times[0], times[-1]))


def test_a_shared_prefix_is_not_read_again():
    first, second = TraceRequest(0, 40, 2, (1, 2, 3)), TraceRequest(5, 40, 2, (1, 2, 4))
    a, b = SimulatedServer(CONFIG, COST).run([first, second])
    assert (a.cached, b.cached) == (0, 32)
    assert latencies(b)[0] == pytest.approx(0.01 + 0.008)


def queue_of_3(prompt, cached, load, base, per_token):
    return load.waiting < 3


def test_refused_requests_are_recorded_and_the_others_served():
    trace = poisson(300, 40.0, input=32, output=20)
    records = SimulatedServer(CONFIG, COST, lambda prompt, cached, load, *_: load.waiting < 3).run(
        trace
    )
    counts = {status: [r.status for r in records].count(status) for status in (200, 429)}
    assert sum(counts.values()) == 300 and min(counts.values()) > 30
    assert all(r.tokens == (20 if r.status == 200 else 0) for r in records)


def test_past_the_knee_prediction_keeps_the_promise_that_a_queue_breaks():
    trace = poisson(400, 30.0, input=32, output=20)
    everybody = SimulatedServer(CONFIG, COST).run(trace)

    def in_time(*arguments):
        return predicted_ttft(*arguments) <= 0.4

    some = SimulatedServer(CONFIG, COST, in_time).run(trace)
    assert goodput(everybody, 0.5, 0.1) < 0.05 < 0.2 < goodput(some, 0.5, 0.1)


def test_an_idle_server_lets_in_what_it_can_answer_in_time():
    """An estimate that only served requests can correct must not refuse all of them."""
    trace = [TraceRequest(3.0 * number, 63 + number % 3, 3) for number in range(60)]

    def in_time(*arguments):
        return predicted_ttft(*arguments) <= 0.25

    records = SimulatedServer(CONFIG, COST, in_time).run(trace)
    assert all(record.status == 200 for record in records)


def record(due, first, last, tokens, status=200):
    return RequestRecord(due, due + 0.3, first, last, tokens, status)


def test_latencies_begin_when_a_request_is_due_and_gaps_are_one_fewer_than_tokens():
    assert latencies(record(1.0, 2.0, 2.9, 10)) == pytest.approx((1.0, 0.1))
    assert latencies(record(1.0, 2.0, 2.0, 1)) == (1.0, 0.0)
    assert latencies(record(1.0, None, None, 0, 429)) == (None, None)


def test_goodput_counts_everybody_who_asked():
    records = [record(0, 1, 2, 11), record(0, 3, 4, 11), record(0, 1, 9, 11)]
    records += [record(0, None, None, 0, 429), record(0, 1, 2, 11, 0)]
    assert goodput(records, 1.0, 0.1) == 0.2
    assert goodput(records, 3.0, 0.8) == 0.6
    with pytest.raises(ValueError, match="send at least one"):
        goodput([], 1, 1)


def test_a_load_test_with_few_connections_never_sees_the_queue():
    trace = poisson(200, 30.0, input=32, output=20)
    closed = SimulatedServer(CONFIG, COST).run(trace, connections=4)
    assert all(r.due <= r.sent <= r.first for r in closed)
    assert max(r.first - r.sent for r in closed) < 0.15
    assert max(latencies(r)[0] for r in closed) > 5
    assert closed[0].sent == closed[0].due


def test_as_many_connections_as_requests_are_an_open_loop():
    trace = poisson(60, 12.0, input=32, output=20)
    assert SimulatedServer(CONFIG, COST).run(trace, connections=60) == SimulatedServer(
        CONFIG, COST
    ).run(trace)
