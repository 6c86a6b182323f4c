"""Wrong answers to the exercises of chapter 16 on a step: sharing its tokens, and stop texts."""

from course_utils.exercises.spec import WrongAnswer


def _share(order="running", subtract=True, seats=True, taken=True, chunk=True, need=None):
    """`share_budget` with one part replaced; `need` gives the tokens of a running request."""

    def share_budget(running, waiting, max_tokens, max_requests, max_chunk=None):
        room = max(0, max_requests - (len(running) if taken else 0))
        entering = list(waiting[:room]) if seats else list(waiting)
        first = [need(left) for left in running] if need else list(running)
        asked = first + entering if order == "running" else entering + first
        counts = []
        for left in asked:
            counts.append(min(left, max_tokens, (max_chunk or left) if chunk else left))
            max_tokens -= counts[-1] if subtract else 0
        if order == "waiting":
            counts = counts[len(entering) :] + counts[: len(entering)]
        return counts + [0] * (len(waiting) - len(entering))

    return share_budget


def _whole_or_nothing(running, waiting, max_tokens, max_requests, max_chunk=None):
    seats, counts = max(0, max_requests - len(running)), []
    for left in [*running, *waiting[:seats]]:
        count = min(left, max_chunk or left)
        counts.append(count if count <= max_tokens else 0)
        max_tokens -= counts[-1]
    return counts + [0] * (len(running) + len(waiting) - len(counts))


def _negative(running, waiting, max_tokens, max_requests, max_chunk=None):
    seats, counts = max(0, max_requests - len(running)), []
    for left in [*running, *waiting[:seats]]:
        counts.append(min(left, max_chunk or left))
        max_tokens -= counts[-1]
        if max_tokens <= 0:
            break
    return counts + [0] * (len(running) + len(waiting) - len(counts))


def _short_list(running, waiting, max_tokens, max_requests, max_chunk=None):
    counts = _share()(running, waiting, max_tokens, max_requests, max_chunk)
    return [count for count in counts if count]


SHARE = (
    WrongAnswer(
        "prompts first",
        _share(order="waiting"),
        "Those that wait are served first, so a long prompt takes the whole step and every request "
        "that generates stands still until it is read. Those that run come first.",
    ),
    WrongAnswer(
        "the whole budget for everyone",
        _share(subtract=False),
        "Each request is held against max_tokens by itself. The budget is one for the whole step: "
        "take off what was given away.",
    ),
    WrongAnswer(
        "whole prompts only",
        _whole_or_nothing,
        "A prompt that does not fit gets nothing. One that is longer than the budget will never "
        "be read. Give it what is left: a chunk.",
    ),
    WrongAnswer(
        "the last chunk exceeds the budget",
        _negative,
        "You stop when the budget is used up, but the request before that got more than was left. "
        "min(left, what is left of max_tokens).",
    ),
    WrongAnswer(
        "seats ignored",
        _share(seats=False),
        "Everybody who waits may enter. At most max_requests take part in a step, those that run "
        "included.",
    ),
    WrongAnswer(
        "seats of those that run counted as free",
        _share(taken=False),
        "You let max_requests of the waiting in, beside all that run. Seats are free only as far "
        "as nobody runs: max_requests - len(running).",
    ),
    WrongAnswer(
        "one token for all that run",
        _share(need=lambda left: min(left, 1)),
        "You give one token to whoever runs. One that is still reading its prompt, or that has "
        "drafts to verify, has more than one left: give it what it needs.",
    ),
    WrongAnswer(
        "chunks of any size",
        _share(chunk=False),
        "max_chunk is not looked at. It limits what ONE request gets in a step, and None means no "
        "limit.",
    ),
    WrongAnswer(
        "those without tokens left out",
        _short_list,
        "The result has an entry for EVERY request, running ones first; 0 for those that get "
        "nothing. Without the zeros nobody knows whose count is whose.",
    ),
)


def _first_stop_only(text, stops):
    stop = stops[0] if stops else ""
    for size in range(len(stop) - 1, 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def _held(sizes, ends=True, whole=0):
    """`held_back` that tries `sizes` of the longest beginning, in that order."""

    def held_back(text, stops):
        longest = max((len(stop) for stop in stops), default=0) - 1 + whole
        for size in sizes(longest):
            for stop in stops:
                fits = len(stop) > size - whole
                found = text.endswith(stop[:size]) if ends else stop[:size] in text
                if fits and found:
                    return size
        return 0

    return held_back


HELD = (
    WrongAnswer(
        "only the last character",
        lambda text, stops: int(bool(text) and any(stop[0] == text[-1] for stop in stops)),
        "You look at one character. When two or more characters of a stop text are there, you give "
        "away all but the last, and the stop text comes too late to take them back.",
        also=(
            lambda text, stops: int(
                bool(text) and any(stop[0] == text[-1] and len(stop) > 1 for stop in stops)
            ),
        ),
    ),
    WrongAnswer(
        "always the longest",
        lambda text, stops: min(len(text), max((len(stop) for stop in stops), default=1) - 1),
        "You hold back as many characters as a stop text could need, whatever they are. Nothing "
        "is wrong at the end, but the reader sees every word late. Hold back only a BEGINNING of a "
        "stop text.",
        also=(lambda text, stops: max((len(stop) for stop in stops), default=1) - 1,),
    ),
    WrongAnswer(
        "the shortest beginning",
        _held(lambda longest: range(1, longest + 1)),
        "You take the first beginning that fits, from the shortest on. If a longer one fits too, "
        "its first characters are given away. Try the longest first.",
    ),
    WrongAnswer(
        "the first stop text alone",
        _first_stop_only,
        "You look at stops[0]. A request may have several stop texts: take the longest over all.",
    ),
    WrongAnswer(
        "a beginning anywhere",
        _held(lambda longest: range(longest, 0, -1), ends=False),
        "You find a beginning anywhere in the text. Only one at its END can still become the stop "
        "text: text.endswith(...).",
    ),
    WrongAnswer(
        "the whole stop text",
        _held(lambda longest: range(longest, 0, -1), whole=1),
        "You count a stop text that is complete. That one is found by other means and ends the "
        "answer; here only a proper beginning counts, shorter than the stop text.",
    ),
)
