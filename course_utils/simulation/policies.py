"""Where a request's prompt is computed: placement policies as small functions.

A policy sees what is asked for (`Job`) and what each node could do (`Option`), and returns a
`Choice`: a node, and from which other node the keys and values of a longer prefix are fetched. The
options come from the global block index: for every node, how many of the prompt's tokens it holds.

    random_node    any node
    least_loaded   the node that is ready first
    cache_aware    the node that answers first, given what it holds (Mooncake's "local cache")
    mooncake       the same, with fetching where another node holds much more (its "global cache")
    always_fetch   the node that is ready first fetches all it can, whatever the network does

Each takes and returns the same, so a new policy is a function in the notebook.

Source: Mooncake (Qin et al. 2025, FAST), Algorithm 1. Left out there and here: evicting by
popularity, and replicating hot blocks ahead of demand (fetching replicates them on demand).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Job:
    """A prompt to place, and what its computation takes."""

    tokens: int
    prefill: Callable[[int], float]  # seconds, given so many tokens that are there already
    fetch: Callable[[int, int, int], float]  # seconds, from node, to node, tokens


@dataclass(frozen=True)
class Option:
    """A node that could compute the prompt."""

    node: int
    wait: float  # seconds until it has done what it was given, an estimate
    cached: int  # tokens of the prompt that it holds


@dataclass(frozen=True)
class Choice:
    """Where the prompt goes; `fetched` tokens come from node `source` first."""

    node: int
    ttft: float  # seconds, estimated
    cached: int  # tokens that it holds
    source: int | None = None
    fetched: int = 0


Policy = Callable[[Job, Sequence[Option], Random], Choice]


def _local(job: Job, option: Option) -> Choice:
    return Choice(option.node, option.wait + job.prefill(option.cached), option.cached)


def random_node(job: Job, options: Sequence[Option], rng: Random) -> Choice:
    """Any node, each as likely."""
    return _local(job, rng.choice(options))


def least_loaded(job: Job, options: Sequence[Option], rng: Random) -> Choice:
    """The node that is ready first, whatever it holds."""
    return _local(job, min(options, key=lambda option: (option.wait, option.node)))


def cache_aware(job: Job, options: Sequence[Option], rng: Random) -> Choice:
    """The node with the shortest estimated time to the first token, without fetching."""
    choices = [Choice(o.node, o.wait + job.prefill(o.cached), o.cached) for o in options]
    return min(choices, key=lambda choice: (choice.ttft, choice.node))


def _best(options: Sequence[Option]) -> Option:
    return max(options, key=lambda option: (option.cached, -option.node))


def _fetching(job: Job, option: Option, best: Option) -> Choice:
    """Fetching goes on while earlier requests are read; the prefill begins when both have ended."""
    missing = best.cached - option.cached
    begins = max(option.wait, job.fetch(best.node, option.node, missing))
    ttft = begins + job.prefill(best.cached)
    return Choice(option.node, ttft, option.cached, best.node, missing)


def mooncake(job: Job, options: Sequence[Option], rng: Random, threshold: float = 1.0) -> Choice:
    """As `cache_aware`, but a node may fetch the longest prefix that any node holds.

    It may where the longest prefix is more than `threshold` times its own.
    """
    best = _best(options)
    able = [option for option in options if best.cached > threshold * option.cached]
    fetched = [_fetching(job, option, best) for option in able]
    best_of = [cache_aware(job, options, rng), *fetched]
    return min(best_of, key=lambda choice: (choice.ttft, choice.node))


def always_fetch(job: Job, options: Sequence[Option], rng: Random) -> Choice:
    """The node that is ready first; what another node holds of the prompt is fetched, always."""
    option, best = min(options, key=lambda option: (option.wait, option.node)), _best(options)
    if best.cached > option.cached:
        return _fetching(job, option, best)
    return _local(job, option)
