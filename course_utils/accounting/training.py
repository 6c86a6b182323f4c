"""What a training run costs: operations, hours of a chip, the share of its peak used, money.

    hours = operations / (peak x MFU) / 3600        MFU = operations / (hours x 3600 x peak)

MFU is only as good as the count of operations in it: with 6 N D, with causal attention, or with the
full square of scores, the same run has three of them. Peaks are dense, without structured sparsity.
Left out: failures, restarts, experiments before the final run, people, power.
Sources: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, for 6 N D; Chowdhery et al. 2022
(arXiv 2204.02311), section 4.1 and appendix B, for MFU.
"""

from course_utils.accounting.tensors import Count

SECONDS = 3600  # of an hour


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: give a number above 0")


def training_cost(
    count: Count, tokens: float, peak_flops: float, mfu: float, dollars_per_hour: float
) -> tuple[float, float]:
    """GPU-hours and dollars of a run, by 6 N D with the parameters that a token uses.

    peak_flops: operations a second of one chip; mfu: the share of them that is used, 0.35 for 35%.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is {mfu}: a share, above 0 and at most 1")
    flops = 6 * count.activated * tokens
    hours = flops / (peak_flops * mfu) / 3600
    return hours, hours * dollars_per_hour


def achieved_flops(flops: float, hours: float) -> float:
    """Operations a second that each chip got done."""
    _positive(flops=flops, hours=hours)
    return flops / (hours * SECONDS)


def mfu(flops: float, hours: float, peak_flops: float) -> float:
    """The share of the peak that was used."""
    _positive(peak_flops=peak_flops)
    return achieved_flops(flops, hours) / peak_flops


def cost(hours: float, price_per_hour: float) -> float:
    """Money for renting the chips."""
    _positive(hours=hours, price_per_hour=price_per_hour)
    return hours * price_per_hour


def days(hours: float, chips: int) -> float:
    """Days on a clock when `chips` chips share the hours."""
    _positive(hours=hours, chips=chips)
    return hours / chips / 24


def saving(before: float, after: float) -> float:
    """The share that is saved: 0.25 when 100 became 75."""
    _positive(before=before)
    return 1 - after / before
