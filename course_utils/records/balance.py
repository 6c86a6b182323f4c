"""Balance: no help, an auxiliary loss, a bias without a loss (chapter 04).

`python -m course_utils.records.balance [--device cuda] [--jobs 6]` trains 16 experts, two per
token, with each way of balancing at two strengths, seeds 0, 1, 2, and writes c04_balance.csv with
the loss on held-out text and MaxVio of the last batches. Minutes on a GPU, some hours on two cores.
"""

from course_utils.moe import MoEConfig
from course_utils.records.small_models import WIDTH, Variant, grid_command, run

RECORD = "c04_balance"
KEYS = ("variant", "seed")
TOLERANCE = {"bits_per_byte": 0.03, "loss_first_step": 1e-3}
EXPERTS = MoEConfig(
    num_experts=16,
    num_experts_per_tok=2,
    moe_intermediate_size=3 * WIDTH // 2,
    routed_scaling_factor=2.0,  # as in records.granularity
)
VARIANTS = (
    Variant("none", EXPERTS),
    Variant("auxiliary loss 0.001", EXPERTS, auxiliary=0.001),
    Variant("auxiliary loss 0.01", EXPERTS, auxiliary=0.01),
    Variant("bias u 0.001", EXPERTS, bias_speed=0.001),
    Variant("bias u 0.01", EXPERTS, bias_speed=0.01),
)


def sample() -> dict:
    """One row on the CPU: no balancing, seed 0."""
    return run(VARIANTS[0], 0, "cpu")


if __name__ == "__main__":
    grid_command(__doc__, RECORD, VARIANTS)
