"""Workloads: formats, generators, hit ratios, and the statistics that the default is held to."""

import json
from collections import Counter

import numpy as np
import pytest

from course_utils.simulation.prefix_study import hit_ratio
from course_utils.simulation.workloads import (
    BLOCK,
    TraceRequest,
    azure_trace,
    bursty,
    conversation,
    load_workload,
    mooncake_trace,
    poisson,
)

HIT_RATIOS = {  # by capacity in blocks: share of all blocks; the last by token
    "conversation_trace": (0.0445, 0.2112, 0.3257, 0.3546, 0.3637, 0.3664, 0.3736),
    "synthetic_trace": (0.0825, 0.4235, 0.6242, 0.6396, 0.6396, 0.6396, 0.6512),
}
CAPACITIES = (1_000, 10_000, 30_000, 50_000, 100_000, None)


@pytest.fixture(scope="module")
def generated() -> list[TraceRequest]:
    return conversation()


@pytest.mark.parametrize("name", HIT_RATIOS)
def test_hit_ratios_of_the_released_traces(name, request):
    trace = request.getfixturevalue(name)
    found = [hit_ratio(trace, capacity) for capacity in CAPACITIES]
    ratios = [*(one.by_block for one in found), found[-1].by_token]
    assert ratios == pytest.approx(HIT_RATIOS[name], abs=5.1e-5)


def test_released_traces_are_the_published_ones(conversation_trace, synthetic_trace):
    for trace, size, inputs, outputs in [
        (conversation_trace, 12_031, 12_035, 343),
        (synthetic_trace, 3_993, 15_325, 149),
    ]:
        assert len(trace) == size
        assert int(np.mean([one.input for one in trace])) == inputs
        assert round(np.mean([one.output for one in trace])) == outputs
        assert all(len(one.blocks) == -(-one.input // BLOCK) for one in trace)


def test_default_has_the_statistics_of_the_conversation_trace(generated):
    inputs = np.array([one.input for one in generated])
    outputs = np.array([one.output for one in generated])
    blocks = [block for one in generated for block in one.blocks]
    assert len(generated) == 12_031 and inputs.min() >= 891
    assert inputs.mean() == pytest.approx(12_035, rel=0.06)
    assert np.median(inputs) == pytest.approx(6_909, rel=0.06)
    assert outputs.mean() == pytest.approx(343, rel=0.03)
    assert np.median(outputs) == pytest.approx(350, rel=0.03)
    assert len(blocks) == pytest.approx(288_500, rel=0.06)
    assert len(set(blocks)) == pytest.approx(182_790, rel=0.06)
    assert generated[-1].arrival == pytest.approx(3_537, abs=6)
    for capacity, published in zip(CAPACITIES, HIT_RATIOS["conversation_trace"][:-1], strict=True):
        assert hit_ratio(generated, capacity).by_block == pytest.approx(published, abs=0.025)


def test_generated_blocks_are_chained(generated):
    before: dict[int, int] = {}
    for one in generated:
        assert len(one.blocks) == -(-one.input // BLOCK)
        for first, second in zip(one.blocks, one.blocks[1:], strict=False):
            assert before.setdefault(second, first) == first


def test_generators_are_seeded():
    assert conversation(200, 60, seed=4) == conversation(200, 60, seed=4)
    assert conversation(200, 60, seed=4) != conversation(200, 60, seed=5)
    assert bursty(50, 2.0, 3.0, seed=1) == bursty(50, 2.0, 3.0, seed=1)


@pytest.mark.parametrize("variation", [0.5, 1.0, 3.0])
def test_arrivals_have_the_rate_and_the_burstiness_asked_for(variation):
    trace = bursty(20_000, 4.0, variation)
    gaps = np.diff([one.arrival for one in trace])
    assert gaps.mean() == pytest.approx(0.25, abs=4 * variation * 0.25 / np.sqrt(20_000))
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.1)
    assert poisson(10, 4.0) == bursty(10, 4.0, 1.0)


def test_lru_agrees_with_a_list(generated):
    trace, recent, hits = generated[:300], [], 0
    for one in trace:
        for block in one.blocks:
            if block not in recent:
                break
            hits += 1
        recent = [block for block in recent if block not in set(one.blocks)] + list(one.blocks)
        recent = recent[-400:]
    blocks = sum(len(one.blocks) for one in trace)
    assert hit_ratio(trace, 400).by_block == hits / blocks


def test_mooncake_format(tmp_path):
    rows = [(3000, 600, 5, [0, 2]), (1500, 512, 1, [0])]
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    assert mooncake_trace(path) == [
        TraceRequest(1.5, 512, 1, (0,)),
        TraceRequest(3.0, 600, 5, (0, 2)),
    ]
    path.write_text('{"timestamp": 1}\n')
    with pytest.raises(ValueError, match=r"line 1: KeyError\('input_length'\); a line has"):
        mooncake_trace(path)


def test_azure_format(tmp_path):
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.2299600,3180,8\n"
    )
    assert azure_trace(path) == [TraceRequest(0.0, 4808, 10), TraceRequest(0.25, 3180, 8)]
    path.write_text("time,in,out\n1,2,3\n")
    with pytest.raises(ValueError, match=r"line 2: .*columns are TIMESTAMP"):
        azure_trace(path)


def test_a_workload_is_told_by_its_path(tmp_path):
    lines = tmp_path / "one.jsonl"
    lines.write_text('{"timestamp": 0, "input_length": 9, "output_length": 5}')
    assert load_workload(lines) == mooncake_trace(str(lines))
    table = tmp_path / "two.csv"
    table.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,40,5\n")
    assert load_workload(str(table)) == [TraceRequest(0.0, 40, 5)]
    made = load_workload(requests=300, seed=2)
    assert made == conversation(300, 300 * 3_537 / 12_031, 2)  # the rate of the trace


def test_bad_numbers_are_named():
    with pytest.raises(ValueError, match="0 tokens in"):
        TraceRequest(0, 0, 1)
    with pytest.raises(ValueError, match="rate -1"):
        poisson(10, -1)
    with pytest.raises(ValueError, match="seconds 0"):
        conversation(10, 0)
    with pytest.raises(ValueError, match="no block ids"):
        hit_ratio(poisson(3, 1))
    with pytest.raises(ValueError, match="capacity is 0"):
        hit_ratio([TraceRequest(0, 1, 1, (0,))], 0)


def test_sessions_share_what_went_before(generated):
    first = Counter(one.blocks[0] for one in generated)
    assert first == {0: 12_031}
