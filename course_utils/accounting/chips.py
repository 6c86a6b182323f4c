"""Chips: peak speeds, memory and bandwidth, with a source for each.

Peaks are dense (without 2:4 sparsity), for one device. `None` means that no source was found, not
that the chip cannot do it. The balance of a chip is how many operations it can do for each byte
that it reads: work with a lower arithmetic intensity waits for memory.

Left out: links between chips. Sources: `chips.json`, for each chip.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Chip:
    """One device. `confidence` says how good the source is: high, medium or low."""

    name: str
    bf16_tflops: float | None
    fp8_tflops: float | None
    memory_gb: float | None
    bandwidth_tb_s: float | None
    dollars_per_hour: float | None
    confidence: str
    source: str
    note: str = ""

    @property
    def balance(self) -> float | None:
        """Operations in bf16 for each byte of memory traffic."""
        if self.bf16_tflops is None or self.bandwidth_tb_s is None:
            return None
        return self.bf16_tflops / self.bandwidth_tb_s


@cache
def chips() -> dict[str, Chip]:
    """All chips by name."""
    values = json.loads(Path(__file__).with_name("chips.json").read_text(encoding="utf-8"))
    return {name: Chip(name, **value) for name, value in values.items()}


def chip(name: str) -> Chip:
    """The chip of that name; ValueError lists the names."""
    if name not in chips():
        raise ValueError(f"unknown chip {name!r}: choose from {', '.join(chips())}")
    return chips()[name]


def cards_needed(weight_bytes: float, cache_bytes: float, name: str) -> int:
    """How many of these chips hold weights and cache together, without room for anything else."""
    memory = chip(name).memory_gb
    if memory is None:
        raise ValueError(f"memory_gb of {name} is not known: choose another chip")
    return -int(-(weight_bytes + cache_bytes) // (memory * 1e9))
