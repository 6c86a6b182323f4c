"""How long would a request wait for its first token, if it were let in now?

Two things may be short. Slots: a request that finds them all taken waits until enough of those
before it have left. Compute: the prompts before it are read first. Whichever takes longer decides,
because prompts are read while others hold their slots; then its own prompt is read, without what
the prefix cache holds.

    slots    (running + waiting + 1 - slots) have to leave, `slots` of them in each period
    compute  backlog tokens at so many seconds a token

A server that refuses what it would answer too late keeps its promise to the others. The prediction
takes its rates from what the server measured just before, so it is late when the load changes.

Source: Mooncake (Qin et al. 2025, FAST), section 6.2, early rejection; Kleinrock 1975, section 2.1
(Little's law). Left out: how much longer each running answer will be, and requests that are
cancelled meanwhile.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """What a server knows of itself when a request arrives."""

    slots: int  # requests that may run at a time
    running: int
    waiting: int
    backlog: int  # prompt tokens of running and waiting requests that are still to be read
    seconds_per_token: float  # of reading, measured
    seconds_per_request: float  # that a request holds its slot, measured


def predicted_ttft(load: ServerLoad, prompt: int, cached: int) -> float:
    """Seconds until the first token of a prompt, of whose tokens `cached` need no computing."""
    before = max(0, load.running + load.waiting + 1 - load.slots)
    for_slot = before * load.seconds_per_request / load.slots
    for_compute = load.backlog * load.seconds_per_token
    return max(for_slot, for_compute) + (prompt - cached) * load.seconds_per_token
