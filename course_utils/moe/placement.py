"""Which device hosts which experts, with redundant copies of hot ones (EPLB).

Devices wait for the busiest of them, so what counts is balancedness: mean load of a device over the
largest. Two means: a copy of a hot expert halves what each of the two has to do, and heavy copies
are packed beside light ones. Both are done greedily, as in DeepSeek's EPLB:

- `replicate`: the next copy goes to the expert with the highest load per copy;
- `pack`: items from heavy to light, each to the lightest device that has room;
- globally (`place`), or in two levels (`place_in_groups`): groups of experts to nodes first, so
  that routing limited to groups stays within a node, then copies and packing within each node.

`place_optimally` searches all placements, to say how far the greedy one is from the best. A
placement is a list with the experts of each device; an expert in several lists has its load split
evenly. Loads are the tokens per expert of one layer, in any unit; layers are placed one by one.

Source: deepseek-ai/EPLB (2025), README and eplb.py; DeepSeek-V3, section 3.4.1. Left out: what
moving experts costs, and loads that change.
"""

from collections.abc import Sequence

Placement = list[list[int]]


def replicate(loads_E: Sequence[float], slots: int) -> list[int]:
    """The expert in each of `slots` slots: every expert once, then copies of the hottest.

    Raises ValueError when there are fewer slots than experts.
    """
    if slots < len(loads_E):
        raise ValueError(f"{slots} slots cannot hold {len(loads_E)} experts: give at least as many")
    experts = list(range(len(loads_E)))
    copies = [1] * len(loads_E)
    while len(experts) < slots:
        hottest = max(range(len(loads_E)), key=lambda e: loads_E[e] / copies[e])
        experts.append(hottest)
        copies[hottest] += 1
    return experts


def pack(weights: Sequence[float], boxes: int) -> list[list[int]]:
    """Numbers of the items in each box, equally many in all, of total weights as even as greed can.

    Raises ValueError when the boxes cannot hold equally many.
    """
    room, rest = divmod(len(weights), boxes)
    if rest:
        raise ValueError(f"{len(weights)} items do not divide evenly among {boxes}")
    if room == 1:
        return [[item] for item in range(boxes)]
    contents: list[list[int]] = [[] for _ in range(boxes)]
    totals = [0.0] * boxes
    for item in sorted(range(len(weights)), key=lambda i: -weights[i]):
        box = min((b for b in range(boxes) if len(contents[b]) < room), key=totals.__getitem__)
        contents[box].append(item)
        totals[box] += weights[item]
    return contents


def place(loads_E: Sequence[float], slots: int, devices: int) -> Placement:
    """The global policy: copies of the hottest experts, then packing over all devices."""
    experts = replicate(loads_E, slots)
    weights = [loads_E[e] / experts.count(e) for e in experts]
    return [[experts[slot] for slot in box] for box in pack(weights, devices)]


def place_in_groups(
    loads_E: Sequence[float], slots: int, devices: int, *, groups: int, nodes: int
) -> Placement:
    """The hierarchical policy: groups of neighbouring experts to nodes, then `place` in each node.

    Raises ValueError unless groups divide the experts, and nodes the groups, devices and slots.
    """
    sizes = {"groups": groups, "devices": devices, "slots": slots}
    for name, size in sizes.items():
        if size % nodes:
            raise ValueError(f"{name} {size} cannot be divided evenly among {nodes} nodes")
    if len(loads_E) % groups:
        raise ValueError(f"{len(loads_E)} experts cannot be divided evenly into {groups} groups")
    size = len(loads_E) // groups
    members = [range(g * size, (g + 1) * size) for g in range(groups)]
    placement = []
    for own_groups in pack([sum(loads_E[e] for e in group) for group in members], nodes):
        own = [e for g in own_groups for e in members[g]]
        within = place([loads_E[e] for e in own], slots // nodes, devices // nodes)
        placement += [[own[e] for e in device] for device in within]
    return placement


def place_contiguously(num_experts: int, devices: int) -> Placement:
    """The naive one: neighbours in blocks of ceil(E / devices), no copies, loads not looked at."""
    size = -(-num_experts // devices)
    return [
        list(range(num_experts))[device * size : (device + 1) * size] for device in range(devices)
    ]


def device_loads(loads_E: Sequence[float], placement: Placement) -> list[float]:
    """Load of each device, an expert's being split evenly among its copies.

    Raises ValueError for an expert with a load that no device hosts.
    """
    hosted = [e for device in placement for e in device]
    for e, load in enumerate(loads_E):
        if load and e not in hosted:
            raise ValueError(f"expert {e} is on no device: every expert needs a place")
    return [sum(loads_E[e] / hosted.count(e) for e in device) for device in placement]


def balancedness(loads_E: Sequence[float], placement: Placement) -> float:
    """Mean load of a device over the largest: 1 is perfect; the share of time not spent waiting."""
    loads = device_loads(loads_E, placement)
    return sum(loads) / len(loads) / max(loads)
