"""Rounding after training against rounding during training, at few bits (chapter 15).

`python -m course_utils.records.qat [--devices cuda:0] [--jobs 14]` trains on from the
shipped checkpoints on 600 batches of 8 x 256 tokens, seeds 0, 1, 2, at two learning rates:

- in 32 bits, and rounds the result in each way ("after"): the control, so that QAT gets no more
  training than what it is compared with;
- with the weights rounded in every forward pass ("during").

The dense model: all projections in 2 bits (groups of 64, with a zero point) or ternary. The model
of experts: the experts alone, in 4 bits (groups of 32, as Kimi K2 Thinking) or in 2 (groups of 32).
Last, small dense models from random weights, in 32 bits and ternary all along, as BitNet trains.

Each row has the validation split, by which the rate is chosen, and the test split, which is
reported. Writes c15_qat.csv. Minutes on a GPU, some hours on two cores; `--models dense small`
leaves out the experts.

Beside these, short runs of the dense model: 24 batches of 4 x 128 tokens, four windows. `--models`
with no name makes them alone, in some minutes on two cores. They show a beginning and no more.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from course_utils.data.batches import as_ids
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.moe import experts_dense
from course_utils.quantization import QuantizationArgs
from course_utils.quantization.qat import QuantizationAware, Rounding, fake_affine, fake_ternary
from course_utils.records.recorded import EXPERT_CODE, code_hash, save_record
from course_utils.records.small_models import (
    Variant,
    model_config,
    prepared_corpus,
    run_grid,
    training_config,
)
from course_utils.training import BiasUpdate, TrainingConfig, evaluate, train

RECORD = "c15_qat"
KEYS = ("model", "weights", "rounded", "learning_rate", "seed", "tokens")
TOLERANCE = {"validation": 0.03, "test": 0.03}
CODE = tuple(f"quantization/{name}.py" for name in ("schemes", "affine", "ternary", "qat"))
STEPS, SEEDS = 600, (0, 1, 2)
RATES = {"dense": (5e-4, 2e-3), "moe": (5e-4, 2e-3), "small": (2e-3, 4e-3)}
WINDOWS = 32  # per domain and split, of 256 tokens
SHORT_STEPS, SHORT_WINDOWS = 24, 4
BIAS_SPEED = 0.001
PROJECTIONS, EXPERTS = "*_proj.weight", "*.mlp.experts.*"
FULL = "32 bits"


def rounding(bits: int, group_size: int, symmetric: bool) -> Rounding:
    """Affine rounding in groups, with a straight-through gradient."""
    return partial(fake_affine, args=QuantizationArgs(bits, symmetric, "group", group_size))


RECIPES: dict[str, dict[str, dict[str, Rounding]]] = {
    "dense": {
        "2 bits": {PROJECTIONS: rounding(2, 64, symmetric=False)},
        "ternary": {PROJECTIONS: fake_ternary},
    },
    "moe": {
        "experts 4 bits": {EXPERTS: rounding(4, 32, symmetric=True)},
        "experts 2 bits": {EXPERTS: rounding(2, 32, symmetric=False)},
    },
    "small": {"ternary": {PROJECTIONS: fake_ternary}},
}


def start(name: str, seed: int, device: str) -> DecoderLM:
    """The model before training: a shipped checkpoint, or for "small" random weights."""
    if name == "small":
        return DecoderLM(model_config(Variant("dense")), seed=seed).to(device)
    # All experts on all tokens gives the same numbers, and on a GPU small ones need no counting.
    options = {"dispatch": experts_dense} if name == "moe" and device != "cpu" else {}
    return shipped(name, **options).to(device)


def recipe(name: str, rate: float, seed: int, steps: int) -> TrainingConfig:
    """600 steps from a checkpoint; from random weights, the 1,500 of all small models."""
    if name == "small":
        return training_config(seed, rate)
    if steps == SHORT_STEPS:
        return TrainingConfig(steps, 4, 128, peak_learning_rate=rate, warmup_steps=4, seed=seed)
    return TrainingConfig(steps, peak_learning_rate=rate, warmup_steps=30, seed=seed)


def bits(model: Callable, device: str, windows: int) -> dict[str, float]:
    """Bits per byte of all domains, by split."""
    bytes_V, corpus = course_tokenizer().token_bytes(), prepared_corpus()
    given = {"windows": windows, "device": device}
    return {
        split: round(evaluate(model, corpus, bytes_V, split=split, **given)["all"].bits_per_byte, 5)
        for split in ("validation", "test")
    }


def run(name: str, weights: str, rate: float, seed: int, device: str, steps: int = STEPS) -> list:
    """Train one model; its rows: one, or for 32 bits also one for each rounding afterwards."""
    model = start(name, seed, device)
    trained: nn.Module = model
    if weights != FULL:
        trained = QuantizationAware(model, RECIPES[name][weights])
    config = recipe(name, rate, seed, steps)
    hooks = [BiasUpdate(BIAS_SPEED)] if name == "moe" else []
    stream = as_ids(prepared_corpus().stream("train"))
    train(trained, stream, config, after_step=hooks, progress=False)
    same = {"learning_rate": rate, "seed": seed, "tokens": config.tokens}
    hashes = {"code": code_hash((*EXPERT_CODE, *CODE)), "corpus": prepared_corpus().fingerprint()}

    def row(kind: str, when: str, rounded: Callable) -> dict:
        measured = bits(rounded, device, SHORT_WINDOWS if steps == SHORT_STEPS else WINDOWS)
        return {"model": name, "weights": kind, "rounded": when, **same, **measured}

    if weights != FULL:
        return [row(weights, "during", trained) | hashes]
    rows = [row(FULL, "never", model)]
    for kind, patterns in RECIPES[name].items():
        rows.append(row(kind, "after", QuantizationAware(model, patterns)))
    return [one | hashes for one in rows]


def sample() -> dict:
    """One row, on the CPU: the short run of the dense model with 2 bits during training, seed 0."""
    return run("dense", "2 bits", RATES["dense"][0], 0, "cpu", SHORT_STEPS)[0]


MODELS = ("small", "moe", "dense")


def grid(devices: list[str], names: Sequence[str] = MODELS, steps: int = STEPS) -> list[tuple]:
    """All runs of these models, the longest first, dealt out to the devices in turn."""
    wanted = [
        (name, weights, rate, seed)
        for name in names
        for weights in (FULL, *RECIPES[name])
        for rate in RATES[name]
        for seed in SEEDS
    ]
    return [(*one, devices[n % len(devices)], steps) for n, one in enumerate(wanted)]


def short_grid(devices: list[str]) -> list[tuple]:
    """The short runs of the dense model."""
    return grid(devices, ["dense"], SHORT_STEPS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--devices", nargs="+", default=[usual])
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    wanted = grid(arguments.devices, arguments.models) + short_grid(arguments.devices)
    found = run_grid(run, wanted, arguments.jobs)
    print(save_record(RECORD, [row for rows in found for row in rows]))
