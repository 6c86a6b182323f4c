"""Rounding to nearest at 8 to 2 bits: the shipped dense model and SmolLM2 (chapter 13).

`python -m course_utils.records.quantization` writes c13_rounding.csv. Each model is rounded by one
scheme (all its matrices, the tied table too), dequantized (simulated: quality alone is measured)
and read by the protocol of `quantization/perplexity.py`. `--models ours` or `--models SmolLM2`
makes the rows of one model again and keeps those of the other.

SmolLM2's file is already Q4_1 (4 bits, groups of 32, with a minimum), so 4 bits are not measured on
it: rounding to the grid on which the weights lie loses nothing and proves nothing.
On two threads about four minutes for ours and ten for SmolLM2, which must have been fetched.
"""

import argparse

import torch

from course_utils.data.corpus import load_corpus
from course_utils.data.fetch import available
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import shipped
from course_utils.models.pretrained import smollm2
from course_utils.quantization import QuantizationArgs, fake_quantize, quantizable
from course_utils.quantization.metrics import sqnr_db
from course_utils.quantization.perplexity import COURSE, SMOLLM2, perplexity
from course_utils.records.recorded import FOLDER, code_hash, load_record, save_record

RECORD = "c13_rounding"
KEYS = ("model", "num_bits", "group_size", "symmetric")
TOLERANCE = {"perplexity": 0.02, "sqnr_db": 0.01}
PARTS = ("quantization/affine.py", "quantization/schemes.py", "quantization/perplexity.py")
OURS = (
    [(bits, group, True) for bits in (8, 6, 5, 4, 3, 2) for group in (0, 64, 32)]
    + [(bits, group, False) for bits in (4, 3, 2) for group in (0, 64, 32)]
    + [(0, 0, True)]
)
SMOL = [(0, 0, True), (8, 0, True), (3, 32, False), (3, 64, False), (2, 32, False), (3, 0, True)]


def scheme(num_bits: int, group: int, symmetric: bool) -> QuantizationArgs:
    """The scheme of a row: a group of 0 means one scale for each row of a matrix."""
    if group:
        return QuantizationArgs(num_bits, symmetric, "group", group)
    return QuantizationArgs(num_bits, symmetric, "channel")


@torch.no_grad()
def round_weights(model: torch.nn.Module, args: QuantizationArgs) -> tuple[float, float]:
    """Round all matrices in place (simulated); returns SQNR in dB and bits per weight, over all."""
    signal = noise = bits = count = 0.0
    for weight in quantizable(model).values():
        restored = fake_quantize(weight, args)
        power = float(weight.double().square().sum())
        signal, noise = signal + power, noise + power / 10 ** (sqnr_db(weight, restored) / 10)
        bits += args.bits_per_weight(weight.shape) * weight.numel()
        count += weight.numel()
        weight.copy_(restored)
    return float(10 * torch.log10(torch.tensor(signal / noise))), bits / count


def row(name: str, num_bits: int, group: int, symmetric: bool) -> dict:
    """One model under one scheme; num_bits 0 is the model as it is, in 32 bits."""
    if name == "ours":
        model, tokenizer, protocol = shipped("dense"), course_tokenizer(), COURSE
    else:
        smol = smollm2()
        model, tokenizer, protocol = smol.model, smol.tokenizer, SMOLLM2
    noise, bits = float("inf"), 32.0
    if num_bits:
        noise, bits = round_weights(model, scheme(num_bits, group, symmetric))
    found = perplexity(model, tokenizer, protocol)
    return {
        "model": name,
        "num_bits": num_bits,
        "group_size": group,
        "symmetric": int(symmetric),
        "bits_per_weight": round(bits, 4),
        "sqnr_db": round(noise, 3),
        "nats_per_token": round(found.nats_per_token, 5),
        "perplexity": round(found.perplexity, 4),
        "bits_per_byte": round(found.bits_per_byte, 5),
        "tokens": found.tokens,
        "code": code_hash(PARTS),
        "corpus": load_corpus(tuple(DOMAINS)).fingerprint(),
    }


def rows(names: tuple[str, ...] = ("ours", "SmolLM2")) -> list[dict]:
    """The rows of these models, made anew; of another model, those that are recorded."""
    kept = []
    if (FOLDER / f"{RECORD}.csv").exists():
        kept = [old for old in load_record(RECORD).rows if old["model"] not in names]
    for name, grid in (("ours", OURS), ("SmolLM2", SMOL)):
        for setting in grid if name in names else ():
            kept.append(row(name, *setting))
            print(kept[-1], flush=True)
    return kept


def sample() -> dict:
    """The row that `course verify-records` makes again: ours, 3 bits in groups of 32."""
    return row("ours", 3, 32, True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["ours", "SmolLM2"])
    names = tuple(parser.parse_args().models)
    if "SmolLM2" in names and not available("smollm2"):
        raise SystemExit("SmolLM2 is not fetched: course fetch, or --models ours")
    print(save_record(RECORD, rows(names)))
