"""The load test over HTTP: what it sends, when, and what its records say."""

import asyncio
import statistics
from itertools import pairwise

import pytest
from server_common import ended

from course_utils.scheduling import SchedulerConfig
from course_utils.serving import MockBackend, prompt_of, run_load
from course_utils.serving.slo import goodput, latencies
from course_utils.simulation.costs import StepCost
from course_utils.simulation.workloads import TraceRequest, poisson


def test_every_request_has_its_record(mock_server):
    trace = poisson(20, 400.0, input=40, output=6, seed=1)
    records = run_load(mock_server.base_url, trace)
    assert [record.due for record in records] == [request.arrival for request in trace]
    assert [(record.status, record.tokens) for record in records] == [(200, 6)] * 20
    for record in records:
        assert record.due <= record.sent < record.first <= record.last
    assert goodput(records, 60.0, 60.0) == 1


def test_equal_block_ids_are_equal_tokens_and_are_cached(mock_server):
    trace = [TraceRequest(0.0, 70, 2, (1, 2, 3)), TraceRequest(0.3, 90, 2, (1, 2, 4))]
    first, second = (prompt_of(request, 0, block=32) for request in trace)
    assert (len(first), len(second)) == (70, 90)
    assert first[:64] == second[:64] and first[64:] != second[64:70]
    assert prompt_of(trace[0], 0, seed=1, block=32)[:32] != first[:32]
    own = TraceRequest(0.0, 70, 2)
    assert prompt_of(own, 0) == prompt_of(own, 0) != prompt_of(own, 1)
    records = run_load(mock_server.base_url, trace, block=32, seed=5)
    assert [record.cached for record in records] == [0, 64]


def test_a_closed_loop_waits_its_turn_and_the_waiting_is_counted(serve):
    """50 ms a step, 3 steps an answer, one slot: an open loop queues, a closed one sends late."""
    backend = MockBackend(StepCost(base=0.05), SchedulerConfig(200, max_requests=1))
    server = serve(backend)
    trace = [TraceRequest(0.0, 8, 3) for _ in range(4)]
    closed = run_load(server.base_url, trace, connections=1)
    opened = run_load(server.base_url, trace)
    in_order = sorted(closed, key=lambda record: record.sent)
    for before, after in pairwise(in_order):
        assert after.sent >= before.last
    assert max(record.sent for record in opened) < max(record.last for record in opened)
    late = statistics.fmean(record.sent - record.due for record in closed)
    waited = statistics.fmean(latencies(record)[0] for record in closed)
    from_sending = statistics.fmean(record.first - record.sent for record in closed)
    assert waited - from_sending == pytest.approx(late) and late > 0.1


def test_refusals_and_cut_answers_are_records_too(serve):
    slots = SchedulerConfig(1000, max_requests=1)
    server = serve(MockBackend(StepCost(base=0.01), slots), max_queue=0, timeout=0.5)
    records = run_load(server.base_url, [TraceRequest(0.0, 8, 900), TraceRequest(0.2, 8, 2)])
    assert [record.status for record in records] == [504, 429]
    assert latencies(records[1]) == (None, None) and goodput(records, 9.0, 9.0) == 0
    assert ended(server) == {"finished": 0, "cancelled": 0, "refused": 1, "failed": 1}
    server.stop()
    assert run_load(server.base_url, [TraceRequest(0.0, 8, 2)])[0].status == 0


def test_it_works_inside_a_running_event_loop(mock_server):
    async def notebook():
        return run_load(mock_server.base_url, [TraceRequest(0.0, 8, 2)])

    assert asyncio.run(notebook())[0].status == 200
    with pytest.raises(ValueError, match="the trace is empty"):
        run_load(mock_server.base_url, [])
