"""How many draft tokens the dense model keeps: by domain, temperature and draft (chapter 09).

`python -m course_utils.records.acceptance [--jobs 4]` continues passages of held-out text with the
MTP module and with n-grams as drafts, three tokens a round, for seeds 0, 1, 2 (other passages and
other random numbers for each), and writes c09_acceptance.csv. Minutes on a CPU.

`first`, `second`, `third` are the shares kept at each place, among those whose predecessors were
kept; `proposals` how many tokens were proposed at the first place; `tokens_per_round` counts the
target's own token. Shares of places that were never reached are left empty.
"""

import argparse
from functools import cache
from itertools import product

import torch

from course_utils.data.batches import as_ids
from course_utils.data.texts import DOMAINS
from course_utils.generation import MTPDraft, NgramDraft, generate_speculative, shipped_mtp
from course_utils.generation.drafts import Draft
from course_utils.generation.speculative import Speculation
from course_utils.models import DecoderLM, shipped
from course_utils.records.mtp import MTP_CODE
from course_utils.records.recorded import code_hash, save_record
from course_utils.records.small_models import prepared_corpus, run_grid

RECORD = "c09_acceptance"
KEYS = ("draft", "domain", "temperature", "seed")
TOLERANCE = {"tokens_per_round": 0.2, "first": 0.15}
DRAFTS, TEMPERATURES, SEEDS = ("mtp", "ngram"), (0.0, 1.0), (0, 1, 2)
PASSAGES, PROMPT, NEW, K = 6, 64, 100, 3
PLACES = ("first", "second", "third")
CODE = (*MTP_CODE, "generation/acceptance.py", "generation/drafts.py", "generation/speculative.py")


@cache
def models() -> tuple[DecoderLM, dict[str, Draft]]:
    """The target and its drafts, loaded once in each process."""
    dense = shipped("dense")
    drafts = {"mtp": MTPDraft(dense, shipped_mtp()), "ngram": NgramDraft(dense.config.vocab_size)}
    return dense, drafts


def passages(domain: str, seed: int) -> torch.Tensor:
    """(PASSAGES, PROMPT) ids from random places of the test split, the same for every draft."""
    ids = as_ids(prepared_corpus().ids["test"][domain])
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(ids) - PROMPT, (PASSAGES,), generator=generator)
    return torch.stack([ids[start : start + PROMPT] for start in starts.tolist()])


def run(draft: str, domain: str, temperature: float, seed: int) -> dict:
    """One row: all passages of a domain, continued."""
    torch.set_num_threads(1)
    dense, drafts = models()
    together = Speculation(torch.empty(0))
    for number, prompt_T in enumerate(passages(domain, seed)):
        one = generate_speculative(
            dense,
            prompt_T,
            NEW,
            drafts[draft],
            K,
            temperature=temperature,
            seed=seed * PASSAGES + number,
        )
        together.proposed += one.proposed
        together.accepted += one.accepted
    row = {"draft": draft, "domain": domain, "temperature": temperature, "seed": seed}
    row |= {"rounds": len(together.accepted), "proposals": sum(n > 0 for n in together.proposed)}
    for place, name in enumerate(PLACES, 1):
        share = together.acceptance(place)
        row[name] = round(share, 4) if share == share else ""
    row["tokens_per_round"] = round(together.tokens_per_round(), 4)
    return row | {"code": code_hash(CODE), "corpus": prepared_corpus().fingerprint()}


def sample() -> dict:
    """One row: the MTP module on arithmetic, greedy, seed 0."""
    return run("mtp", "arithmetic", 0.0, 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="rows measured at the same time")
    grid = list(product(DRAFTS, DOMAINS, TEMPERATURES, SEEDS))
    print(save_record(RECORD, run_grid(run, grid, parser.parse_args().jobs)))
