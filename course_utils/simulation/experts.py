"""Expert-parallel decode: everybody waits for the device whose experts got the most tokens.

Each token of a batch goes to `top_k` of the experts. With popularity that differs, and with chance
even without, some device gets more than the mean. The step's expert part lasts as long as the
largest load: mean over largest is the balancedness (EPLB's word), and the part that waits is slowed
by its inverse.

Sources: DeepSeek-AI, EPLB's README (replication before packing); DeepSeek-V3 report, section 3.4.
Left out: the time of the all-to-all itself, and devices of different speeds.
"""

from collections.abc import Sequence

import numpy as np

from course_utils.simulation.costs import Cost


def expert_loads(
    tokens: int, experts: int, top_k: int, skew: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Tokens of each expert in a seeded draw; its popularity is that of rank r, r^-`skew`."""
    if not (1 <= top_k <= experts and tokens >= 1 and skew >= 0):
        raise ValueError(
            f"{tokens} tokens to {top_k} of {experts} experts, skew {skew}: top_k <= experts"
        )
    rng = np.random.default_rng(seed)
    logits = -skew * np.log(np.arange(1, experts + 1))
    keys = rng.permutation(logits) + rng.gumbel(size=(tokens, experts))  # top-k without return
    chosen = np.argpartition(-keys, top_k - 1, axis=1)[:, :top_k]
    return np.bincount(chosen.ravel(), minlength=experts)


def balancedness(loads: Sequence[float], devices: int, slots: int) -> float:
    """Mean load of the devices over the largest, each with room for `slots` experts.

    Copies are made while there is room, of the expert with the most tokens a copy; then, the
    heaviest first, each goes to the least loaded device with room (EPLB's global policy).
    """
    if not 0 < len(loads) <= devices * slots:
        raise ValueError(f"{len(loads)} experts, {devices} devices x {slots}: give more slots")
    copies = np.ones(len(loads))
    for _ in range(devices * slots - len(loads)):
        copies[np.argmax(loads / copies)] += 1
    placed, full = np.zeros(devices), np.zeros(devices, int)
    for load in sorted(np.repeat(loads / copies, copies.astype(int)), reverse=True):
        device = int(np.argmin(np.where(full < slots, placed, np.inf)))
        placed[device] += load
        full[device] += 1
    return float(placed.mean() / placed.max())


def with_imbalance(cost: Cost, balanced: float, expert_share: float) -> Cost:
    """A step whose share in experts waits: slower by `expert_share` x (1 / balancedness - 1)."""
    if not (0 < balanced <= 1 and 0 <= expert_share <= 1):
        raise ValueError(f"balancedness {balanced} and expert_share {expert_share} are shares of 1")
    return cost.scaled(1 + expert_share * (1 / balanced - 1))
