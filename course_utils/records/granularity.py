"""Granularity: few wide experts, many narrow ones, and a shared one (chapter 05).

`python -m course_utils.records.granularity [--device cuda] [--jobs 6]` trains models whose tokens
all use the same number of expert parameters, cut into two, four or eight experts, with and without
one that is always on; seeds 0, 1, 2. Writes c05_granularity.csv. Minutes on a GPU, some hours on
two cores.

The weights of a token's experts add up to their number, not to 1: each then weighs about as much as
the same piece of a dense layer, and outputs start at the same size however fine the cut. With a sum
of 1, eight narrow experts start eight times quieter, and fine cuts lose at this length (seed 0:
1.742 bits per byte for 32 experts, against 1.692). DeepSeek-V3's `routed_scaling_factor` of 2.5 for
eight experts goes the same way.
"""

from course_utils.moe import MoEConfig
from course_utils.records.small_models import WIDTH, Variant, grid_command, run

RECORD = "c05_granularity"
KEYS = ("variant", "seed")
TOLERANCE = {"bits_per_byte": 0.03, "loss_first_step": 1e-3}
ACTIVE = 3 * WIDTH  # the width that a token uses in every variant


def _cut(pieces: int, shared: int = 0) -> MoEConfig:
    """A quarter of the experts is on: `pieces` of 4 * `pieces`, `shared` of them always."""
    return MoEConfig(
        num_experts=4 * pieces - shared,
        num_experts_per_tok=pieces - shared,
        moe_intermediate_size=ACTIVE // pieces,
        n_shared_experts=shared,
        routed_scaling_factor=float(pieces - shared),
    )


VARIANTS = (
    Variant("dense"),
    Variant("8 experts, top-2", _cut(2), auxiliary=0.01, rate=4e-3),
    Variant("16 experts, top-4", _cut(4), auxiliary=0.01),
    Variant("32 experts, top-8", _cut(8), auxiliary=0.01),
    Variant("31 experts, top-7, 1 shared", _cut(8, shared=1), auxiliary=0.01),
)


def sample() -> dict:
    """One row on the CPU: eight experts, seed 0."""
    return run(VARIANTS[1], 0, "cpu")


if __name__ == "__main__":
    grid_command(__doc__, RECORD, VARIANTS)
