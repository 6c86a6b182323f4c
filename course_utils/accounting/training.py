"""What a training run costs: operations, hours of a chip, the share of its peak used, money.

    hours = operations / (peak x MFU) / 3600        MFU = operations / (hours x 3600 x peak)

MFU is only as good as the count of operations in it: with 6 N D, with causal attention, or with the
full square of scores, the same run has three of them. Peaks are dense, without structured sparsity.
Left out: failures, restarts, experiments before the final run, people, power.
"""

SECONDS = 3600


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: give a number above 0")


def gpu_hours(flops: float, peak_flops: float, mfu: float) -> float:
    """Hours of one chip with `peak_flops` operations a second, of which the share `mfu` is used."""
    _positive(flops=flops, peak_flops=peak_flops, mfu=mfu)
    if mfu > 1:
        raise ValueError(f"mfu is {mfu}: a share, so at most 1")
    return flops / (peak_flops * mfu) / SECONDS


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
