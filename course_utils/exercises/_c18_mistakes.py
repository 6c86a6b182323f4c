"""Wrong answers to the exercises of chapter 18 on waiting, and on keeping limits."""

from collections.abc import Callable

import numpy as np

from course_utils.exercises.spec import WrongAnswer
from course_utils.simulation.costs import Work

# ---- the wait of a queue


def _wait(formula: Callable[[float, float, float], float], guard: bool = True):
    """`formula(load, service, variation)`, with the check of the arguments or without."""

    def answer(rate: float, service: float, variation: float) -> float:
        load = rate * service
        if guard and (rate <= 0 or service <= 0 or load >= 1):
            raise ValueError(f"rate {rate}, service {service}: load {load}")
        return formula(load, service, variation)

    return answer


def _right_wait(load: float, service: float, variation: float) -> float:
    return load * service / (1 - load) * (1 + variation**2) / 2


def _no_wait(rate: float, service: float, variation: float) -> float:
    if rate <= 0 or service <= 0 or rate * service >= 1:
        raise ValueError("more work than the server can do")
    return 0.0


MG1_WAIT = (
    WrongAnswer(
        "average load",
        _no_wait,
        "You say that nobody waits as long as the server can do the work on average. Requests come "
        "at random: several at once now, none later, and an idle second is lost.",
    ),
    WrongAnswer(
        "always exponential",
        _wait(lambda load, service, variation: load * service / (1 - load)),
        "This is the wait for exponential service times, whatever `variation` is. The factor "
        "(1 + variation ** 2) / 2 is missing: 1 for exponential times, 1/2 for equal ones.",
    ),
    WrongAnswer(
        "always equal",
        _wait(lambda load, service, variation: load * service / (1 - load) / 2),
        "This is the wait if all service times are alike. Long requests hold up all behind them: "
        "the factor (1 + variation ** 2) belongs to it.",
    ),
    WrongAnswer(
        "the stay",
        _wait(lambda load, s, variation: _right_wait(load, s, variation) + s),
        "You give the whole stay, the service included. Asked for is the time until service "
        "begins.",
    ),
    WrongAnswer(
        "variation not squared",
        _wait(lambda load, s, variation: load * s / (1 - load) * (1 + variation) / 2),
        "The square of the variation counts: 1 + variation ** 2. For 0 and 1 both are the same, so "
        "look at a case between or beyond.",
    ),
    WrongAnswer(
        "requests in place of seconds",
        _wait(lambda load, s, variation: load * _right_wait(load, s, variation) / s),
        "That is how many requests wait on average, rate x wait (Little's law). Asked for is how "
        "many seconds one of them waits.",
    ),
    WrongAnswer(
        "no limit",
        _wait(_right_wait, guard=False),
        "The formula gives a number also where more work comes than can be done, a negative one. "
        "There the queue grows without end: raise ValueError for a load of 1 or more, and for a "
        "rate or a service time that is not above 0.",
    ),
)

# ---- goodput


def _share(kept: Callable) -> Callable:
    """The mean of `kept(found, ttft, tbt)`, one truth value for each request."""
    return lambda found, ttft, tbt: float(np.mean(kept(found, ttft, tbt)))


def _of_the_answered(found, ttft, tbt) -> float:
    answered = ~np.isnan(found.ttft)
    kept = (found.ttft <= ttft) & ~(found.worst_tbt > tbt)
    return float(kept[answered].mean()) if answered.any() else 0.0


def _product(found, ttft, tbt) -> float:
    return float(np.mean(found.ttft <= ttft) * np.mean(~(found.worst_tbt > tbt)))


GOODPUT = (
    WrongAnswer(
        "of those that were answered",
        _of_the_answered,
        "You leave rejected requests (a TTFT of NaN) out of the count. Then a cluster that rejects "
        "all but one looks perfect: divide by all requests.",
    ),
    WrongAnswer(
        "single tokens fail",
        _share(lambda f, ttft, tbt: (f.ttft <= ttft) & (f.worst_tbt <= tbt)),
        "An answer of one token has no time between tokens: worst_tbt is NaN, and NaN <= limit is "
        "False. Ask whether the limit is broken, ~(worst_tbt > tbt).",
    ),
    WrongAnswer(
        "either limit",
        _share(lambda f, ttft, tbt: (f.ttft <= ttft) | (f.worst_tbt <= tbt)),
        "You count requests that keep one of the two limits. A user wants both: & in place of |.",
    ),
    WrongAnswer(
        "product of two shares",
        _product,
        "You multiply two shares. That would be right if the limits were broken independently; a "
        "busy cluster breaks both for the same requests. Combine them request by request.",
    ),
    WrongAnswer(
        "first token alone",
        _share(lambda f, ttft, tbt: f.ttft <= ttft),
        "You ask for the first token alone. An answer that then stutters keeps no promise: "
        "worst_tbt has a limit too.",
    ),
    WrongAnswer(
        "the mean time between tokens",
        _share(lambda f, ttft, tbt: (f.ttft <= ttft) & ~(f.mean_tbt > tbt)),
        "You compare mean_tbt. One long pause hides in the mean of hundreds of tokens, and is what "
        "the reader notices: the limit is on worst_tbt.",
    ),
    WrongAnswer(
        "below the limit",
        _share(lambda f, ttft, tbt: (f.ttft < ttft) & ~(f.worst_tbt >= tbt)),
        "A value exactly at the limit keeps it: <= and not <.",
    ),
)

# ---- early rejection


def _rejection(
    there: Callable = lambda one, ttft: one.joins <= ttft < one.leaves,
    own: bool = True,
    share: bool = True,
    tbt_first: bool = False,
    only_ttft: bool = False,
    strict: bool = False,
):
    """The right answer with one thing changed."""

    def answer(ttft, tokens, in_flight, nodes, cost, ttft_limit, tbt_limit) -> str:
        held = [tokens] * own + [one.tokens for one in in_flight if there(one, ttft)]
        parts = nodes if share else 1
        size, context = len(held) / parts, sum(held) / parts
        step = cost.seconds(Work(size, size, context, 2 * context))
        late = ttft >= ttft_limit if strict else ttft > ttft_limit
        slow = not only_ttft and (step >= tbt_limit if strict else step > tbt_limit)
        reasons = [("ttft", late), ("tbt", slow)]
        found = [name for name, holds in (reasons[::-1] if tbt_first else reasons) if holds]
        return found[0] if found else ""

    return answer


EARLY_REJECTION = (
    WrongAnswer(
        "by the first token alone",
        _rejection(only_ttft=True),
        "You look at the first token alone. Prompts are then read for answers that no decode node "
        "can write in time: the second limit is on the time between tokens.",
    ),
    WrongAnswer(
        "by the load now",
        _rejection(lambda one, ttft: one.joins <= 0 < one.leaves),
        "You count who is on the decode nodes now. This request gets there `ttft` seconds later: "
        "some have left by then, and others have joined.",
    ),
    WrongAnswer(
        "everybody in flight",
        _rejection(lambda one, ttft: True),
        "You count everybody who was let in. Those who leave before `ttft`, or join after it, are "
        "not there at that moment.",
    ),
    WrongAnswer(
        "nobody leaves",
        _rejection(lambda one, ttft: one.joins <= ttft),
        "You count those who join, and forget that others leave: one.leaves has to be later than "
        "`ttft`.",
    ),
    WrongAnswer(
        "without itself",
        _rejection(own=False),
        "You weigh the others alone. The request itself will be there too, with its own tokens.",
    ),
    WrongAnswer(
        "all on one node",
        _rejection(share=False),
        "You put the load of all decode nodes on one. They share it: divide the requests and the "
        "tokens by `nodes`.",
    ),
    WrongAnswer(
        "the other reason first",
        _rejection(tbt_first=True),
        'Where both limits are broken, the reason is "ttft": it is checked first.',
    ),
    WrongAnswer(
        "at the limit",
        _rejection(strict=True),
        "A value exactly at the limit keeps it: reject for > and not for >=.",
    ),
)
