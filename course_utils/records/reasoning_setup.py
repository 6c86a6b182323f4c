"""What the recorded runs of chapter 11 share: sizes, the teacher, its traces, measuring.

Narrow models start from weights four times as large as the course's others: at a deviation of 0.02,
which is meant for wide ones, they need many more steps to begin to copy.
"""

import json
import random
from collections import Counter
from dataclasses import dataclass
from functools import cache
from statistics import mean

import torch

from course_utils.accounting.flops import prefill_flops, training_flops_per_token
from course_utils.accounting.ledger import course_spec
from course_utils.data import puzzles
from course_utils.distillation.sequence import complete, pass_at_k
from course_utils.models import DecoderLM, ModelConfig, load_checkpoint, save_checkpoint
from course_utils.models.checkpoints import SHIPPED
from course_utils.records.recorded import FOLDER
from course_utils.training import TrainingConfig
from course_utils.training.supervised import encode_examples, fine_tune

TRACES = FOLDER / "c11_traces.partial.json"  # between the stages; removed at the end
NEW = 76  # the most symbols of a completion
DETOURS, HOT = 0.15, (1.5, 2.0)  # HOT: temperatures at which wrong traces are collected
EASY = (1, 2, 3)  # operations of the questions that students have seen before
RATE, STUDENT_RATE, LIKE_LENGTHS = 4e-3, 2e-3, 16


@dataclass(frozen=True)
class Scale:
    """How large the comparison is; steps are of `batch` examples."""

    teacher_steps: int = 900
    teacher_questions: int = 40_000
    base_steps: int = 700
    questions: int = 2000  # that the students learn from
    samples: int = 2  # of the teacher for each, at temperature 1
    steps: int = 200  # of a student on kept traces; others get the same compute
    batch: int = 32
    on_policy_batch: int = 32
    tested: int = 180
    tries: int = 8  # samples of a test question, for pass@k
    rounds: int = 3
    round_questions: int = 300
    shares: tuple[float, ...] = (0.5, 1.0)  # of wrong traces


SMALL = Scale()
FULL = Scale(3000, 60_000, 3000, 6000, 4, 1500, 64, 128, 360, 16, 3, 2000, (0.25, 0.5, 1.0))


def model_config(width: int, layers: int) -> ModelConfig:
    """A decoder for puzzles; positions turn fast, because texts are short."""
    sizes = (len(puzzles.SYMBOLS), width, 2 * width, layers, 4, 4)
    return ModelConfig(*sizes, max_position_embeddings=160, rope_theta=100.0)


TEACHER_CONFIG, STUDENT_CONFIG = model_config(128, 4), model_config(64, 3)


@torch.no_grad()
def new_model(config: ModelConfig, seed: int, device: str) -> DecoderLM:
    """A model with random weights, four times as large as `DecoderLM` begins with."""
    model = DecoderLM(config, seed=seed)
    for weight in model.parameters():
        weight.mul_(4.0 if weight.dim() > 1 else 1.0)
    return model.to(device)


@cache
def example_flops(config: ModelConfig, tokens: int) -> tuple[int, int]:
    """Operations of a text of `tokens`: of reading or writing it once, and of training on it."""
    spec = course_spec(config.to_dict())
    training = training_flops_per_token(spec, tokens) * tokens
    return prefill_flops(spec, tokens, logits=tokens), int(training)


def learn(
    model: DecoderLM, pairs: list, steps: int, batch: int, seed: int, rate: float = STUDENT_RATE
) -> None:
    """Fine-tune on (question, completion) pairs, the loss on the completions."""
    examples = encode_examples(puzzles.encode, pairs, puzzles.PAD_ID)
    options = {"warmup_steps": 1 + min(30, steps // 10), "weight_decay": 0.01, "seed": seed}
    config = TrainingConfig(steps, batch, peak_learning_rate=rate, **options)
    fine_tune(model, examples, config, group=LIKE_LENGTHS, progress=False)


def ask(
    model: DecoderLM, questions: list[str], each: int, temperature: float, seed: int
) -> list[list[str]]:
    """`each` completions of every question, as texts. Questions of like length run together."""
    order = sorted(range(len(questions)), key=lambda number: len(questions[number]))
    prompts = [puzzles.encode(questions[number]) for number in order for _ in range(each)]
    options = {"end_id": puzzles.END_ID, "temperature": temperature, "seed": seed, "batch": 512}
    texts = [puzzles.decode(row) for row in complete(model, prompts, NEW, **options)]
    found = dict(zip(order, (texts[i : i + each] for i in range(0, len(texts), each)), strict=True))
    return [found[number] for number in range(len(questions))]


def student_questions(scale: Scale) -> list[str]:
    """The questions that students learn from; no teacher and no test has them."""
    return puzzles.questions(1, scale.questions)


@torch.no_grad()
def measure(model: DecoderLM, scale: Scale) -> dict:
    """Greedy accuracy on held-out questions, by difficulty too; pass@k of `tries` samples each.

    `verified` is the share whose steps are right as well, `length` the mean number of symbols.
    """
    asked, tries = puzzles.questions(2, scale.tested), scale.tries
    greedy = [texts[0] for texts in ask(model, asked, 1, 0.0, seed=0)]
    pairs = list(zip(asked, greedy, strict=True))
    right = [puzzles.answer_is_right(*pair) for pair in pairs]
    by_steps: dict[int, list[bool]] = {}
    for question, good in zip(asked, right, strict=True):
        by_steps.setdefault(puzzles.difficulty(question), []).append(good)
    row = {"accuracy": mean(right), "hardest_third": mean(by_steps[5] + by_steps[6])}
    row |= {f"accuracy_{steps}": mean(found) for steps, found in sorted(by_steps.items())}
    row["verified"] = mean(puzzles.verify(*pair) for pair in pairs)
    row["mentioned"] = mean(puzzles.mentions_answer(*pair) for pair in pairs)
    row["length"] = mean(map(len, greedy))
    sampled = ask(model, asked, tries, 1.0, seed=1)
    correct = [
        sum(puzzles.answer_is_right(question, text) for text in texts)
        for question, texts in zip(asked, sampled, strict=True)
    ]
    for k in (k for k in (1, 2, 4, 8, 16) if k <= tries):
        row[f"pass_{k}"] = mean(pass_at_k(tries, c, k) for c in correct)
    return {name: round(float(value), 5) for name, value in row.items()}


def train_teacher(device: str, scale: Scale) -> None:
    """Write reasoner.safetensors: what has read worked steps of every difficulty."""
    questions = puzzles.questions(0, scale.teacher_questions)
    train_on_steps("reasoner", TEACHER_CONFIG, questions, scale.teacher_steps, device, scale)


def train_base(device: str, scale: Scale) -> None:
    """Write reasoner_base.safetensors, which all students begin as: it has read easy ones."""
    questions = puzzles.questions(3, scale.teacher_questions, EASY)
    train_on_steps("reasoner_base", STUDENT_CONFIG, questions, scale.base_steps, device, scale)


def train_on_steps(
    name: str, config: ModelConfig, questions: list[str], steps: int, device: str, scale: Scale
) -> None:
    """Train on worked steps of questions that no student learns from and no test asks."""
    rng = random.Random(0)
    seen = set(student_questions(scale)) | set(puzzles.questions(2, scale.tested))
    pairs = [(q, puzzles.worked(q, rng, DETOURS)) for q in questions if q not in seen]
    model = new_model(config, 0, device)
    learn(model, pairs, steps, scale.batch, seed=0, rate=RATE)
    found = measure(model, scale)
    print(name, found, flush=True)
    data = f"worked steps of {len(pairs)} generated puzzles"
    ship(model, name, None, "trained from random weights", data, steps * scale.batch, found)


def ship(
    model: DecoderLM,
    name: str,
    base: str | None,
    method: str,
    data: str,
    texts: int,
    found: dict,
) -> None:
    """Write a checkpoint with its lineage; `texts` is the number of examples trained on."""
    lineage = {
        "recipe": "course_utils.records.reasoning",
        "base": base,
        "method": method,
        "data": data,
        "examples": texts,
        "seed": 0,
        "accuracy": found["accuracy"],
        "hardest_third": found["hardest_third"],
    }
    save_checkpoint(model, SHIPPED / f"{name}.safetensors", lineage)


def write_traces(device: str, scale: Scale) -> None:
    """The teacher's completions of the students' questions: `samples` each, and a wrong one."""
    teacher = load_checkpoint(SHIPPED / "reasoner.safetensors").to(device)
    questions, wrong = student_questions(scale), {}
    first = ask(teacher, questions, scale.samples, 1.0, seed=0)
    hotter = ((t, ask(teacher, questions, 1, t, seed=0)) for t in HOT)
    for temperature, samples in ((1.0, first), *hotter):
        for question, texts in zip(questions, samples, strict=True):
            bad = [t for t in texts if t.endswith(".") and not puzzles.verify(question, t)]
            if bad:
                wrong.setdefault(question, [bad[0], temperature])
    TRACES.write_text(json.dumps({"samples": first, "wrong": wrong}), encoding="utf-8")
    cool = sum(temperature == 1.0 for _, temperature in wrong.values())
    print(f"wrong completions for {len(wrong)} questions, {cool} of them at 1.0", flush=True)
    kept = Counter(
        puzzles.difficulty(question)
        for question, texts in zip(questions, first, strict=True)
        if any(puzzles.verify(question, text) for text in texts)
    )
    print(f"questions with a right completion at 1.0, by difficulty: {dict(kept)}", flush=True)
