"""Rounding, AWQ and GPTQ at 8 to 2 bits on the shipped dense model (chapter 14).

`python -m course_utils.records.calibrated [--jobs 2]` writes c14_calibrated.csv. The linear layers
of the layers are rounded (simulated: quality alone is measured), the tied table stays as it is;
groups of at most 128 inputs (96 where a row has 192). Each method reads 32 windows of 512 tokens of
the training split, drawn with seeds 0, 1, 2; the perplexity protocol judges on 8 windows of each
domain of the test split (chapter 13 reads 16).

"searched" scales cut the range, weighed by the inputs (`scale_search`); "GPTQ, searched" also
rounds columns with large inputs first. "RTN, searched" has the same search and no correction, so
what is between the two is GPTQ's own. Rows with calibration "test" make the mistake of calibrating
on the windows that are judged. "dense with outliers" computes the same as "dense": in every norm 4
channels are 30 times larger, and the columns that read them 30 times smaller.
About five minutes on two cores.
"""

import argparse
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.quantization.awq_model import awq_model
from course_utils.quantization.calibration import InputStats, collect
from course_utils.quantization.gptq import Codes
from course_utils.quantization.gptq_model import gptq_model, grouped
from course_utils.quantization.perplexity import (
    COURSE,
    calibration_windows,
    evaluation_windows,
    perplexity,
)
from course_utils.quantization.schemes import QuantizationArgs
from course_utils.quantization.smoothquant import fold, norm_readers
from course_utils.records.recorded import CODE, code_hash, save_record
from course_utils.records.small_models import prepared_corpus, run_grid

RECORD = "c14_calibrated"
KEYS = (
    *("model", "method", "num_bits", "symmetric", "group_size"),
    *("calibration", "seed"),
)
TOLERANCE = {"nats_per_token": 0.02}
PARTS = (
    *("affine", "schemes", "perplexity", "calibration", "gptq", "gptq_model", "scale_search"),
    *("awq", "awq_model", "smoothquant"),
)
HASHED = (*CODE, *(f"quantization/{part}.py" for part in PARTS))
PLAIN, PLANTED = "dense", "dense with outliers"
RTN, RTN_SEARCHED, AWQ = "RTN", "RTN, searched", "AWQ"
GPTQ, GPTQ_SEARCHED = "GPTQ", "GPTQ, searched"
CALIBRATED = (RTN_SEARCHED, AWQ, GPTQ, GPTQ_SEARCHED)
SCHEMES = ((8, 1), (4, 1), (3, 1), (3, 0), (2, 0))  # bits, symmetric
LOW = ((3, 0), (2, 0))
SEEDS, SAMPLES, MOST = (0, 1, 2), 32, 128
PROTOCOL = replace(COURSE, windows=8)


def nearest(
    weight_OI: Tensor, upper_II: Tensor, scale_OI: Tensor, zero_OI: Tensor, args: QuantizationArgs
) -> Tensor:
    """`round_columns` without handing on the errors: rounding to nearest with the given scales."""
    return ((weight_OI / scale_OI).round() + zero_OI).clamp(args.q_min, args.q_max)


@torch.no_grad()
def plant(model: DecoderLM, channels: int = 4, factor: float = 30.0) -> DecoderLM:
    """Make channels of each norm's output larger and their readers smaller, in place."""
    generator = torch.Generator().manual_seed(0)
    for norm_I, readers in norm_readers(model):
        scale_I = torch.ones_like(norm_I)
        scale_I[torch.randperm(len(norm_I), generator=generator)[:channels]] = 1 / factor
        fold(norm_I, [part.weight for part in readers.values()], scale_I)
    return model


def fresh(name: str) -> DecoderLM:
    """A copy of the model of a row that may be changed."""
    return shipped("dense") if name == PLAIN else plant(shipped("dense"))


@cache
def calibration_ids(calibration: str, seed: int) -> Tensor:
    """(32, 512) ids: of the training split, or the very windows that are judged."""
    if calibration == "train":
        return calibration_windows(course_tokenizer(), PROTOCOL, SAMPLES, seed)
    return evaluation_windows(course_tokenizer(), PROTOCOL)


@cache
def statistics(name: str, calibration: str, seed: int) -> dict[str, InputStats]:
    """The inputs' statistics of a model that is not rounded."""
    return collect(fresh(name), calibration_ids(calibration, seed))


def rounded(
    name: str, method: str, num_bits: int, symmetric: int, most: int, calibration: str, seed: int
) -> tuple[DecoderLM, dict[str, Codes]]:
    """The model rounded as a row says, and its codes."""
    model, scheme = fresh(name), grouped(num_bits, most, bool(symmetric))
    if method == RTN:
        ids_BT = torch.zeros(1, 8, dtype=torch.long)  # nothing of it is used
        return model, gptq_model(model, ids_BT, scheme, round_weights=nearest)
    if method == AWQ:
        return model, awq_model(model, statistics(name, calibration, seed), scheme)
    ids_BT = calibration_ids(calibration, seed)
    search = method in (RTN_SEARCHED, GPTQ_SEARCHED)
    options = {"search": search, "act_order": method == GPTQ_SEARCHED}
    if method == RTN_SEARCHED:
        options["round_weights"] = nearest
    return model, gptq_model(model, ids_BT, scheme, **options)


def bits_per_weight(codes: dict[str, Codes]) -> float:
    """Over all rounded weights, scales counted with 16 bits."""
    weights = sum(one.codes_OI.numel() for one in codes.values())
    parts = codes.values()
    bits = sum(one.args.bits_per_weight(one.codes_OI.shape) * one.codes_OI.numel() for one in parts)
    return bits / weights


@cache
def unrounded(name: str) -> float:
    """Nats per token of the model as it is."""
    return perplexity(fresh(name), course_tokenizer(), PROTOCOL).nats_per_token


@torch.no_grad()
def row(
    name: str, method: str, num_bits: int, symmetric: int, most: int, text: str, seed: int
) -> dict:
    """One row of the record."""
    setting = (name, method, num_bits, symmetric, most, text, seed)
    model, bits = fresh(name), 32.0
    if method != "fp32":
        model, codes = rounded(*setting)
        bits = bits_per_weight(codes)
    found = perplexity(model, course_tokenizer(), PROTOCOL)
    made = dict(zip(KEYS, setting, strict=True))
    made |= {
        "bits_per_weight": round(bits, 4),
        "nats_per_token": round(found.nats_per_token, 5),
        "excess": round(found.nats_per_token - unrounded(name), 5),
        "perplexity": round(found.perplexity, 4),
        "tokens": found.tokens,
        "calibration_tokens": 0 if text == "none" else SAMPLES * PROTOCOL.length,
        "code": code_hash(HASHED),
        "corpus": prepared_corpus().fingerprint(),
    }
    print(*setting, made["excess"], flush=True)
    return made


def grid() -> list[tuple]:
    """Every row's arguments, in the order of the record."""
    found = [(name, "fp32", 32, 1, 0, "none", 0) for name in (PLAIN, PLANTED)]
    for scheme in SCHEMES:
        seeds = (0,) if scheme == (8, 1) else SEEDS
        found.append((PLAIN, RTN, *scheme, MOST, "none", 0))
        found += [(PLAIN, one, *scheme, MOST, "train", s) for one in CALIBRATED for s in seeds]
    found.append((PLANTED, RTN, 4, 1, MOST, "none", 0))
    planted = [(PLANTED, one, 4, 1, MOST, "train") for one in (AWQ, GPTQ_SEARCHED)]
    found += [(*setting, seed) for setting in planted for seed in SEEDS]
    return found + [(PLAIN, GPTQ_SEARCHED, *scheme, MOST, "test", 0) for scheme in LOW]


def one_thread_row(*setting) -> dict:
    """`row` with one thread, so that several processes share the cores."""
    torch.set_num_threads(1)
    return row(*setting)


def sample() -> dict:
    """The row that `course verify-records` makes again: GPTQ, searched, at 3 bits, seed 0."""
    return row(PLAIN, GPTQ_SEARCHED, 3, 0, MOST, "train", 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="rows made at the same time")
    jobs = parser.parse_args().jobs
    print(save_record(RECORD, run_grid(one_thread_row if jobs > 1 else row, grid(), jobs)))
