"""The best placement there is, by branch and bound: what greedy placement is compared with.

How it works: start from the greedy placement, and look only for something strictly better. That
fixes a least number of copies per expert (no copy may weigh as much as the best device so far);
what is left of the slots is handed out in all ways. For each way the copies are put on devices from
heavy to light; a branch ends where a device would reach the best maximum so far, and of devices
that look alike only the first is tried.

The time grows exponentially with the number of slots: a second for a dozen experts, hopeless for
256. That is why EPLB is greedy.
"""

from collections.abc import Iterator, Sequence

from course_utils.moe.placement import Placement, device_loads, place


def place_optimally(loads_E: Sequence[float], slots: int, devices: int) -> Placement:
    """A placement of the smallest maximal load; all devices host equally many copies."""
    best = place(loads_E, slots, devices)
    floor = sum(loads_E) / devices  # nothing can be better than even
    improved = True
    while improved and max(device_loads(loads_E, best)) > floor:
        improved = False
        limit = max(device_loads(loads_E, best)) * (1 - 1e-12)
        for copies in _copies(loads_E, slots, limit):
            found = _pack_below(loads_E, copies, devices, limit)
            if found:
                best, improved = found, True
                break
    return best


def _copies(loads_E: Sequence[float], slots: int, limit: float) -> Iterator[list[int]]:
    """All numbers of copies per expert that fill the slots with copies lighter than `limit`."""
    least = [max(1, int(load // limit) + 1) for load in loads_E]

    def hand_out(start: int, left: int) -> Iterator[list[int]]:
        if start == len(least) - 1:
            yield [least[start] + left]
            return
        for extra in range(left + 1):
            for rest in hand_out(start + 1, left - extra):
                yield [least[start] + extra, *rest]

    if sum(least) <= slots:
        yield from hand_out(0, slots - sum(least))


def _pack_below(
    loads_E: Sequence[float], copies: list[int], devices: int, limit: float
) -> Placement | None:
    """Copies on devices, equally many on each, all lighter than `limit`; None if impossible."""
    items = [(loads_E[e] / copies[e], e) for e in range(len(copies)) for _ in range(copies[e])]
    items.sort(reverse=True)
    room = len(items) // devices
    totals, placement = [0.0] * devices, [[] for _ in range(devices)]

    def put(number: int) -> bool:
        if number == len(items):
            return True
        weight, e = items[number]
        tried = set()
        for device in range(devices):
            look = (totals[device], len(placement[device]))
            if look in tried or look[1] == room or look[0] + weight >= limit:
                continue
            tried.add(look)
            totals[device] += weight
            placement[device].append(e)
            if put(number + 1):
                return True
            totals[device] = look[0]
            placement[device].pop()
        return False

    return placement if put(0) else None
