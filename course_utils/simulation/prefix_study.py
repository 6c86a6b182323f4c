"""What a prefix cache of a given size would have hit: a trace against a list of recent blocks.

Blocks are those of the trace (512 tokens). A prompt hits as many blocks as its beginning has in the
cache; then all its blocks become the most recently used, in their order. The least recently used go
first. No scheduler and no time: the upper bound for one cache that everybody shares.

The engine's pool gives tails back before heads (`scheduling.block_pool`), which shows only where a
cache is small: .0841 instead of .0825 on Mooncake's synthetic trace with 1,000 blocks.

Source: Mooncake (Qin et al. 2025, FAST), Figure 9 and Table 2.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from course_utils.simulation.workloads import BLOCK, SYSTEM_PROMPT, TraceRequest


@dataclass(frozen=True)
class HitRatio:
    """Hits of one capacity (in blocks; None: no limit)."""

    capacity: int | None
    by_block: float
    by_token: float
    hits: tuple[int, ...]  # blocks, of each request


def hit_ratio(trace: Sequence[TraceRequest], capacity: int | None = None) -> HitRatio:
    """Share of all blocks, and of all prompt tokens, that a cache of `capacity` blocks hits."""
    if not trace or not any(request.blocks for request in trace):
        raise ValueError("the trace has no block ids: use one in Mooncake's format")
    if capacity is not None and capacity < 1:
        raise ValueError(f"capacity is {capacity}: at least one block, or None for no limit")
    hits = prefix_hits([request.blocks for request in trace], capacity)
    blocks = sum(len(request.blocks) for request in trace)
    tokens = sum(request.input for request in trace)
    found = sum(min(hit * BLOCK, r.input) for hit, r in zip(hits, trace, strict=True))
    return HitRatio(capacity, sum(hits) / blocks, found / tokens, tuple(hits))


def prefix_hits(prompts: Sequence[Sequence[int]], capacity: int | None = None) -> list[int]:
    """For each prompt, a list of block ids, how many blocks of its beginning are in the cache.

    Then all its blocks become the most recently used, in their order. Beyond `capacity` (None: no
    limit) the least recently used go, once the prompt is in.
    """
    recent: OrderedDict[int, None] = OrderedDict()
    hits = []
    for prompt in prompts:
        missing = (number for number, block in enumerate(prompt) if block not in recent)
        hits.append(next(missing, len(prompt)))
        for block in prompt:
            recent[block] = None
            recent.move_to_end(block)
        while capacity is not None and len(recent) > capacity:
            recent.popitem(last=False)
    return hits


def unseen_hits(trace: Sequence[TraceRequest], system_prompt: int = SYSTEM_PROMPT) -> float:
    """Share of prompt tokens that were the same, but less than a block: lost by whole-block ids.

    A prompt that shares exactly one block shares the system prompt, and so the tokens of it beyond
    512; one that shares more stops, on average, in the middle of a block; one that shares none gets
    nothing. An inference about the gap between Figure 9 and the released trace, not a measurement.
    """
    hits = hit_ratio(trace).hits
    gained = {0: 0, 1: system_prompt - BLOCK}
    tokens = sum(gained.get(hit, BLOCK // 2) for hit in hits)
    return tokens / sum(request.input for request in trace)
