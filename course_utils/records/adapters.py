"""LoRA of several ranks against full fine-tuning: what is learned, and what is forgotten.

`python -m course_utils.records.adapters [--jobs 2]` teaches the shipped dense model to reverse four
digits ("Q: reverse 4715", "A: 5174"): 80 batches of 32 of 2,000 examples, loss on the answers
alone. LoRA of ranks 1, 4 and 8 on q_proj and v_proj (alpha = 2 r), and all weights; each at the
best of three learning rates (lowest loss on validation questions, seed 0), then with seeds 1 and 2.
Accuracy: 400 test questions, every token of the answer right. Forgetting: bits per byte of the
corpus's validation text, 8 windows a domain, before and after. Writes c12_adapters.csv, and the
adapter of rank 8, seed 0, to models/shipped/reverse (16 bits, 82 kB); some eight minutes of one
core. The whole grid is one size: it was made for a CPU.
"""

import argparse
from functools import cache, partial

import torch

from course_utils.data.skills import skill_pairs
from course_utils.data.tokenizer import course_tokenizer
from course_utils.generation import generate
from course_utils.models import DecoderLM, shipped
from course_utils.models.checkpoints import SHIPPED
from course_utils.records.recorded import CODE, code_hash, load_record, save_record
from course_utils.records.small_models import prepared_corpus, run_grid
from course_utils.training import TrainingConfig, evaluate
from course_utils.training.adapter_files import save_adapter
from course_utils.training.lora import add_adapter
from course_utils.training.supervised import Examples, encode_examples, fine_tune, supervised_loss

RECORD = "c12_adapters"
KEYS = ("way", "seed")
TOLERANCE = {"accuracy_before": 0.01, "accuracy": 0.1, "bits_before": 0.01, "bits_per_byte": 0.1}
SKILL = "reverse"
FULL = "all weights"
WAYS = {"LoRA, rank 1": 1, "LoRA, rank 4": 4, "LoRA, rank 8": 8, FULL: None}
RATES = {"lora": (2e-3, 5e-3, 1e-2), FULL: (2e-4, 5e-4, 1e-3)}
STEPS, BATCH, EXAMPLES, QUESTIONS = 80, 32, 2000, 400
SHIPPED_WAY = "LoRA, rank 8"
ADAPTER_CODE = (*CODE, "training/lora.py", "training/supervised.py", "data/skills.py")


def encoded(split: str, count: int, seed: int) -> Examples:
    """Examples of the skill, in the course's tokens."""
    return encode_examples(course_tokenizer().encode, skill_pairs(SKILL, split, count, seed))


def accuracy(model: DecoderLM, pairs: list[tuple[str, str]]) -> float:
    """The share of questions (of one length) whose answer the model gives, word for word."""
    tokenizer = course_tokenizer()
    ids_BT = torch.tensor([tokenizer.encode(prompt) for prompt, _ in pairs])
    longest = max(len(tokenizer.encode(answer)) for _, answer in pairs)
    made = [tokenizer.decode(row) for row in generate(model, ids_BT, longest)]
    return sum(text == answer for text, (_, answer) in zip(made, pairs, strict=True)) / len(pairs)


@torch.no_grad()
def measured(model: DecoderLM) -> tuple[float, float, float]:
    """Accuracy on test questions, nats an answer token on validation ones, bits per byte."""
    right = accuracy(model, skill_pairs(SKILL, "test", QUESTIONS))
    held_out = encoded("validation", QUESTIONS, 0)
    nats = float(supervised_loss(model(held_out.ids_NT), held_out.labels_NT))
    bits = evaluate(model, prepared_corpus(), course_tokenizer().token_bytes(), windows=8)
    return round(right, 5), round(nats, 5), round(bits["all"].bits_per_byte, 5)


@cache
def before() -> tuple[float, float, float]:
    """The same of the base."""
    return measured(shipped("dense"))


def tuned(way: str, seed: int, rate: float, steps: int = STEPS) -> tuple[DecoderLM, int]:
    """The base after one training, and how many numbers learned."""
    model, rank = shipped("dense"), WAYS[way]
    if rank is None:
        learning = model.count_parameters()
    else:
        learning = sum(weight.numel() for weight in add_adapter(model, rank, seed=seed))
    settings = TrainingConfig(steps, BATCH, 2, rate, max(1, steps // 20), 0.0, seed=seed)
    fine_tune(model, encoded("train", EXAMPLES, seed), settings, progress=False)
    return model, learning


def run(way: str, seed: int, rate: float, steps: int = STEPS) -> dict:
    """Fine-tune in one way, and measure before and after."""
    was_right, _, bits_before = before()
    model, learning = tuned(way, seed, rate, steps)
    right, nats, bits = measured(model)
    return {
        "way": way,
        "seed": seed,
        "learning_rate": rate,
        "examples_seen": steps * BATCH,
        "trained_parameters": learning,
        "bytes_16_bit": 2 * learning,
        "validation_nats": nats,
        "accuracy_before": was_right,
        "accuracy": right,
        "bits_before": bits_before,
        "bits_per_byte": bits,
        "code": code_hash(ADAPTER_CODE),
        "corpus": prepared_corpus().fingerprint(),
    }


def rows(jobs: int, steps: int = STEPS) -> list[dict]:
    """Seed 0 at every rate; then each way at its best rate with the other seeds."""
    sweep = [(w, 0, rate) for w in WAYS for rate in RATES.get(w, RATES["lora"])]
    tried = run_grid(partial(run, steps=steps), sweep, jobs)
    best = {}
    for row in sorted(tried, key=lambda row: -row["validation_nats"]):
        best[row["way"]] = row
    rest = [(way, seed, best[way]["learning_rate"]) for way in WAYS for seed in (1, 2)]
    found = [*best.values(), *run_grid(partial(run, steps=steps), rest, jobs)]
    return sorted(found, key=lambda row: (list(WAYS).index(row["way"]), row["seed"]))


def ship(row: dict) -> None:
    """Train the adapter of a row again and save it with its lineage."""
    model, _ = tuned(row["way"], row["seed"], row["learning_rate"])
    lineage = {
        "recipe": "course_utils.records.adapters",
        "base": "dense",
        "method": f"{row['way']} on q_proj and v_proj; loss on answers alone",
        "data": f"{EXAMPLES} questions 'Q: {SKILL} 4715'",
        "examples_seen": row["examples_seen"],
        "seed": row["seed"],
        "test_accuracy": row["accuracy"],
        "validation_bits_per_byte_before": row["bits_before"],
        "validation_bits_per_byte": row["bits_per_byte"],
    }
    save_adapter(model, SHIPPED / SKILL, lineage)


def sample() -> dict:
    """One row: rank 1, seed 0, at the recorded rate."""
    way = next(iter(WAYS))
    (row,) = [r for r in load_record(RECORD).rows if (r["way"], r["seed"]) == (way, 0)]
    return run(way, 0, row["learning_rate"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    found = rows(parser.parse_args().jobs)
    print(save_record(RECORD, found))
    ship(next(row for row in found if (row["way"], row["seed"]) == (SHIPPED_WAY, 0)))
