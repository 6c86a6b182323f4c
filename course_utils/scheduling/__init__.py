"""Which request computes what, and in which blocks of the cache: the policy, without tensors.

The engine (`serving`) and the simulator (`simulation`) drive the same scheduler and the same pool:
one with a model, the other with a clock.
"""

from course_utils.scheduling.block_pool import Block, BlockPool, block_keys, release_blocks
from course_utils.scheduling.request import FINISHED, RUNNING, WAITING, Request
from course_utils.scheduling.scheduler import Chunk, Plan, Scheduler, SchedulerConfig, share_budget

__all__ = [
    "FINISHED",
    "RUNNING",
    "WAITING",
    "Block",
    "BlockPool",
    "Chunk",
    "Plan",
    "Request",
    "Scheduler",
    "SchedulerConfig",
    "block_keys",
    "release_blocks",
    "share_budget",
]
