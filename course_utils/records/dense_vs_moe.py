"""Dense against experts: same tokens, same parameters per token (chapter 03).

`python -m course_utils.records.dense_vs_moe [--device cuda] [--jobs 6]` trains a dense model, one
with eight experts of half its width of which a token takes two (so it uses as many parameters, and
a router), and a dense model with as many parameters as all eight experts together; seeds 0, 1, 2.
Writes c03_dense_vs_moe.csv. Minutes on a GPU, some hours on two cores.
"""

from course_utils.moe import MoEConfig
from course_utils.records.small_models import WIDTH, Variant, grid_command, run

RECORD = "c03_dense_vs_moe"
KEYS = ("variant", "seed")
TOLERANCE = {"bits_per_byte": 0.03, "loss_first_step": 1e-3}
EXPERTS = MoEConfig(
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=3 * WIDTH // 2,
    routed_scaling_factor=2.0,  # as in records.granularity
)
VARIANTS = (
    Variant("dense"),
    Variant("8 experts, top-2", EXPERTS, auxiliary=0.01, rate=4e-3),
    Variant("dense, all parameters", intermediate_size=8 * 3 * WIDTH // 2, rate=4e-3),
)


def sample() -> dict:
    """The cheapest row, on the CPU: the dense model, seed 0."""
    return run(VARIANTS[0], 0, "cpu")


if __name__ == "__main__":
    grid_command(__doc__, RECORD, VARIANTS)
