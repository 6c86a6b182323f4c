"""Speculative decoding with the MTP module beside plain decoding, on the course's dense model.

Same model, same held-out passages, greedy, so both sides must write the same ids; they take turns,
and medians are compared. Float32, 2 threads, batch 1.

Under each speed stands why: the share of first draft tokens that were kept (ours), and the share at
which a round would bring exactly what it cost here (peer), if all places were kept alike. A round's
cost is measured whole, draft and bookkeeping included: its time, in plain steps of the same run.
From 1 on, no acceptance would pay, because no round yields more than k + 1 tokens.
"""

from functools import partial

import torch
from bench_decode import row

from course_utils.display.timing import alternate
from course_utils.generation import (
    MTPDraft,
    generate_greedy,
    generate_speculative,
    shipped_mtp,
)
from course_utils.generation.acceptance import break_even_acceptance
from course_utils.generation.speculative import Speculation
from course_utils.models import shipped
from course_utils.records.acceptance import passages

DOMAINS, LENGTHS = ("english", "code", "arithmetic"), (1, 3)
PASSAGES, NEW, ROUNDS, TARGET = 2, 64, 7, 1.2


def joined(found: list[Speculation]) -> Speculation:
    """The rounds of several texts as those of one."""
    together = Speculation(torch.cat([one.ids_T for one in found]))
    for one in found:
        together.proposed += one.proposed
        together.accepted += one.accepted
    return together


def compare(model, draft: MTPDraft, domain: str, k: int) -> list[dict]:
    """The speeds of both sides, and the acceptance beside the one that would break even."""
    prompts = passages(domain, 0)[:PASSAGES]

    def plain() -> torch.Tensor:
        return torch.cat([generate_greedy(model, prompt_T, NEW) for prompt_T in prompts])

    def speculative() -> Speculation:
        return joined([generate_speculative(model, one_T, NEW, draft, k) for one_T in prompts])

    written = speculative()
    if not torch.equal(written.ids_T, plain()):
        raise ValueError(f"{domain}, k = {k}: the two sides write different ids")
    slow, fast = alternate(plain, speculative, ROUNDS)
    tokens = PASSAGES * NEW
    cost = (fast / len(written.accepted)) / (slow / tokens)  # of a round, in plain steps
    even = break_even_acceptance(k, cost, 0.0)
    speeds = row(f"{domain}, k = {k}: tokens/s", tokens / fast, tokens / slow, TARGET)
    kept, needed = written.acceptance(1), 1.0 if even is None else even
    shares = row(f"{domain}, k = {k}: first draft token kept, break-even", kept, needed, None)
    return [speeds, shares]


@torch.no_grad()
def run() -> list[dict]:
    """Rows for `course bench speculation`."""
    torch.set_num_threads(2)
    model = shipped("dense")
    measure = partial(compare, model, MTPDraft(model, shipped_mtp()))
    return [line for domain in DOMAINS for k in LENGTHS for line in measure(domain, k)]
