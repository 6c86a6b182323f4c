"""What a small student learns from a large teacher, and what from the text alone (chapter 10).

`python -m course_utils.records.distillation [--devices cuda:0 cuda:1] [--jobs 16]`. The teacher is
the shipped MoE model. The student has a tenth of its activated parameters outside the embedding,
and reads 10% of the training split, 0.4 million tokens, three times over; the teacher has read the
whole split. Variants differ in the loss, and the controls in text or length:

- `labels, same compute`: as many steps on labels as cost what the distilled run costs, with the
  teacher's forward pass; `labels, 8 x as long`: the student trained longer;
- `labels, all text` and `distilled, all text`: the student may read what the teacher has read.

Temperatures are mixed half and half with the labels, as in Hinton et al. 2015; the divergences
stand alone. Two rates are swept with seed 0, one for runs with labels alone and one for all others:
the best of three each. Seeds 0, 1, 2. Writes c10_distillation.csv.
"""

import argparse
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from course_utils.accounting.flops import prefill_flops, training_flops_per_token
from course_utils.accounting.ledger import course_spec
from course_utils.data.batches import as_ids
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.distillation import (
    distill,
    distillation_loss,
    forward_kl,
    generalized_jsd,
    pack_top_k,
    packed_kl,
    reverse_kl,
)
from course_utils.models import DecoderLM, ModelConfig, shipped
from course_utils.moe import experts_dense
from course_utils.records.recorded import EXPERT_CODE, code_hash, load_record, save_record
from course_utils.records.small_models import prepared_corpus, run_grid
from course_utils.training import TrainingConfig, evaluate, train

RECORD = "c10_distillation"
KEYS = ("variant", "seed")
TOLERANCE = {"nats_per_token": 0.03, "bits_per_byte": 0.02}
STEPS, BATCH, LENGTH = 600, 8, 256
SHARE = 10  # the student reads one part in ten of each domain
TOP_K = 16
SWEEP = (2e-3, 4e-3, 8e-3)
DISTILLATION_CODE = (*EXPERT_CODE, "distillation/losses.py", "distillation/loop.py")
DISTILLATION_CODE += ("distillation/topk.py",)


@dataclass(frozen=True)
class Variant:
    """One row: alpha 0 is labels alone; `square` False leaves the factor T^2 out."""

    name: str
    alpha: float = 1.0
    temperature: float = 1.0
    divergence: str = "forward"
    square: bool = True
    times: float = 1.0  # as many steps; 0: as many as the compute of a distilled run pays for
    all_text: bool = False


VARIANTS = (
    Variant("labels alone", 0.0),
    Variant("T=1", 0.5),
    Variant("T=2", 0.5, 2.0),
    Variant("T=4", 0.5, 4.0),
    Variant("T=4 without T^2", 0.5, 4.0, square=False),
    Variant("forward KL"),
    Variant("reverse KL", divergence="reverse"),
    Variant("JSD", divergence="jsd"),
    Variant(f"top {TOP_K} of the logits", divergence="packed"),
    Variant("labels, same compute", 0.0, times=0),
    Variant("labels, 8 x as long", 0.0, times=8),
    Variant("labels, all text", 0.0, all_text=True),
    Variant("distilled, all text", all_text=True),
)
DIVERGENCES = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "jsd": generalized_jsd,
    "packed": packed_kl,
}


def student_config() -> ModelConfig:
    """0.25 million parameters outside the embedding, a tenth of the teacher's activated ones."""
    return ModelConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
    )


def text(all_text: bool = False) -> Tensor:
    """The student's text: the beginning of each domain's training split, or all of it."""
    parts = prepared_corpus().ids["train"].values()
    return torch.cat([as_ids(ids[: len(ids) // (1 if all_text else SHARE)]) for ids in parts])


def flops_per_token() -> tuple[float, float]:
    """Operations a token: training the student, and the teacher's forward pass."""
    student = course_spec(student_config().to_dict())
    teacher = course_spec(shipped("moe").config.to_dict())
    forward = prefill_flops(teacher, LENGTH, logits=LENGTH) / LENGTH
    return training_flops_per_token(student, LENGTH), forward


def steps_of(variant: Variant, steps: int) -> int:
    """How many steps a variant trains."""
    own, teachers = flops_per_token()
    return round(steps * (variant.times or (own + teachers) / own))


def loss_of(variant: Variant):
    """The loss as `distill` calls it."""
    divergence = DIVERGENCES[variant.divergence]
    if not variant.square:  # the mistake: dividing undoes the factor
        divergence = partial(unsquared, divergence=divergence)
    given = {"temperature": variant.temperature, "alpha": variant.alpha}
    if variant.divergence != "packed":
        return partial(distillation_loss, divergence=divergence, **given)

    def packed(student: Tensor, teacher: Tensor, labels: Tensor, normalizer=None) -> Tensor:
        few = pack_top_k(teacher, TOP_K)
        return distillation_loss(student, few, labels, divergence=packed_kl, normalizer=normalizer)

    return packed


def unsquared(student: Tensor, teacher: Tensor, temperature: float, divergence) -> Tensor:
    """The divergence without the factor that `distillation_loss` puts in front of it."""
    return divergence(student, teacher, temperature=temperature) / temperature**2


def run(variant: Variant, seed: int, device: str, rate: float, steps: int = STEPS) -> dict:
    """Train one student and return its row."""
    config = TrainingConfig(
        steps_of(variant, steps), BATCH, LENGTH, peak_learning_rate=rate, warmup_steps=30, seed=seed
    )
    student = DecoderLM(student_config(), seed=seed).to(device)
    stream_N = text(variant.all_text)
    own, teachers = flops_per_token()
    if variant.alpha == 0:
        train(student, stream_N, config, progress=False)
        teachers = 0
    else:
        teacher = shipped("moe", **({"dispatch": experts_dense} if "cuda" in device else {}))
        loss = loss_of(variant)
        distill(student, teacher.to(device), stream_N, config, loss=loss, progress=False)
    bytes_V = course_tokenizer().token_bytes()
    results = evaluate(student, prepared_corpus(), bytes_V, windows=64, device=device)
    row = {
        "variant": variant.name,
        "seed": seed,
        "alpha": variant.alpha,
        "temperature": variant.temperature,
        "learning_rate": rate,
        "text_tokens": len(stream_N),
        "tokens": config.tokens,
        "flops": int(config.tokens * (own + teachers)),
        "nats_per_token": round(results["all"].nats_per_token, 5),
        "bits_per_byte": round(results["all"].bits_per_byte, 5),
    }
    row |= {f"{name}_bits": round(results[name].bits_per_byte, 5) for name in DOMAINS}
    corpus = prepared_corpus().fingerprint()
    return row | {"code": code_hash(DISTILLATION_CODE), "corpus": corpus}


def sample() -> dict:
    """One row, on the CPU: labels alone, seed 0, at the recorded rate."""
    rate = next(row for row in load_record(RECORD).rows if row["alpha"] == 0)["learning_rate"]
    return run(VARIANTS[0], 0, "cpu", rate)


def best_rates(devices: list[str], jobs: int, steps: int) -> dict[bool, float]:
    """The best rate of the sweep with seed 0: for labels alone (False) and for the rest (True)."""
    tried = [(variant, rate) for variant in (VARIANTS[0], VARIANTS[5]) for rate in SWEEP]
    grid = [(v, 0, devices[n % len(devices)], rate, steps) for n, (v, rate) in enumerate(tried)]
    rows = run_grid(run, grid, min(jobs, len(grid)))
    for row in rows:
        print(row["variant"], row["learning_rate"], row["nats_per_token"], flush=True)
    best = {}
    for row in sorted(rows, key=lambda row: row["nats_per_token"], reverse=True):
        best[row["alpha"] > 0] = row["learning_rate"]
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--jobs", type=int, default=1, help="students trained at the same time")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    devices, steps = arguments.devices, arguments.steps
    rates = best_rates(devices, arguments.jobs, steps)
    # the longest runs first, so that none is left alone at the end
    order = sorted(VARIANTS, key=lambda variant: -steps_of(variant, steps))
    grid = [
        (variant, seed, devices[(n + seed) % len(devices)], rates[variant.alpha > 0], steps)
        for n, variant in enumerate(order)
        for seed in (0, 1, 2)
    ]
    names = [variant.name for variant in VARIANTS]
    rows = run_grid(run, grid, arguments.jobs)
    print(save_record(RECORD, sorted(rows, key=lambda row: names.index(row["variant"]))))
