"""Chapter 18: right answers in other styles pass, and mistakes as learners type them are named."""

import math

import numpy as np
import pytest

from course_utils.exercises import catalog
from course_utils.exercises.judge import judge, prepare
from course_utils.simulation.costs import Work
from course_utils.simulation.policies import Choice

_tasks: dict = {}


def judged(name: str, answer, seed: int = 0):
    """The verdict on an answer to c18.name."""
    if (name, seed) not in _tasks:
        _tasks[name, seed] = prepare(catalog.find(f"c18.{name}"), seed)
    return judge(_tasks[name, seed], answer)


# ---- right answers in other styles


def wait_by_second_moment(rate, service, variation):
    if min(rate, service) <= 0 or rate * service >= 1:
        raise ValueError("the queue has no mean wait")
    second = service**2 * (1 + variation**2)
    return rate * second / (2 * (1 - rate * service))


def goodput_by_loop(found, ttft, tbt):
    kept = 0
    for first, worst in zip(found.ttft, found.worst_tbt, strict=True):
        kept += not math.isnan(first) and first <= ttft and (math.isnan(worst) or worst <= tbt)
    return kept / len(found.ttft)


def goodput_by_filling(found, ttft, tbt):
    first = np.nan_to_num(found.ttft, nan=np.inf)
    return np.logical_and(first <= ttft, np.nan_to_num(found.worst_tbt, nan=0.0) <= tbt).mean()


def bandwidth_by_hand(model, start, end, flops):
    attention = model.a * (end**2 - start**2) * model.hidden
    matrices = model.b * (end - start) * model.hidden**2
    seconds = model.layers * (attention + matrices) / flops
    return (end - start) * model.kv_bytes / seconds


def hits_by_list(prompts, capacity=None):
    recent, hits = [], []
    for prompt in prompts:
        found = 0
        while found < len(prompt) and prompt[found] in recent:
            found += 1
        hits.append(found)
        recent = [block for block in recent if block not in prompt] + list(prompt)
        if capacity is not None:
            recent = recent[max(0, len(recent) - capacity) :]
    return hits


def hits_by_clock(prompts, capacity=None):
    used, now, hits = {}, 0, []
    for prompt in prompts:
        hits.append(next((n for n, block in enumerate(prompt) if block not in used), len(prompt)))
        for block in prompt:
            now += 1
            used[block] = now
        while capacity is not None and len(used) > capacity:
            del used[min(used, key=used.get)]
    return hits


def policy_by_loop(job, options, rng):
    best = None
    for option in options:
        ttft = option.wait + job.prefill(option.cached)
        if best is None or ttft < best.ttft or (ttft == best.ttft and option.node < best.node):
            best = Choice(option.node, ttft, option.cached)
    return best


def rejection_by_loop(ttft, tokens, in_flight, nodes, cost, ttft_limit, tbt_limit):
    size, context = 1, tokens
    for one in in_flight:
        if ttft >= one.joins and ttft < one.leaves:
            size, context = size + 1, context + one.tokens
    work = Work(size / nodes, size / nodes, context / nodes, 2 * context / nodes)
    if ttft > ttft_limit:
        return "ttft"
    return "" if cost.seconds(work) <= tbt_limit else "tbt"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("mg1_wait", wait_by_second_moment),
        ("goodput", goodput_by_loop),
        ("goodput", goodput_by_filling),
        ("break_even_bandwidth", bandwidth_by_hand),
        ("prefix_hits", hits_by_list),
        ("prefix_hits", hits_by_clock),
        ("cache_aware", policy_by_loop),
        ("early_rejection", rejection_by_loop),
    ],
)
def test_right_answers_in_other_styles_pass(name, answer):
    for seed in (0, 1):
        verdict = judged(name, answer, seed)
        assert verdict.passed, verdict


# ---- mistakes as learners type them


def wait_in_rates(rate, service, variation):
    mu = 1 / service
    if rate >= mu or rate <= 0:
        raise ValueError("unstable")
    return rate / (mu * (mu - rate))  # the M/M/1 formula of every textbook


def hits_without_order(prompts, capacity=None):
    seen, hits = {}, []
    for prompt in prompts:
        hits.append(len([block for block in prompt if block in seen]))
        for block in prompt:
            seen.pop(block, None)
            seen[block] = True
        while capacity is not None and len(seen) > capacity:
            del seen[next(iter(seen))]
    return hits


def hits_by_insertion(prompts, capacity=None):
    seen, hits = {}, []
    for prompt in prompts:
        hits.append(next((n for n, block in enumerate(prompt) if block not in seen), len(prompt)))
        for block in prompt:
            seen[block] = True
        while capacity is not None and len(seen) > capacity:
            del seen[next(iter(seen))]
    return hits


def policy_of_prefixes(job, options, rng):
    best = sorted(options, key=lambda option: option.cached, reverse=True)[0]
    return Choice(best.node, best.wait + job.prefill(best.cached), best.cached)


def rejection_of_the_present(ttft, tokens, in_flight, nodes, cost, ttft_limit, tbt_limit):
    if ttft > ttft_limit:
        return "ttft"
    now = [one for one in in_flight if one.joins <= 0 and one.leaves > 0]
    size = (len(now) + 1) / nodes
    context = (sum(one.tokens for one in now) + tokens) / nodes
    return "tbt" if cost.seconds(Work(size, size, context, 2 * context)) > tbt_limit else ""


@pytest.mark.parametrize(
    ("name", "answer", "mistake"),
    [
        ("mg1_wait", wait_in_rates, "always exponential"),
        ("prefix_hits", hits_without_order, "blocks anywhere"),
        ("prefix_hits", hits_by_insertion, "first in, first out"),
        ("cache_aware", policy_of_prefixes, "the longest prefix"),
        ("early_rejection", rejection_of_the_present, "by the load now"),
    ],
)
def test_mistakes_as_learners_type_them_are_named(name, answer, mistake):
    verdict = judged(name, answer)
    assert not verdict.passed
    assert verdict.mistake is not None and verdict.mistake.name == mistake
