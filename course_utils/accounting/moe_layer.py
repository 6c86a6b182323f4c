"""What one layer of experts weighs, how much of it a token uses, and what a token costs.

Total parameters grow with the number of experts, and so does the memory; active parameters and
FLOPs grow only with the number that a token takes. A model of experts is the bet that the first
buys quality which the second does not pay for.

Left out: what only some families have (biases, a gate on the shared expert, identity experts); a
ModelSpec counts them. Sources: Jiang et al. 2024, "Mixtral of Experts", section 2.1; DeepSeek-AI
2024, "DeepSeekMoE", section 3.
"""


def moe_layer_cost(
    hidden_size: int,
    num_experts: int,
    num_experts_per_tok: int,
    moe_intermediate_size: int,
    n_shared_experts: int = 0,
) -> tuple[int, int, int]:
    """Total parameters, active parameters, and FLOPs of one token, of one layer of experts.

    An expert is a SwiGLU without biases: three matrices of hidden_size x moe_intermediate_size. The
    router is one matrix with a column for each routed expert; every token uses all of it. Shared
    experts are as wide as the others, see every token, and the router does not choose them. Each
    weight of a product costs a token two operations.
    """
    expert = 3 * hidden_size * moe_intermediate_size
    router = hidden_size * num_experts
    total = router + (num_experts + n_shared_experts) * expert
    active = router + (num_experts_per_tok + n_shared_experts) * expert
    return total, active, 2 * active
