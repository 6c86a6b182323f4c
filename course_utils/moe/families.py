"""From the config that a model family publishes to an `MoEConfig`: sizes, and the router's rule.

    moe_config({"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, ...})

A published config states only part of the rule; the rest is in the family's code. FAMILIES holds
that rest: what a family `always` does, which keys it `reads`, and which values of other keys it
`expects`, because the code that is known does nothing else. A key that decides the rule and is
missing is an error, never a guess: the defaults in `transformers` are often not what was trained
(`norm_topk_prob` is False there, True in Qwen3's own configs).

Source: the routers of `transformers` 5.23, class by class; for "deepseek" (DeepSeekMoE-16B) the
code that its checkpoint comes with. Left out: what is inside the experts (gpt-oss's biases and
clamp, MiniMax-M3's activation), and families whose experts work on a latent (Kimi K3).
"""

from dataclasses import dataclass, field
from typing import Any

from course_utils.moe.config import MoEConfig
from course_utils.moe.published_sizes import first, one, sizes


@dataclass(frozen=True)
class Family:
    """A rule: fixed values of `MoEConfig`, keys to read, and the only values that others may have.

    `reads` maps a field of `MoEConfig` to the family's key; `expects` a key to its values; `usual`
    has values of keys that may be left out.
    """

    always: dict[str, Any] = field(default_factory=dict)
    reads: dict[str, str] = field(default_factory=dict)
    expects: dict[str, tuple] = field(default_factory=dict)
    usual: dict[str, Any] = field(default_factory=dict)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_SHARED_GATE = {"use_shared_expert_gate": True}
_CORRECTED = {"scoring_func": "sigmoid", "use_routing_bias": True, "group_score": "top2_sum"}
_NOAUX = {"scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)}
_SUMMED = Family(expects={"norm_topk_prob": (True,)})
_SOFTMAX = Family(reads=_same("norm_topk_prob"), expects={"scoring_func": ("softmax",)})
_SOFTMAX_GATED = Family(always=_SHARED_GATE, reads=_same("norm_topk_prob"))
_V2 = Family(
    always={"norm_topk_prob": False, "group_score": "max"},
    reads=_same("routed_scaling_factor"),
    expects={"scoring_func": ("softmax",), "norm_topk_prob": (False,)},
)
_V3 = Family(
    always=_CORRECTED,
    reads=_same("n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor"),
    expects=_NOAUX,
)
_MINIMAX = {"scoring_func": ("sigmoid",), "use_routing_bias": (True,)}
_M3 = Family(always=_CORRECTED, reads=_same("routed_scaling_factor"), expects=_MINIMAX)

FAMILIES = {
    "mixtral": _SUMMED,
    "minimax": _SUMMED,
    "minimax_text_01": _SUMMED,
    "olmoe": _SOFTMAX,
    "qwen2_moe": _SOFTMAX_GATED,
    "qwen3_moe": _SOFTMAX,
    "qwen3_next": _SOFTMAX_GATED,
    "qwen3_5_moe_text": Family(always=_SHARED_GATE, expects=_SUMMED.expects),
    "hunyuan_v1_moe": Family(
        always={"n_shared_experts": 1}, expects=_SUMMED.expects | {"num_shared_expert": (1,)}
    ),
    "gpt_oss": Family(always={"scoring_func": "softmax_of_chosen", "router_bias": True}),
    "deepseek": _SOFTMAX,
    "deepseek_v2 greedy": _V2,
    "deepseek_v2 group_limited_greedy": Family(
        _V2.always, _V2.reads | _same("n_group", "topk_group"), _V2.expects
    ),
    "deepseek_v3": _V3,
    "deepseek_v32": _V3,
    "kimi_k2": _V3,
    "glm4_moe": _V3,
    "glm_moe_dsa": _V3,
    "dots1": _V3,
    "kimi_linear": Family(
        always=_CORRECTED,
        reads={
            "n_group": "num_expert_group",
            "topk_group": "topk_group",
            "norm_topk_prob": "moe_renormalize",
            "routed_scaling_factor": "routed_scaling_factor",
        },
        expects={"moe_router_activation_func": ("sigmoid",), "routed_expert_hidden_size": (None,)},
    ),
    "minimax_m2": Family(always=_CORRECTED, expects=_MINIMAX),
    "minimax_m3": _M3,
    "minimax_m3_vl_text": _M3,
    "ernie4_5_moe": Family(
        always={"use_routing_bias": True},
        reads=_same("moe_norm_min"),
        usual={"moe_norm_min": 1e-12},
    ),
    "longcat_flash": Family(
        always={"use_routing_bias": True, "norm_topk_prob": False},
        reads=_same("routed_scaling_factor", "zero_expert_num"),
        expects={
            "norm_topk_prob": (False,),
            "zero_expert_type": ("identity",),
            "router_bias": (False,),
        },
    ),
    "deepseek_v4": Family(
        always={"use_routing_bias": True, "scoring_func": "sqrtsoftplus"},
        reads=_same("routed_scaling_factor"),
        expects={
            "scoring_func": ("sqrtsoftplus",),
            "norm_topk_prob": (True,),
            "topk_method": ("noaux_tc",),
        },
    ),
}


def moe_config(published: dict[str, Any]) -> MoEConfig:
    """The MoE layer of a published `config.json`, given as a dict with `transformers`' keys.

    Raises ValueError that names an unknown model type, a missing key, or a value for which the
    family's code does nothing. Sizes must be the same in all layers with experts.
    """
    config = published.get("text_config") or published
    family = _family(config)
    for key, values in family.expects.items():
        if key in config and one(config, key) not in values:
            raise ValueError(f"{key} is {config[key]!r}: {config['model_type']} has only {values}")
    rule = {name: first(family.usual | config, key) for name, key in family.reads.items()}
    return MoEConfig(**(sizes(config) | rule | family.always))


def _family(config: dict[str, Any]) -> Family:
    name = config.get("model_type")
    if name == "deepseek_v2":  # one class, two rules
        name = f"{name} {config.get('topk_method')}"
    if name not in FAMILIES:
        raise ValueError(f"model_type is {name!r}: known are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
