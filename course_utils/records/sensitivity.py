"""Which part minds two bits most: one part of the shipped dense model at a time (chapter 14).

`python -m course_utils.records.sensitivity` writes c14_sensitivity.csv. A part is one of the eight
layers, one kind of projection in all layers, or the tied table; it alone is rounded to 2 bits
(asymmetric, groups of at most 128 inputs, to nearest, simulated), all else stays in 32 bits. The
perplexity protocol judges on 4 windows of each domain. "everything" is all parts at once: `excess`
of the parts does not add up to it. Nothing is drawn at random. A minute on one core.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch

from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.quantization.affine import fake_quantize
from course_utils.quantization.gptq_model import grouped
from course_utils.quantization.model import HEAD, quantizable
from course_utils.quantization.perplexity import COURSE, perplexity
from course_utils.records.recorded import CODE, code_hash, save_record
from course_utils.records.small_models import prepared_corpus

RECORD = "c14_sensitivity"
KEYS = ("part", "num_bits")
TOLERANCE = {"nats_per_token": 0.01}
HASHED = (*CODE, *(f"quantization/{part}.py" for part in ("affine", "schemes", "perplexity")))
PROTOCOL, NUM_BITS = replace(COURSE, windows=4), 2
NOTHING, EVERYTHING, TABLE = "nothing", "everything", "embedding and head"
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def parts(model: DecoderLM) -> dict[str, Callable[[str], bool]]:
    """Each part's name, and whether a weight of some name belongs to it."""
    layers = [f"layers.{n}" for n in range(model.config.num_hidden_layers)]
    found: dict[str, Callable[[str], bool]] = {NOTHING: lambda name: False}
    found |= {one: lambda name, one=one: f".{one}." in f".{name}" for one in layers}
    found |= {kind: lambda name, kind=kind: name.endswith(kind) for kind in KINDS}
    return found | {TABLE: lambda name: name == HEAD, EVERYTHING: lambda name: True}


@torch.no_grad()
def row(part: str, unrounded: float | None = None) -> dict:
    """One part rounded. `unrounded`: nats per token of the model as it is, for the excess."""
    model, scheme, count = shipped("dense"), grouped(NUM_BITS), 0
    for name, weight in quantizable(model).items():
        if parts(model)[part](name):
            weight.copy_(fake_quantize(weight, scheme(name, weight.shape[1])))
            count += weight.numel()
    found = perplexity(model, course_tokenizer(), PROTOCOL)
    excess = 0.0 if unrounded is None else found.nats_per_token - unrounded
    return {
        "part": part,
        "num_bits": NUM_BITS,
        "weights": count,
        "nats_per_token": round(found.nats_per_token, 5),
        "excess": round(excess, 5),
        "tokens": found.tokens,
        "code": code_hash(HASHED),
        "corpus": prepared_corpus().fingerprint(),
    }


def rows() -> list[dict]:
    """All rows: nothing rounded first."""
    first = row(NOTHING)
    names = [name for name in parts(shipped("dense")) if name != NOTHING]
    return [first, *(row(name, first["nats_per_token"]) for name in names)]


def sample() -> dict:
    """The row that `course verify-records` makes again: the first layer."""
    return row("layers.0")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    print(save_record(RECORD, rows()))
