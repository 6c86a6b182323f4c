"""Wrong answers to the exercises of chapter 06 on placing experts: copies, and packing."""

from collections.abc import Callable, Sequence

from course_utils.exercises.spec import WrongAnswer

# ---- replicate


def _greedy(value: Callable[[float, int], float], later: bool = False, worst: bool = False):
    """Add copies by `value(load, copies)`; of equal ones the lower number, or with `later` not."""

    def answer(loads_E: Sequence[float], slots: int) -> list[int]:
        E = len(loads_E)
        experts, copies = list(range(E)), [1] * E
        numbers = list(range(E))[::-1] if later else range(E)
        for _ in range(slots - E):
            pick = min if worst else max
            e = pick(numbers, key=lambda e: value(loads_E[e], copies[e]))
            experts.append(e)
            copies[e] += 1
        return experts

    return answer


_right = _greedy(lambda load, copies: load / copies)


def _from_nothing(loads_E: Sequence[float], slots: int) -> list[int]:
    experts: list[int] = []
    for _ in range(slots):
        experts.append(max(range(len(loads_E)), key=lambda e: loads_E[e] / (experts.count(e) + 1)))
    return experts


def _hottest_once_each(loads_E: Sequence[float], slots: int) -> list[int]:
    E = len(loads_E)
    order = sorted(range(E), key=lambda e: -loads_E[e])
    return [*range(E), *(order[i % E] for i in range(slots - E))]


def _in_proportion(loads_E: Sequence[float], slots: int) -> list[int]:
    E, total = len(loads_E), sum(loads_E) or 1
    extra = [round((slots - E) * load / total) for load in loads_E]
    return [*range(E), *(e for e in range(E) for _ in range(extra[e]))]


def _copies_of_each(loads_E: Sequence[float], slots: int) -> list[int]:
    experts = _right(loads_E, slots)
    return [experts.count(e) for e in range(len(loads_E))]


REPLICATE = (
    WrongAnswer(
        "the hottest takes all",
        _greedy(lambda load, copies: load),
        "All copies go to one expert. A copy takes its share of the load away: compare the load "
        "PER COPY, loads_E[e] / copies[e].",
    ),
    WrongAnswer(
        "the hottest once each",
        _hottest_once_each,
        "You sort once and give the hottest one copy each. An expert may be so hot that even its "
        "second copy is hotter than all others: decide anew for every slot.",
    ),
    WrongAnswer(
        "halved each time",
        _greedy(lambda load, copies: load / 2 ** (copies - 1)),
        "You halve the load with each copy. That is right for the second; with three copies each "
        "has a third of the load, not a quarter.",
    ),
    WrongAnswer(
        "one copy ahead",
        _greedy(lambda load, copies: load / (copies + 1)),
        "You ask which expert will be hottest AFTER one more copy. Wanted is the one that is "
        "hottest now: it is the one that all wait for.",
    ),
    WrongAnswer(
        "whole numbers",
        _greedy(lambda load, copies: load // copies),
        "// cuts off what is behind the point, so different loads look equal. Divide with /.",
    ),
    WrongAnswer(
        "no first slot",
        _from_nothing,
        "You hand out all slots by heat, so cold experts may get none, and their tokens nobody. "
        "First every expert gets one slot, list(range(E)); then come the copies.",
    ),
    WrongAnswer(
        "in proportion",
        _in_proportion,
        "Copies in proportion to the load, rounded: then the slots may not be filled, or too many, "
        "and small differences are lost. Give them out one by one.",
    ),
    WrongAnswer(
        "the copies alone",
        lambda loads_E, slots: _right(loads_E, slots)[len(loads_E) :],
        "You return the additional copies alone. Every expert has its first slot as well: begin "
        "with list(range(E)).",
    ),
    WrongAnswer(
        "as many copies as slots",
        lambda loads_E, slots: _right(loads_E, slots + len(loads_E)),
        "You add `slots` copies to the E experts. `slots` counts all of them together.",
    ),
    WrongAnswer(
        "in order of the number",
        lambda loads_E, slots: sorted(_right(loads_E, slots)),
        "The right experts, sorted. The order asked for is: every expert once, then the copies in "
        "the order in which they were given out.",
    ),
    WrongAnswer(
        "numbers of copies",
        _copies_of_each,
        "This says how many copies each expert has. Return the expert of each slot, `slots` "
        "numbers.",
    ),
    WrongAnswer(
        "the higher number",
        _greedy(lambda load, copies: load / copies, later=True),
        "Of equally hot experts you take the one with the higher number. Take the lower: a rule "
        "that all ranks follow in the same way, or they disagree about where experts are.",
    ),
    WrongAnswer(
        "the coldest",
        _greedy(lambda load, copies: load / copies, worst=True),
        "You copy the expert with the LOWEST load per copy. The highest is the one that all wait "
        "for.",
    ),
)


# ---- pack


def _into(
    weights: Sequence[float], boxes: int, order: Sequence[int], choose: Callable[..., int]
) -> list[list[int]]:
    """Items in the given order, each into the box that `choose(contents, totals, room)` says."""
    room = len(weights) // boxes
    contents: list[list[int]] = [[] for _ in range(boxes)]
    totals = [0.0] * boxes
    for item in order:
        box = choose(contents, totals, room)
        contents[box].append(item)
        totals[box] += weights[item]
    return contents


def _heavy_first(weights: Sequence[float]) -> list[int]:
    return sorted(range(len(weights)), key=lambda i: -weights[i])


def _lightest(contents: list[list[int]], totals: list[float], room: int) -> int:
    open_boxes = [b for b in range(len(contents)) if len(contents[b]) < room]
    return min(open_boxes, key=totals.__getitem__)


def _lightest_full_or_not(contents: list[list[int]], totals: list[float], room: int) -> int:
    return totals.index(min(totals))


def _next_when_full(contents: list[list[int]], totals: list[float], room: int) -> int:
    box = totals.index(min(totals))
    while len(contents[box]) >= room:
        box = (box + 1) % len(contents)
    return box


def _emptiest(contents: list[list[int]], totals: list[float], room: int) -> int:
    return min(range(len(contents)), key=lambda b: len(contents[b]))


def _heaviest(contents: list[list[int]], totals: list[float], room: int) -> int:
    open_boxes = [b for b in range(len(contents)) if len(contents[b]) < room]
    return max(open_boxes, key=totals.__getitem__)


def _packer(choose: Callable[..., int], order: Callable[..., Sequence[int]] = _heavy_first):
    def answer(weights: Sequence[float], boxes: int) -> list[list[int]]:
        return _into(weights, boxes, order(weights), choose)

    return answer


_pack = _packer(_lightest)


def _snake(weights: Sequence[float], boxes: int) -> list[list[int]]:
    contents: list[list[int]] = [[] for _ in range(boxes)]
    for place, item in enumerate(_heavy_first(weights)):
        turn, box = divmod(place, boxes)
        contents[box if turn % 2 == 0 else boxes - 1 - box].append(item)
    return contents


def _neighbours(weights: Sequence[float], boxes: int) -> list[list[int]]:
    room = len(weights) // boxes
    return [list(range(b * room, (b + 1) * room)) for b in range(boxes)]


def _one_list(weights: Sequence[float], boxes: int) -> list[list[int]]:
    return [_heavy_first(weights)] * boxes


def _shared_list(weights: Sequence[float], boxes: int) -> list[list[int]]:
    """The right rule, into the same list under several numbers."""
    contents, totals = [[]] * boxes, [0.0] * boxes
    for item in _heavy_first(weights):
        open_boxes = [b for b in range(boxes) if len(contents[b]) < len(weights) // boxes]
        box = min((b for b in open_boxes), key=totals.__getitem__)
        contents[box].append(item)
        totals[box] += weights[item]
    return contents


def _box_of_each(weights: Sequence[float], boxes: int) -> list[int]:
    where = [0] * len(weights)
    for box, items in enumerate(_pack(weights, boxes)):
        for item in items:
            where[item] = box
    return where


PACK = (
    WrongAnswer(
        "boxes of different size",
        _packer(_lightest_full_or_not),
        "The totals are even, but the boxes hold different numbers of items. Every rank has the "
        "same number of slots: a box is full at len(weights) / boxes items.",
    ),
    WrongAnswer(
        "the next box when full",
        _packer(_next_when_full),
        "Where the lightest box is full, you take the next one in order. Take the lightest of "
        "those that have room.",
    ),
    WrongAnswer(
        "light first",
        _packer(_lightest, lambda weights: sorted(range(len(weights)), key=weights.__getitem__)),
        "You begin with the light items, so that the heaviest comes last and tips its box over. "
        "Heavy ones first: the light ones fill the gaps.",
    ),
    WrongAnswer(
        "numbers of the sorted list",
        lambda weights, boxes: _pack(sorted(weights, reverse=True), boxes),
        "Your numbers count places in the SORTED list. Sort the numbers, not the weights: "
        "sorted(range(n), key=lambda i: -weights[i]).",
    ),
    WrongAnswer(
        "the higher number first",
        _packer(_lightest, lambda w: sorted(range(len(w)), key=w.__getitem__)[::-1]),
        "Of equal weights you take the higher number first, as a reversed sort does. The rule says "
        "the lower: all ranks must come to the same plan. sorted(..., reverse=True) or a key of "
        "-weights[i] keeps equal ones in order.",
    ),
    WrongAnswer(
        "in the order given",
        _packer(_lightest, lambda weights: range(len(weights))),
        "You take the items in the order given. Sort them first, the heaviest first.",
    ),
    WrongAnswer(
        "in turn",
        _packer(_emptiest),
        "You deal the items out in turn: the first box always gets the heaviest of each round. "
        "Look at the totals, not at the number of items.",
    ),
    WrongAnswer(
        "there and back",
        _snake,
        "Dealing out there and back evens much, but does not look at the totals. The rule asked "
        "for is: the lightest box that has room.",
    ),
    WrongAnswer(
        "the heaviest box",
        _packer(_heaviest),
        "You fill the box with the LARGEST total. Wanted is the lightest one that has room.",
    ),
    WrongAnswer(
        "neighbours together",
        _neighbours,
        "The weights play no part: neighbours are put together, as without any planning.",
    ),
    WrongAnswer(
        "one list for all",
        _one_list,
        "[[]] * boxes is the same list several times, so every box holds everything. Make a list "
        "for each: [[] for _ in range(boxes)].",
        also=(_shared_list,),
    ),
    WrongAnswer(
        "weights, not numbers",
        lambda weights, boxes: [[weights[i] for i in box] for box in _pack(weights, boxes)],
        "Your boxes hold weights. Wanted are the items' numbers, 0 to len(weights) - 1: two items "
        "of the same weight must be told apart.",
    ),
    WrongAnswer(
        "the box of each item",
        _box_of_each,
        "This says for each item in which box it is. Wanted is a list for each box.",
    ),
)
