"""Placement of experts: the published example, the exact optimum, and what always holds."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.moe import (
    balancedness,
    device_loads,
    pack,
    place,
    place_contiguously,
    place_in_groups,
    place_optimally,
    replicate,
)

# README of deepseek-ai/EPLB: two layers of 12 experts in 4 groups, 16 slots, 8 GPUs on 2 nodes.
LOADS = (
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
)
PUBLISHED = (
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
)
POSITIVE = st.lists(st.integers(1, 200), min_size=2, max_size=10)


@pytest.mark.parametrize("layer", [0, 1])
def test_published_map_to_the_slot(layer):
    placement = place_in_groups(LOADS[layer], 16, 8, groups=4, nodes=2)
    assert [e for device in placement for e in device] == PUBLISHED[layer]


def test_balancedness_of_the_published_example():
    found = {
        "hierarchical": [place_in_groups(loads, 16, 8, groups=4, nodes=2) for loads in LOADS],
        "global": [place(loads, 16, 8) for loads in LOADS],
        "optimal": [place_optimally(loads, 16, 8) for loads in LOADS],
        "contiguous": [place_contiguously(12, 8) for _ in LOADS],
    }
    rounded = {
        name: [
            round(balancedness(loads, placement), 3)
            for loads, placement in zip(LOADS, two, strict=True)
        ]
        for name, two in found.items()
    }
    assert rounded == {
        "hierarchical": [0.828, 0.805],
        "global": [0.932, 0.840],
        "optimal": [0.949, 0.840],
        "contiguous": [0.480, 0.420],
    }


def test_groups_stay_on_their_node():
    for loads in LOADS:
        placement = place_in_groups(loads, 16, 8, groups=4, nodes=2)
        nodes = [{e for device in placement[n : n + 4] for e in device} for n in (0, 4)]
        assert not nodes[0] & nodes[1]
        for node in nodes:
            groups = {e // 3 for e in node}
            assert len(groups) == 2 and node == {e for e in range(12) if e // 3 in groups}


@given(POSITIVE, st.integers(0, 8))
def test_replicate_gives_copies_to_the_hottest(loads, redundant):
    experts = replicate(loads, len(loads) + redundant)
    copies = [experts.count(e) for e in range(len(loads))]
    assert experts[: len(loads)] == list(range(len(loads))) and sum(copies) == len(experts)
    heaviest = max(load / count for load, count in zip(loads, copies, strict=True))
    for counts in _handed_out(len(loads), redundant) if len(loads) < 6 else []:
        other = max(load / (1 + extra) for load, extra in zip(loads, counts, strict=True))
        assert heaviest <= other + 1e-9  # this greedy choice is the best there is


def _handed_out(experts: int, redundant: int):
    for chosen in itertools.combinations_with_replacement(range(experts), redundant):
        yield [chosen.count(e) for e in range(experts)]


@given(st.integers(1, 5), st.integers(1, 4), st.randoms(use_true_random=False))
def test_pack_fills_every_box_and_is_near_even(boxes, room, chance):
    weights = [chance.randint(0, 100) for _ in range(boxes * room)]
    contents = pack(weights, boxes)
    assert sorted(item for box in contents for item in box) == list(range(len(weights)))
    assert {len(box) for box in contents} == {room}
    totals = [sum(weights[i] for i in box) for box in contents]
    assert max(totals) - min(totals) <= max(weights)


@given(POSITIVE, st.integers(1, 4), st.integers(0, 2))
def test_every_policy_hosts_every_expert(loads, devices, spare):
    room = -(-len(loads) // devices) + spare
    for placement in (
        place(loads, devices * room, devices),
        place_contiguously(len(loads), devices),
    ):
        assert len(placement) == devices
        assert {e for device in placement for e in device} == set(range(len(loads)))
        assert sum(device_loads(loads, placement)) == pytest.approx(sum(loads))
        assert 0 < balancedness(loads, placement) <= 1 + 1e-9
    assert {len(device) for device in place(loads, devices * room, devices)} == {room}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.integers(0, 2), st.integers(2, 3))
def test_optimum_equals_trying_everything(loads, redundant, devices):
    slots = len(loads) + redundant
    slots += -slots % devices
    best = max(device_loads(loads, place_optimally(loads, slots, devices)))
    assert best == pytest.approx(_least_maximum(loads, slots, devices))
    assert best <= max(device_loads(loads, place(loads, slots, devices))) + 1e-9


def _least_maximum(loads: list[int], slots: int, devices: int) -> float:
    """By trying all assignments of experts to slots."""
    room, least = slots // devices, float("inf")
    for experts in itertools.product(range(len(loads)), repeat=slots):
        if len(set(experts)) == len(loads):
            placement = [list(experts[d * room : (d + 1) * room]) for d in range(devices)]
            least = min(least, max(device_loads(loads, placement)))
    return least


def test_the_optimum_of_even_loads_is_even():
    assert balancedness([5] * 8, place_optimally([5] * 8, 8, 4)) == 1


def test_copies_beat_packing_alone_on_a_hot_expert():
    chance = random.Random(0)
    loads = [chance.randint(1, 20) for _ in range(16)]
    loads[3] = 300
    packed, copied = place(loads, 16, 4), place(loads, 20, 4)
    assert balancedness(loads, packed) < 0.5 < 0.85 < balancedness(loads, copied)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="3 slots cannot hold 4 experts"):
        replicate([1, 2, 3, 4], 3)
    with pytest.raises(ValueError, match="5 items do not divide evenly among 2"):
        pack([1] * 5, 2)
    with pytest.raises(ValueError, match="groups 3 cannot be divided evenly among 2 nodes"):
        place_in_groups([1] * 12, 16, 8, groups=3, nodes=2)
    with pytest.raises(ValueError, match="12 experts cannot be divided evenly into 8 groups"):
        place_in_groups([1] * 12, 16, 8, groups=8, nodes=2)
    with pytest.raises(ValueError, match="expert 1 is on no device"):
        device_loads([1, 1], [[0], [0]])
