"""Room of Mixture of Experts: routers, expert layers, balance, and experts on many devices."""

from course_utils.moe.balance import (
    load_balancing_loss,
    pooled_load_balancing_loss,
    router_z_loss,
    sequence_balance_loss,
    update_bias,
)
from course_utils.moe.capacity import beyond_capacity, drop, expert_capacity
from course_utils.moe.config import MoEConfig
from course_utils.moe.experts import (
    experts_dense,
    experts_grouped,
    experts_loop,
    experts_sorted,
)
from course_utils.moe.layer import MoE
from course_utils.moe.load import dropped_share, expert_counts, load_entropy, max_violation
from course_utils.moe.routing import Routing, route, route_top_k
from course_utils.moe.segments import experts_fast

__all__ = [
    "MoE",
    "MoEConfig",
    "Routing",
    "beyond_capacity",
    "drop",
    "dropped_share",
    "expert_capacity",
    "expert_counts",
    "experts_dense",
    "experts_fast",
    "experts_grouped",
    "experts_loop",
    "experts_sorted",
    "load_balancing_loss",
    "load_entropy",
    "max_violation",
    "pooled_load_balancing_loss",
    "route",
    "route_top_k",
    "router_z_loss",
    "sequence_balance_loss",
    "update_bias",
]
