"""The dense checkpoint with half of its cache, two ways, and what a short repair gives back.

`python -m course_utils.records.conversion [--device cuda]` makes of the shipped dense model one
with a single key-value head (heads averaged) and one with latent attention (the same cache: 64
numbers a token and layer), and trains both, and the dense model itself as control, on 60 batches
of 4 x 256 tokens. Seeds 0, 1, 2 choose the batches; the texts to which the latents are fitted stay
the same. The learning rate is the best of three for the latent model (seed 0, 15 batches), used
for all, which may favour it. `ledger_bits` is measured on the 16 windows a domain that all rows of
the ledger use, for the latent model. Writes c07_smaller_cache.csv. A minute on a GPU, some ten
minutes on two cores.
"""

import argparse
from dataclasses import replace

import torch

from course_utils.data.batches import as_ids, draw_windows
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.models.convert import gqa_to_mla
from course_utils.models.pooling import pool_kv_heads
from course_utils.records.recorded import CODE, code_hash, save_record
from course_utils.records.small_models import prepared_corpus
from course_utils.training import TrainingConfig, evaluate, train

RECORD = "c07_smaller_cache"
KEYS = ("variant", "seed")
TOLERANCE = {"bits_before": 0.01, "bits_after": 0.02}
VARIANTS = ("dense", "MQA, heads averaged", "MLA, converted")
RANK, ROPE_DIM = 48, 16
REPAIR = TrainingConfig(60, batch=4, peak_learning_rate=3e-4, warmup_steps=6)
REPAIR_CODE = (*CODE, "models/convert.py", "models/pooling.py")


def fitting_ids() -> torch.Tensor:
    """The 2,048 training tokens to which the latents are fitted, (8, 256)."""
    stream = as_ids(prepared_corpus().stream("train"))
    return draw_windows(stream, 8, 256, torch.Generator().manual_seed(0))


def converted(variant: str) -> DecoderLM:
    """One of `VARIANTS`, before any training."""
    dense = shipped("dense")
    if variant == VARIANTS[0]:
        return dense
    if variant == VARIANTS[1]:
        return pool_kv_heads(dense, 1)
    return gqa_to_mla(dense, RANK, ROPE_DIM, fitting_ids()).model


def bits(model: DecoderLM, device: str, windows: int = 32) -> dict[str, float]:
    """Bits per byte on the test split, by domain and of all."""
    bytes_V = course_tokenizer().token_bytes()
    given = {"split": "test", "windows": windows, "device": device}
    results = evaluate(model, prepared_corpus(), bytes_V, **given)
    return {name: round(result.bits_per_byte, 5) for name, result in results.items()}


def run(variant: str, seed: int, device: str) -> dict:
    """Convert, repair, and measure before and after."""
    model = converted(variant).to(device)
    before = bits(model, device)
    config = replace(REPAIR, seed=seed)
    train(model, as_ids(prepared_corpus().stream("train")), config, progress=False)
    after = bits(model, device)
    row = {
        "variant": variant,
        "seed": seed,
        "parameters": model.count_parameters(),
        "kv_elements_per_token": model.new_cache(1, 1).elements_per_token(),
        "repair_tokens": config.tokens,
        "learning_rate": config.peak_learning_rate,
        "bits_before": before["all"],
        "bits_after": after["all"],
        "ledger_bits": bits(model, device, 16)["all"] if variant == VARIANTS[2] else "",
    }
    row |= {f"{name}_bits": after[name] for name in DOMAINS}
    return row | {"code": code_hash(REPAIR_CODE), "corpus": prepared_corpus().fingerprint()}


def sample() -> dict:
    """One row, on the CPU: the latent model, seed 0."""
    return run(VARIANTS[2], 0, "cpu")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = parser.parse_args().device
    torch.backends.cuda.matmul.allow_tf32 = False
    grid = [(variant, seed) for variant in VARIANTS for seed in (0, 1, 2)]
    print(save_record(RECORD, [run(*place, device) for place in grid]))
