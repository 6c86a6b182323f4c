"""Wrong answers to the exercises of chapter 18 on caches: hits, bandwidth, placement."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from course_utils.exercises.spec import WrongAnswer
from course_utils.simulation.costs import ModelSize, prefill_flops
from course_utils.simulation.policies import Choice, Job, Option

# ---- hits of a cache


def _hits(
    anywhere: bool = False,
    evict: bool = True,
    refresh: bool = True,
    newest: bool = False,
    first_store: bool = False,
    spare: int = 0,
) -> Callable:
    """The right answer with one thing changed."""

    def answer(prompts: Sequence[Sequence[int]], capacity: int | None = None) -> list[int]:
        recent: OrderedDict[int, None] = OrderedDict()
        hits = []
        for prompt in prompts:
            if first_store:
                recent.update(dict.fromkeys(prompt))
            missing = (number for number, block in enumerate(prompt) if block not in recent)
            start = next(missing, len(prompt))
            hits.append(sum(block in recent for block in prompt) if anywhere else start)
            for block in prompt:
                recent[block] = None
                if refresh:
                    recent.move_to_end(block)
            while evict and capacity is not None and len(recent) > max(0, capacity + spare):
                recent.popitem(last=newest)
        return hits

    return answer


_right_hits = _hits()

PREFIX_HITS = (
    WrongAnswer(
        "blocks anywhere",
        _hits(anywhere=True),
        "You count every block that is in the cache. A block is of use only if all before it are "
        "there: stop at the first one that is missing.",
    ),
    WrongAnswer(
        "nothing is forgotten",
        _hits(evict=False),
        "Your cache never lets go of a block. Beyond `capacity` the least recently used go.",
    ),
    WrongAnswer(
        "first in, first out",
        _hits(refresh=False),
        "You evict what came first. A block that was used again is recent: move it to the end "
        "(`move_to_end`), otherwise the system prompt that everybody shares goes out.",
    ),
    WrongAnswer(
        "the newest goes",
        _hits(newest=True),
        "You evict the most recently used: `popitem()` takes the last one unless told "
        "`last=False`.",
    ),
    WrongAnswer(
        "stored before it is looked up",
        _hits(first_store=True),
        "You put a prompt's blocks into the cache before you look for them, so that all are found.",
    ),
    WrongAnswer(
        "one block less",
        _hits(spare=-1),
        "Your cache holds capacity - 1 blocks: evict while there are MORE than `capacity`.",
    ),
    WrongAnswer(
        "hit or miss",
        lambda prompts, capacity=None: [min(1, hit) for hit in _right_hits(prompts, capacity)],
        "You say for each prompt whether it hit. What is saved depends on how many blocks did: "
        "count them.",
    ),
    WrongAnswer(
        "shares",
        lambda prompts, capacity=None: [
            hit / max(1, len(prompt))
            for hit, prompt in zip(_right_hits(prompts, capacity), prompts, strict=True)
        ],
        "You divide by the blocks of each prompt. Asked for are counts: a mean of shares would "
        "weigh a short prompt like a long one.",
    ),
)

# ---- break-even bandwidth


def _speed(size: Callable, flops: Callable = prefill_flops, inverse: bool = False) -> Callable:
    """`size` bytes over the seconds that `flops` operations take."""

    def answer(model: ModelSize, start: int, end: int, rate: float) -> float:
        seconds = flops(model, end, start) / rate
        return seconds / size(model, start, end) if inverse else size(model, start, end) / seconds

    return answer


def _missing(model: ModelSize, start: int, end: int) -> float:
    return (end - start) * model.kv_bytes


BREAK_EVEN = (
    WrongAnswer(
        "from the beginning",
        _speed(
            lambda model, start, end: end * model.kv_bytes,
            lambda model, end, start: prefill_flops(model, end),
        ),
        "You fetch and compute from token 0 on. The first `start` tokens are there already: they "
        "cost neither bytes nor operations.",
    ),
    WrongAnswer(
        "bytes of all, time of the rest",
        _speed(lambda model, start, end: end * model.kv_bytes),
        "You move all `end` tokens and compute those after `start` alone. Only end - start tokens "
        "have to be moved.",
    ),
    WrongAnswer(
        "a prompt of its own",
        _speed(_missing, lambda model, end, start: prefill_flops(model, end - start)),
        "You count the operations of a prompt of end - start tokens. These tokens attend to the "
        "first `start` as well: prefill_flops(model, end, start).",
    ),
    WrongAnswer(
        "bits",
        _speed(lambda model, start, end: 8 * _missing(model, start, end)),
        "You give bits per second. Links are sold in bits, caches are counted in bytes; asked for "
        "are bytes.",
    ),
    WrongAnswer(
        "for each layer again",
        _speed(lambda model, start, end: model.layers * _missing(model, start, end)),
        "You multiply by the number of layers. kv_bytes counts all layers already.",
    ),
    WrongAnswer(
        "numbers in place of bytes",
        _speed(lambda model, start, end: _missing(model, start, end) / 2),
        "You count the numbers in the cache. In bf16 each has two bytes; kv_bytes is in bytes.",
    ),
    WrongAnswer(
        "upside down",
        _speed(_missing, inverse=True),
        "You divide seconds by bytes. A bandwidth is bytes over seconds.",
    ),
)

# ---- placement


def _choose(
    key: Callable[[Job, Option], tuple],
    ttft: Callable[[Job, Option], float] | None = None,
) -> Callable:
    """The option with the smallest `key`; reports `ttft`, by default the right estimate."""

    def answer(job: Job, options: Sequence[Option], rng) -> Choice:
        one = min(options, key=lambda option: key(job, option))
        seconds = (ttft or _ttft)(job, one)
        return Choice(one.node, seconds, one.cached)

    return answer


def _ttft(job: Job, option: Option) -> float:
    return option.wait + job.prefill(option.cached)


CACHE_AWARE = (
    WrongAnswer(
        "the longest prefix",
        _choose(lambda job, o: (-o.cached, o.node)),
        "You always take the node that holds most. Everybody who shares a popular prompt then "
        "queues at one node while others rest: add the wait.",
    ),
    WrongAnswer(
        "the queue is ignored",
        _choose(
            lambda job, o: (job.prefill(o.cached), o.node),
            lambda job, o: job.prefill(o.cached),
        ),
        "You compare the prefill alone. The node first finishes what it was given: the first token "
        "comes after wait + prefill.",
    ),
    WrongAnswer(
        "the least loaded",
        _choose(lambda job, o: (o.wait, o.node)),
        "You take the node that is ready first, whatever it holds. A short wait may be worth less "
        "than a long prefix: compare the sums.",
    ),
    WrongAnswer(
        "the cache is ignored",
        _choose(
            lambda job, o: (o.wait + job.prefill(0), o.node),
            lambda job, o: o.wait + job.prefill(0),
        ),
        "You compute the whole prompt everywhere, prefill(0). The node holds o.cached tokens of it "
        "already.",
    ),
    WrongAnswer(
        "what is missing",
        _choose(
            lambda job, o: (o.wait + job.prefill(job.tokens - o.cached), o.node),
            lambda job, o: o.wait + job.prefill(job.tokens - o.cached),
        ),
        "`prefill` takes the tokens that are there already, not those that are missing.",
    ),
    WrongAnswer(
        "the longer of both",
        _choose(
            lambda job, o: (max(o.wait, job.prefill(o.cached)), o.node),
            lambda job, o: max(o.wait, job.prefill(o.cached)),
        ),
        "Waiting and reading come one after the other on the same node: + and not max.",
    ),
    WrongAnswer(
        "the last of equals",
        _choose(lambda job, o: (_ttft(job, o), -o.node)),
        "Of nodes that answer equally early, take the one with the lower number, so that a run can "
        "be repeated: min(..., key=lambda choice: (choice.ttft, choice.node)).",
    ),
    WrongAnswer(
        "an estimate without the wait",
        _choose(lambda job, o: (_ttft(job, o), o.node), lambda job, o: job.prefill(o.cached)),
        "The right node, but `ttft` lacks the wait. Early rejection relies on it.",
    ),
)
