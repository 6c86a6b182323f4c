"""What a Mixture-of-Experts layer is, as a frozen dataclass with Hugging Face's key names.

Sizes (how many experts, how many per token, how wide) and the router's rule, in the words of the
configs that the model families publish. `routing.route` reads the rule, `layer.MoE` the sizes. Left
out: what only one family's experts do differently inside (gpt-oss clamps and has biases).
"""

from dataclasses import dataclass, fields
from typing import Any

SCORES = ("softmax", "sigmoid", "sqrtsoftplus", "softmax_of_chosen")
GROUP_SCORES = ("max", "top2_sum")


@dataclass(frozen=True)
class MoEConfig:
    """The sizes and the routing rule of an MoE layer. Raises ValueError on values that cannot be.

    Sizes: `num_experts` E routed experts of width `moe_intermediate_size` F, of which each token
    takes `num_experts_per_tok` k; `n_shared_experts` more of the same width see every token, times
    sigmoid of a learned gate with `use_shared_expert_gate` (Qwen2-MoE). `zero_expert_num` identity
    experts give the token back unchanged (LongCat-Flash): they are chosen like others and cost
    nothing. The first `first_k_dense_replace` layers of the model keep their dense part.

    Rule: the router's linear map has a bias of its own with `router_bias` (gpt-oss).
    `scoring_func` makes scores of logits ("softmax_of_chosen" as gpt-oss: top-k of the logits,
    softmax over the k). The choice is made on score + bias with `use_routing_bias`
    (`e_score_correction_bias`), within the `topk_group` best of `n_group` groups, a group being
    judged by `group_score`. Weights are the scores WITHOUT the bias, divided by their sum with
    `norm_topk_prob` (by at least `moe_norm_min`), times `routed_scaling_factor`. The first
    `num_hash_layers` layers choose by a table of token ids (DeepSeek-V4). `capacity_factor` c drops
    what goes beyond ceil(T * k / E * c) tokens per expert; None drops nothing.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    n_shared_experts: int = 0
    use_shared_expert_gate: bool = False
    zero_expert_num: int = 0
    first_k_dense_replace: int = 0
    router_bias: bool = False
    scoring_func: str = "softmax"
    use_routing_bias: bool = False
    n_group: int = 1
    topk_group: int = 1
    group_score: str = "top2_sum"
    norm_topk_prob: bool = True
    moe_norm_min: float = 1e-20
    routed_scaling_factor: float = 1.0
    num_hash_layers: int = 0
    capacity_factor: float | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}: it must be a whole number >= {least}")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be True or False")
        for name in ("moe_norm_min", "routed_scaling_factor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} is {value!r}: it must be a number > 0")
        self._check_choice()
        self._check_groups()

    def _check_choice(self) -> None:
        if self.num_experts_per_tok > self.num_choices:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} is more than the "
                f"{self.num_choices} experts there are"
            )
        if self.scoring_func not in SCORES:
            raise ValueError(
                f"scoring_func is {self.scoring_func!r}: it must be one of {', '.join(SCORES)}"
            )
        if self.group_score not in GROUP_SCORES:
            raise ValueError(
                f"group_score is {self.group_score!r}: it must be one of {', '.join(GROUP_SCORES)}"
            )
        if self.capacity_factor is not None and self.capacity_factor <= 0:
            raise ValueError(f"capacity_factor is {self.capacity_factor}: it must be > 0, or None")
        if self.use_shared_expert_gate and not self.n_shared_experts:
            raise ValueError("use_shared_expert_gate needs n_shared_experts >= 1: there are none")

    def _check_groups(self) -> None:
        if self.n_group == 1:
            return
        if self.num_choices % self.n_group or self.topk_group > self.n_group:
            raise ValueError(
                f"n_group {self.n_group} must divide the {self.num_choices} experts, and "
                f"topk_group {self.topk_group} must not exceed it"
            )
        if self.group_score == "top2_sum" and self.n_group == self.num_choices:
            raise ValueError(
                f"n_group {self.n_group} leaves one expert a group, and group_score 'top2_sum' "
                "needs two: lower n_group, or take 'max'"
            )
        if self.num_experts_per_tok > self.topk_group * (self.num_choices // self.n_group):
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} is more than the experts of "
                f"topk_group {self.topk_group} groups: raise topk_group"
            )

    @property
    def num_choices(self) -> int:
        """What the router chooses among: real experts, then identity experts."""
        return self.num_experts + self.zero_expert_num

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MoEConfig":
        """Build from a dict; an unknown or missing key raises ValueError that names it."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown MoE config key {unknown[0]!r}: known are {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"incomplete MoE config: {error}") from None


_LEAST = {
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 1,
    "n_shared_experts": 0,
    "zero_expert_num": 0,
    "first_k_dense_replace": 0,
    "n_group": 1,
    "topk_group": 1,
    "num_hash_layers": 0,
}
_FLAGS = ("use_shared_expert_gate", "router_bias", "use_routing_bias", "norm_topk_prob")
