"""Costs: additive chunks, steady steps equal to single ones, fits that predict."""

import numpy as np
import pytest

from course_utils.scheduling import Request, Scheduler, SchedulerConfig
from course_utils.simulation.costs import (
    LLAMA2_70B,
    Roofline,
    StepCost,
    Work,
    chunk_work,
    decode_cost,
    fit_cost,
    node_cost,
    prefill_cost,
    prefill_flops,
    steady_work,
    work_of,
)


def test_prefill_in_chunks_costs_what_it_costs_at_once():
    cost = prefill_cost(LLAMA2_70B, 1e15, 0.5)
    chunks = [chunk_work(start, 1000) for start in range(0, 5000, 1000)]
    assert sum(map(cost.seconds, chunks)) == pytest.approx(cost.seconds(chunk_work(0, 5000)))
    flops = prefill_flops(LLAMA2_70B, 5000, 3000)
    assert cost.seconds(chunk_work(3000, 2000)) == pytest.approx(flops / 5e14)
    assert prefill_flops(LLAMA2_70B, 1) == 80 * (4 * 8192 + 22 * 8192**2)


def test_steady_work_is_that_of_the_plans():
    scheduler = Scheduler(SchedulerConfig(50, 4, 64))
    for number, length in enumerate((3, 9, 14)):
        scheduler.add(Request(number, length, length + 10))
    plan = scheduler.plan()
    scheduler.done(plan)
    for chunk in plan.chunks:
        scheduler.grow(chunk.request)
    many = steady_work(scheduler.running, 5)
    for step in range(5):
        plan = scheduler.plan()
        one = work_of(plan)
        assert (one.context, one.squares) == (many.context[step], many.squares[step])
        assert (one.tokens, one.requests) == (many.tokens, many.requests)
        scheduler.done(plan)
        for chunk in plan.chunks:
            scheduler.grow(chunk.request)


def test_decode_reads_the_weights_and_the_context():
    cost = decode_cost(LLAMA2_70B, 1e12, efficiency=0.5, overhead=0.001)
    seconds = cost.seconds(Work(8, 8, 10_000, 0))
    assert seconds == pytest.approx(0.001 + (138e9 + 10_000 * 327_680) / 5e11)


def test_a_roofline_is_the_longer_of_both():
    roof = Roofline(StepCost(per_token=1.0), StepCost(base=4.0))
    assert [roof.seconds(Work(tokens)) for tokens in (1, 4, 9)] == [4, 4, 9]
    summed = Roofline(StepCost(per_token=1.0), StepCost(base=4.0), overlap=False)
    assert [summed.seconds(Work(tokens)) for tokens in (1, 4, 9)] == [5, 8, 13]
    assert summed.scaled(2.0).seconds(Work(1)) == 10
    cost = node_cost(LLAMA2_70B, 1e15, 1e13, 0.5, 0.8, 0.0)
    assert cost.seconds(chunk_work(0, 8000)) == cost.compute.seconds(chunk_work(0, 8000))
    assert cost.seconds(chunk_work(8000, 1)) == cost.memory.seconds(chunk_work(8000, 1))


def draw(seed: int, tokens: int) -> list[Work]:
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, [tokens, 16, 4000, 2_000_000], size=(60, 4))
    return [Work(*map(int, row)) for row in rows]


def test_a_fit_predicts_another_workload():
    true, rng = StepCost(2e-3, 3e-5, 1e-4, 2e-7, 4e-10), np.random.default_rng(0)
    noisy = [true.seconds(work) * rng.normal(1, 0.02) for work in draw(1, 200)]
    fitted = fit_cost(draw(1, 200), noisy)
    other = draw(2, 600)
    errors = [fitted.seconds(work) / true.seconds(work) - 1 for work in other]
    assert max(map(abs, errors)) < 0.06
    exact = fit_cost(draw(1, 200), [true.seconds(work) for work in draw(1, 200)])
    assert exact.per_square == pytest.approx(true.per_square)


def test_a_fit_leaves_out_what_would_be_negative():
    works = draw(3, 100)
    seconds = [0.01 + 1e-4 * work.tokens - 1e-5 * work.requests for work in works]
    fitted = fit_cost(works, seconds)
    assert fitted.per_request == 0 and fitted.per_token == pytest.approx(1e-4, rel=0.05)


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="per_token is -1"):
        StepCost(per_token=-1)
    with pytest.raises(ValueError, match=r"mfu is 1\.2"):
        prefill_cost(LLAMA2_70B, 1e15, 1.2)
    with pytest.raises(ValueError, match="efficiency is 0"):
        decode_cost(LLAMA2_70B, 1e12, 0)
    with pytest.raises(ValueError, match="2 steps with 1 times"):
        fit_cost(draw(1, 10)[:2], [1.0])
