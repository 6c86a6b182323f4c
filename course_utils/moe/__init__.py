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
    sort_by_expert,
)
from course_utils.moe.families import moe_config
from course_utils.moe.granularity import expert_combinations, split_experts
from course_utils.moe.launch import run_ranks
from course_utils.moe.layer import MoE
from course_utils.moe.load import dropped_share, expert_counts, load_entropy, max_violation
from course_utils.moe.optimal_placement import place_optimally
from course_utils.moe.parallel import (
    combine,
    copies_to_send,
    expected_copies,
    parallelize,
    sum_gradients,
    wire_bytes,
)
from course_utils.moe.placement import (
    balancedness,
    device_loads,
    pack,
    place,
    place_contiguously,
    place_in_groups,
    replicate,
)
from course_utils.moe.routing import Routing, route, route_top_k, route_with_bias
from course_utils.moe.rules import (
    choose_with_bias,
    hash_experts,
    identity_weight,
    limit_to_groups,
    random_hash_table,
    renormalize,
    sigmoid_scores,
    softmax_of_chosen,
    softmax_scores,
    sqrt_softplus_scores,
)
from course_utils.moe.segments import experts_fast
from course_utils.moe.shared import add_shared_expert
from course_utils.moe.specialization import (
    Specialization,
    control_divergences,
    expert_shares,
    jensen_shannon,
    measure_specialization,
    routing_divergence,
    top_tokens,
)

__all__ = [
    "MoE",
    "MoEConfig",
    "Routing",
    "Specialization",
    "add_shared_expert",
    "balancedness",
    "beyond_capacity",
    "choose_with_bias",
    "combine",
    "control_divergences",
    "copies_to_send",
    "device_loads",
    "drop",
    "dropped_share",
    "expected_copies",
    "expert_capacity",
    "expert_combinations",
    "expert_counts",
    "expert_shares",
    "experts_dense",
    "experts_fast",
    "experts_grouped",
    "experts_loop",
    "experts_sorted",
    "hash_experts",
    "identity_weight",
    "jensen_shannon",
    "limit_to_groups",
    "load_balancing_loss",
    "load_entropy",
    "max_violation",
    "measure_specialization",
    "moe_config",
    "pack",
    "parallelize",
    "place",
    "place_contiguously",
    "place_in_groups",
    "place_optimally",
    "pooled_load_balancing_loss",
    "random_hash_table",
    "renormalize",
    "replicate",
    "route",
    "route_top_k",
    "route_with_bias",
    "router_z_loss",
    "routing_divergence",
    "run_ranks",
    "sequence_balance_loss",
    "sigmoid_scores",
    "softmax_of_chosen",
    "softmax_scores",
    "sort_by_expert",
    "split_experts",
    "sqrt_softplus_scores",
    "sum_gradients",
    "top_tokens",
    "update_bias",
    "wire_bytes",
]
