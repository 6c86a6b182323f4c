"""The shipped MoE checkpoint: how it was trained, and its learning curve (chapters 03 to 06).

`python -m course_utils.records.moe [--device cuda]` trains a model like DeepSeek-V3 in small: one
dense layer, then seven with sixteen narrow experts of which a token takes four, and a shared one;
sigmoid scores, balanced by a bias and no loss. Same data, tokens and schedule as the dense
checkpoint. The weights go to models/shipped/moe.safetensors (bfloat16), the curve to c03_moe.csv.
Minutes on a GPU, most of a day on two cores.
"""

from dataclasses import replace

from course_utils.models import ModelConfig
from course_utils.moe import MoEConfig, experts_dense
from course_utils.records.checkpoint import checkpoint_command
from course_utils.records.dense import dense_config
from course_utils.training import BiasUpdate

RECORD = "c03_moe"
BIAS_SPEED = 0.001


def moe_config() -> ModelConfig:
    """6.3 million parameters, of which a token uses 3.1 million."""
    experts = MoEConfig(
        num_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=64,
        n_shared_experts=1,
        first_k_dense_replace=1,
        scoring_func="sigmoid",
        use_routing_bias=True,
        routed_scaling_factor=4.0,  # as in records.granularity
    )
    return replace(dense_config(), moe=experts)


if __name__ == "__main__":
    checkpoint_command(
        "moe",
        RECORD,
        __doc__,
        moe_config(),
        f"next-token prediction from random weights, routers balanced by a bias, u {BIAS_SPEED}",
        after_step=[BiasUpdate(BIAS_SPEED)],
        on_gpu={"dispatch": experts_dense},  # the same numbers; small experts need no counting
    )
