"""Early rejection: better no on arrival than a prompt read for an answer that comes too slowly.

A request is turned away if its first token would come too late, or if by then the decode nodes had
so much to hold that tokens came too slowly. What counts is the load when the prompt has been read,
some seconds from now: until then others leave, and others, whose prompts are read before, join.
Judging by the load of this moment lets in too many after a lull and too few after a rush.

Source: Mooncake (Qin et al. 2024, arXiv 2407.00079), section 7. Left out: priorities, and guessing
the length of an answer; the cluster assumes one time for all answers, as the paper does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from course_utils.simulation.costs import Cost, Work


@dataclass(frozen=True)
class InFlight:
    """A request that was let in: what it may hold, and when it is on the decode nodes."""

    tokens: int  # of the prompt and of the answer
    joins: float  # seconds from now; 0 or less: it is there
    leaves: float


def early_rejection(
    ttft: float,
    tokens: int,
    in_flight: Sequence[InFlight],
    nodes: int,
    cost: Cost,
    ttft_limit: float,
    tbt_limit: float,
) -> str:
    """Why a request is turned away: "ttft", else "tbt", or "" if it is let in.

    ttft: estimated seconds to its first token; tokens: what it may hold. The load at that moment
    is spread evenly over the decode nodes. A limit is kept up to and including its value.
    """
    if ttft > ttft_limit:
        return "ttft"
    held = [tokens] + [one.tokens for one in in_flight if one.joins <= ttft < one.leaves]
    size, context = len(held) / nodes, sum(held) / nodes
    return "tbt" if cost.seconds(Work(size, size, context, 2 * context)) > tbt_limit else ""
