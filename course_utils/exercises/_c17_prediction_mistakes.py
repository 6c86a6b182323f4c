"""Wrong answers of chapter 17: the predicted time to first token."""

import math
from collections.abc import Callable

from course_utils.exercises.spec import WrongAnswer
from course_utils.serving.admission import Load


def _turns(load: Load) -> int:
    return load.waiting + 1 - load.free


def _wait(load: Load, turns: int) -> int:
    """Steps until so many answers have ended."""
    ends = sorted(load.running)
    if turns <= 0 or not ends:
        return 0
    rounds, place = divmod(turns - 1, len(ends))
    return rounds * ends[-1] + ends[place]


def _room(load: Load) -> int:
    return max(1, load.budget - len(load.running))


def _prediction(
    wait: Callable[[Load], int] = lambda load: _wait(load, _turns(load)),
    tokens: Callable[[Load, int, int], int] = lambda load, prompt, cached: (
        load.unread + prompt - cached
    ),
    steps: Callable[[Load, int], float] = lambda load, tokens: math.ceil(tokens / _room(load)),
    decoding: Callable[[Load], int] = lambda load: len(load.running),
    reading: bool = True,
) -> Callable[..., float]:
    """The formula with one part of it replaced."""

    def answer(prompt: int, cached: int, load: Load, base: float, per_token: float) -> float:
        read = tokens(load, prompt, cached)
        step = base + per_token * decoding(load)
        return (wait(load) + steps(load, read)) * step + (read * per_token if reading else 0)

    return answer


def _one_round(load: Load) -> int:
    ends, turns = sorted(load.running), _turns(load)
    return ends[min(turns, len(ends)) - 1] if turns > 0 and ends else 0


def _index_error(load: Load) -> int:
    ends, turns = sorted(load.running), _turns(load)
    return ends[turns - 1] if turns > 0 and ends else 0


def _unsorted(load: Load) -> int:
    ends, turns = load.running, _turns(load)
    if turns <= 0 or not ends:
        return 0
    rounds, place = divmod(turns - 1, len(ends))
    return rounds * max(ends) + ends[place]


PREDICTED_TTFT = (
    WrongAnswer(
        "no queue at all",
        _prediction(wait=lambda load: 0, tokens=lambda load, prompt, cached: prompt - cached),
        "You count the request's own prompt and nothing else: the prediction hardly differs "
        "between an idle server and one with a hundred requests waiting.",
    ),
    WrongAnswer(
        "slots forgotten",
        _prediction(wait=lambda load: 0),
        "The tokens that are read before it are there, the wait for a slot is not. With all slots "
        "taken a request waits until others have finished writing, however short the prompts are.",
    ),
    WrongAnswer(
        "prompts ahead forgotten",
        _prediction(tokens=lambda load, prompt, cached: prompt - cached),
        "The wait for a slot is there, the prompts before it are not: load.unread tokens are read "
        "first.",
    ),
    WrongAnswer(
        "those who wait",
        _prediction(wait=lambda load: _wait(load, 1 - load.free)),
        "You wait for one slot, but load.waiting requests come before this one, and each of them "
        "takes a slot that gets free.",
    ),
    WrongAnswer(
        "not counting oneself",
        _prediction(wait=lambda load: _wait(load, load.waiting - load.free)),
        "With all slots taken and nobody waiting, one answer must end before this request begins. "
        "You count none: the new request needs a slot too (+ 1).",
    ),
    WrongAnswer(
        "the longest answer",
        _prediction(wait=lambda load: max(load.running, default=0) * (_turns(load) > 0)),
        "You wait for the longest answer. The first slot gets free when the SHORTEST one ends: "
        "sort load.running, and take the one whose turn it is.",
    ),
    WrongAnswer(
        "in the order of the list",
        _prediction(wait=_unsorted),
        "Answers end in the order of what they may still write, not in the order of the list: "
        "sorted(load.running).",
    ),
    WrongAnswer(
        "one round only",
        _prediction(wait=_one_round),
        "More requests wait than there are answers running. After all of these have ended there is "
        "another round, of the longest answer's length: divmod(turns - 1, len(ends)).",
        also=(_prediction(wait=_index_error),),
    ),
    WrongAnswer(
        "cached tokens as work",
        _prediction(tokens=lambda load, prompt, cached: load.unread + prompt),
        "Tokens in the prefix cache are not computed again. The request reads prompt - cached of "
        "its own.",
    ),
    WrongAnswer(
        "decoding takes no room",
        _prediction(steps=lambda load, tokens: math.ceil(tokens / load.budget)),
        "You give the whole budget of a step to prompts. Each running request takes one token of "
        "it first.",
    ),
    WrongAnswer(
        "decoding costs nothing",
        _prediction(decoding=lambda load: 0),
        "A step also computes a token for every running request: base + per_token * len(running) "
        "seconds, before any prompt is read.",
    ),
    WrongAnswer(
        "no room, no step",
        _prediction(
            steps=lambda load, tokens: math.ceil(tokens / (load.budget - len(load.running)))
        ),
        "With as many running requests as the budget has tokens you divide by zero. Count with at "
        "least one token of room.",
    ),
    WrongAnswer(
        "parts of a step",
        _prediction(steps=lambda load, tokens: tokens / _room(load)),
        "There is no third of a step: even one token takes a whole one. math.ceil(...).",
        also=(_prediction(steps=lambda load, tokens: tokens // _room(load)),),
    ),
    WrongAnswer(
        "reading costs nothing",
        _prediction(reading=False),
        "You count the steps, and forget that a step takes longer the more tokens it reads: add "
        "per_token for each of them.",
    ),
)
