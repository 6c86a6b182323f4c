"""Seconds fitted to steps, the predicted time to first token against what comes, and refusals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.scheduling import Request, Scheduler, SchedulerConfig, block_keys
from course_utils.serving import Admission, Load, StepTimes, load_of, predicted_ttft
from course_utils.simulation.costs import StepCost, work_of

COST = StepCost(base=0.02, per_token=0.001)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 1), st.floats(1e-5, 0.1), st.lists(st.integers(1, 600), min_size=2, max_size=30)
)
def test_a_straight_line_is_found(base, per_token, tokens):
    times = StepTimes()
    for count in tokens:
        times.observe(count, base + per_token * count)
    found = times.fit()
    if len(set(tokens)) > 1:
        assert found == pytest.approx((base, per_token), rel=1e-3, abs=1e-5)
    assert sum(found) > 0 and min(found) >= 0


def test_old_steps_are_forgotten_and_nothing_is_below_zero():
    times = StepTimes()
    assert times.fit() == (0, 0)
    for seconds in (1.0,) * 50 + (0.01,) * 500:
        times.observe(10, seconds)
    assert times.fit() == pytest.approx((0, 0.001), rel=0.01)
    falling = StepTimes()
    falling.observe(1, 0.5)
    falling.observe(100, 0.1)
    base, per_token = falling.fit()
    assert per_token == 0 and 0.1 < base < 0.5


@pytest.mark.parametrize(
    ("prompt", "cached", "load", "seconds"),
    [
        (100, 0, Load(budget=512, free=4), 0.12),
        (100, 96, Load(budget=512, free=4), 0.024),  # cached tokens are no work
        (1000, 0, Load(budget=500, free=4), 1.04),  # two steps
        (100, 0, Load(budget=512, unread=300, running=(9,), free=3), 0.02 + 0.001 + 0.4),
        (10, 0, Load(budget=512, running=(7, 5)), 5 * 0.022 + 0.022 + 0.01),  # the first to end
        (10, 0, Load(budget=512, running=(7, 5), waiting=1), 7 * 0.022 + 0.022 + 0.01),
        (10, 0, Load(budget=512, running=(7, 5), waiting=2), 12 * 0.022 + 0.022 + 0.01),
    ],
)
def test_what_is_ahead_is_counted(prompt, cached, load, seconds):
    found = predicted_ttft(prompt, cached, load, COST.base, COST.per_token)
    assert found == pytest.approx(seconds)


def request(number: int, prompt: int, answer: int) -> Request:
    return Request(number, prompt, prompt + answer)


def run_until_first_token(scheduler: Scheduler, wanted: Request) -> float:
    """Seconds until the first token of a request that was just added; answers have full length."""
    now = 0.0
    while True:
        plan = scheduler.plan()
        now += COST.seconds(work_of(plan))
        scheduler.done(plan)
        for chunk in plan.chunks:
            if not chunk.last:
                continue
            if chunk.request is wanted:
                return now
            scheduler.grow(chunk.request)
            if chunk.request.known == chunk.request.limit:
                scheduler.finish(chunk.request)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(2, 60)), max_size=12),
    st.integers(1, 300),
    st.integers(0, 40),
)
def test_the_prediction_is_near_what_comes(others, prompt, steps):
    """Within a factor: turns of later requests in the queue are not played through."""
    config = SchedulerConfig(4000, max_tokens=256, max_requests=4, prefix_cache=False)
    scheduler = Scheduler(config)
    for number, (length, answer) in enumerate(others):
        scheduler.add(request(number, length, answer))
    for _ in range(steps):
        plan = scheduler.plan()
        scheduler.done(plan)
        for chunk in plan.chunks:
            if chunk.last:
                scheduler.grow(chunk.request)
                if chunk.request.known == chunk.request.limit:
                    scheduler.finish(chunk.request)
    load = load_of(scheduler)
    predicted = predicted_ttft(prompt, 0, load, COST.base, COST.per_token)
    wanted = request(99, prompt, 5)
    scheduler.add(wanted)
    real = run_until_first_token(scheduler, wanted)
    if load.free and not load.waiting and not load.unread:  # read at once
        assert predicted == pytest.approx(real, abs=COST.per_token * 3 * len(load.running) + 1e-9)
    elif not load.waiting:  # waits for nobody but those who run
        assert 0.5 * real - 0.05 < predicted < 2 * real + 0.05


def test_refusals_name_the_reason_and_nobody_inside_means_welcome():
    scheduler = Scheduler(SchedulerConfig(100, 4, max_requests=1))
    admission = Admission(max_queue=1, max_ttft=1.0, predict=lambda *_: 3.5)
    assert admission.refuse(scheduler, [[1, 2]]) is None
    scheduler.add(request(0, 8, 8))
    refusal = admission.refuse(scheduler, [[1, 2]])
    assert "after 3.5 s, and 1 s is the limit" in refusal.message and refusal.retry_after == 3
    admission.max_ttft = None
    scheduler.done(scheduler.plan())
    assert admission.refuse(scheduler, [[1, 2]]) is None
    refusal = admission.refuse(scheduler, [[1, 2]] * 2)
    assert "the queue is full (0 wait, 1 may)" in refusal.message and refusal.retry_after == 4


def test_cached_tokens_lower_the_prediction():
    scheduler, asked = Scheduler(SchedulerConfig(100, 4)), []
    admission = Admission(predict=lambda prompt, cached, *_: asked.append((prompt, cached)) or 0.0)
    prompt = list(range(10))
    scheduler.add(Request(0, 10, 12, block_keys(prompt, 4)))
    scheduler.done(scheduler.plan())
    assert admission.refuse(scheduler, [[*prompt, 7]]) is None
    assert admission.refuse(scheduler, [[5, *prompt]]) is None
    assert asked == [(11, 8), (11, 0)]
