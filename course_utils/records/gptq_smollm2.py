"""SmolLM2-135M with calibrated weights in few bits, and with activations in 8 bits (chapter 14).

`python -m course_utils.records.gptq_smollm2` writes c14_smollm2.csv; its rows are judged by the
perplexity protocol on 2 windows of English and 2 of code. Weights (asymmetric, groups of at most
128 inputs: 96 where a row has 576) are calibrated on 8 windows of 512 tokens of the training split.
4 bits are left out: the file is on a 4-bit grid, so rounding to it again proves nothing.
Activations: every product of the layers in 8 bits, weights with a scale for each output. All of it
is simulated: quality alone is measured. Some five minutes on two cores; the file of SmolLM2 must
have been fetched. Rows are written as they come.

`--target` rounds the whole model by GPTQ to 4 bits with 32 windows of 512 tokens, and prints the
seconds and the peak of memory that it took; nothing is written.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from course_utils.models import DecoderLM
from course_utils.models.pretrained import smollm2
from course_utils.quantization.activation_rounding import Product, one_scale_matmul, products
from course_utils.quantization.awq_model import awq_model
from course_utils.quantization.calibration import InputStats, collect
from course_utils.quantization.gptq_model import gptq_model, grouped
from course_utils.quantization.llm_int8 import int8_matmul, mixed_matmul
from course_utils.quantization.perplexity import SMOLLM2, calibration_windows, perplexity
from course_utils.quantization.rotation import rotation
from course_utils.quantization.smoothquant import smooth_model
from course_utils.records.calibrated import (
    AWQ,
    GPTQ,
    GPTQ_SEARCHED,
    HASHED,
    RTN,
    RTN_SEARCHED,
    bits_per_weight,
    nearest,
)
from course_utils.records.recorded import code_hash, save_record
from course_utils.records.small_models import prepared_corpus

RECORD = "c14_smollm2"
KEYS = ("what", "method", "num_bits")
TOLERANCE = {"nats_per_token": 0.02}
ALL_HASHED = (
    *HASHED,
    *(f"quantization/{part}.py" for part in ("activation_rounding", "llm_int8", "rotation")),
)
PROTOCOL, SAMPLES = replace(SMOLLM2, windows=2), 8
WEIGHTS = [
    ("fp32", 32),
    (RTN, 8),
    *((method, bits) for bits in (3, 2) for method in (RTN, RTN_SEARCHED, AWQ)),
    *((GPTQ, 3), (GPTQ_SEARCHED, 3), (GPTQ, 2), (GPTQ_SEARCHED, 2)),
]
ONE_SCALE, SMOOTH = "one scale", "SmoothQuant"


def rotated_matmul(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """`int8_matmul` after a Hadamard rotation of the inputs, which changes no product."""
    turn_II = _turn(weight_OI.shape[1])
    return int8_matmul(x_TI @ turn_II, weight_OI @ turn_II)


_turn = cache(rotation)
ACTIVATIONS: dict[str, Product] = {
    ONE_SCALE: one_scale_matmul,
    f"{SMOOTH}, {ONE_SCALE}": one_scale_matmul,
    "per token": int8_matmul,
    f"{SMOOTH}, per token": int8_matmul,
    "LLM.int8": mixed_matmul,
    "rotation, per token": rotated_matmul,
}


@cache
def calibration_ids(samples: int = SAMPLES) -> Tensor:
    """(samples, 512) ids of the training split in SmolLM2's tokens."""
    return calibration_windows(smollm2().tokenizer, PROTOCOL, samples)


@cache
def statistics() -> dict[str, InputStats]:
    """The inputs' statistics of the model as it is."""
    return collect(smollm2().model, calibration_ids())


@cache
def unrounded() -> float:
    """Nats per token of the model as it is."""
    smol = smollm2()
    return perplexity(smol.model, smol.tokenizer, PROTOCOL).nats_per_token


def round_weights(model: DecoderLM, method: str, num_bits: int) -> float:
    """Round the linear layers in place; returns the bits of a weight."""
    scheme = grouped(num_bits)
    if method == "fp32":
        return 32.0
    if method == AWQ:
        return bits_per_weight(awq_model(model, statistics(), scheme))
    ids_BT = torch.zeros(1, 8, dtype=torch.long) if method == RTN else calibration_ids()
    options: dict = {"search": method in (RTN_SEARCHED, GPTQ_SEARCHED)}
    options["act_order"] = method == GPTQ_SEARCHED
    if method in (RTN, RTN_SEARCHED):
        options["round_weights"] = nearest
    return bits_per_weight(gptq_model(model, ids_BT, scheme, **options))


@torch.no_grad()
def row(what: str, method: str, num_bits: int) -> dict:
    """One row: rounded weights, or rounded activations and weights."""
    smol = smollm2()
    run: Callable[[Tensor], Tensor] = smol.model
    if what == "weights":
        bits = round_weights(smol.model, method, num_bits)
        found = perplexity(run, smol.tokenizer, PROTOCOL)
        tokens = 0 if method in ("fp32", RTN) else SAMPLES * PROTOCOL.length
    else:
        smooth, bits = method.startswith(SMOOTH), 8.0
        if smooth:
            smooth_model(smol.model, statistics())
        with products(smol.model, ACTIVATIONS[method]):
            found = perplexity(run, smol.tokenizer, PROTOCOL)
        tokens = SAMPLES * PROTOCOL.length if smooth else 0
    made = dict(zip(KEYS, (what, method, num_bits), strict=True))
    made |= {
        "bits_per_weight": round(bits, 4),
        "nats_per_token": round(found.nats_per_token, 5),
        "excess": round(found.nats_per_token - unrounded(), 5),
        "perplexity": round(found.perplexity, 4),
        "tokens": found.tokens,
        "calibration_tokens": tokens,
        "code": code_hash(ALL_HASHED),
        "corpus": prepared_corpus().fingerprint(),
    }
    print(what, method, num_bits, made["excess"], flush=True)
    return made


def grid() -> list[tuple[str, str, int]]:
    """Every row's arguments, in the order of the record."""
    return [("weights", *one) for one in WEIGHTS] + [("activations", one, 8) for one in ACTIVATIONS]


def sample() -> dict:
    """The row that `course verify-records` makes again: activations with a scale for each token."""
    return row("activations", "per token", 8)


def target() -> str:
    """Seconds and peak memory of GPTQ on the whole model: 4 bits, 32 x 512 tokens."""
    smol, ids_BT = smollm2(), calibration_ids(32)
    start = time.perf_counter()
    gptq_model(smol.model, ids_BT, grouped(4))
    seconds = time.perf_counter() - start
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, Linux KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    threads = torch.get_num_threads()
    return f"{ids_BT.numel()} tokens, {threads} threads: {seconds:.0f} s, {peak:.2f} GiB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", action="store_true", help="time GPTQ of the whole model")
    if parser.parse_args().target:
        print(target())
    else:
        made: list[dict] = []
        for setting in grid():
            made.append(row(*setting))
            path = save_record(RECORD, made)
        print(path)
