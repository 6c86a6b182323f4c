"""The claims ledger: what was claimed, where, whether it holds, and the computation that shows it.

    for claim in claims():
        claim.verdict, claim.results, claim.recompute()

A claim is true, false, imprecise (right in part, or with another number), or unverifiable: no
source, or none that can be read again. `results` are the digits as a reader should see them;
`recompute()` gets them anew from configs and published figures, and both must be equal.

Left out: claims without a number have no computation, and rest on the source that is named.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

VERDICTS = ("true", "false", "imprecise", "unverifiable")


@dataclass(frozen=True)
class Claim:
    """One row of the ledger. `where` names documents, `inputs` is what the computation is given."""

    id: int
    claim: str
    where: tuple[str, ...]
    verdict: str
    fact: str
    source: str
    computation: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)

    def recompute(self) -> dict[str, str]:
        """The results, computed now. ValueError when there is nothing to compute."""
        if not self.computation:
            raise ValueError(f"claim {self.id} has no computation: see its source, {self.source}")
        from course_utils.accounting.claim_checks import COMPUTATIONS

        return COMPUTATIONS[self.computation](**self.inputs)


@lru_cache(maxsize=1)
def claims() -> tuple[Claim, ...]:
    """All claims, by number."""
    rows = json.loads(Path(__file__).with_name("claims.json").read_text(encoding="utf-8"))
    return tuple(Claim(**(row | {"where": tuple(row["where"])})) for row in rows)


def find_claim(number: int) -> Claim:
    """The claim of that number; ValueError says which there are."""
    for claim in claims():
        if claim.id == number:
            return claim
    raise ValueError(f"there is no claim {number}: they are numbered 1 to {len(claims())}")
