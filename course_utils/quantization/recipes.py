"""Mixed recipes: which part of a model gets how many bits, as published models choose.

Experts are most of the weights of a large model and the least sensitive part of it: each sees few
of the tokens, and a token's result is a sum over several. So they get the fewest bits.

    FastDeploy's WINT2   experts in 2 bits, those of the first layers in 4, all else in 8
    Kimi K2 Thinking     experts in INT4 (groups of 32, trained so), all else in 16

A recipe here is made for a model of the course, by layer, for `quantize_model`. The bytes of the
published models are counted by `accounting.formats`. Left out: choosing bits by measured
sensitivity (chapter 14). Sources: FastDeploy documentation of WINT2; Kimi K2 Thinking model card.
"""

from course_utils.models import ModelConfig
from course_utils.quantization.model import Recipe
from course_utils.quantization.schemes import QuantizationArgs


def wint2_like(config: ModelConfig, early: int, group_size: int = 64) -> Recipe:
    """Experts in 2 bits, those of the first `early` layers with experts in 4; the rest in 8.

    Raises ValueError for a model without experts.
    """
    first = _first_expert_layer(config)
    w4 = QuantizationArgs(4, symmetric=False, strategy="group", group_size=group_size)
    w2 = QuantizationArgs(2, symmetric=False, strategy="group", group_size=group_size)
    named = {f"model.layers.{n}.mlp.experts.*": w4 for n in range(first, first + early)}
    return named | {"*.mlp.experts.*": w2, "*": QuantizationArgs(8)}


def int4_experts(config: ModelConfig) -> Recipe:
    """Kimi K2 Thinking's: the routed experts in INT4, groups of 32; nothing else."""
    _first_expert_layer(config)
    return {"*.mlp.experts.*": QuantizationArgs(4, True, "group", 32)}


def _first_expert_layer(config: ModelConfig) -> int:
    if config.moe is None:
        raise ValueError("the model has no experts: give each layer's projections bits by name")
    return config.moe.first_k_dense_replace
