"""The shipped student: the MoE teacher distilled into a tenth of its activated size (chapter 10).

`python -m course_utils.records.student --device cuda --steps 3000` made what ships, in minutes: two
students of 0.51 million parameters on the whole training split, from the same weights on the same
batches of 8 x 256 tokens, one and a half passes: one on the teacher's distributions (forward KL,
T = 1), one on labels alone, as control. The distilled one goes to
models/shipped/student.safetensors (bfloat16), both curves to c10_student.csv. The teacher has read
the same text before, twelve times. Both students are judged on the validation split.

Without arguments it is the form for a laptop, 600 batches, about eight minutes on one core.
"""

import argparse

import torch

from course_utils.data.batches import as_ids
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.distillation import distill
from course_utils.models import DecoderLM, save_checkpoint, shipped
from course_utils.models.checkpoints import SHIPPED, load_checkpoint
from course_utils.moe import experts_dense
from course_utils.records.distillation import DISTILLATION_CODE
from course_utils.records.distillation_setup import student_config
from course_utils.records.recorded import code_hash, load_record, save_record
from course_utils.records.small_models import prepared_corpus
from course_utils.training import TrainingConfig, TrainingState, evaluate, train

RECORD = "c10_student"
KEYS = ("student", "step")
TOLERANCE = {"nats_per_token": 0.01, "bits_per_byte": 0.01}
STEPS = 600
POINTS = 3  # of each curve


def recipe(steps: int) -> TrainingConfig:
    """Batches of 8 x 256 tokens."""
    warmup = max(1, steps // 20)
    return TrainingConfig(steps, 8, 256, peak_learning_rate=8e-3, warmup_steps=warmup, seed=0)


def row_of(student: DecoderLM, distilled: bool, step: int, device: str) -> dict:
    """A point of a curve."""
    corpus, bytes_V = prepared_corpus(), course_tokenizer().token_bytes()
    results = evaluate(student, corpus, bytes_V, windows=32, device=device)
    row = {
        "student": "distilled" if distilled else "labels alone",
        "step": step,
        "tokens": recipe(step).tokens,
        "nats_per_token": round(results["all"].nats_per_token, 5),
        "bits_per_byte": round(results["all"].bits_per_byte, 5),
    }
    row |= {f"{name}_bits": round(results[name].bits_per_byte, 5) for name in DOMAINS}
    return row | {"code": code_hash(DISTILLATION_CODE), "corpus": corpus.fingerprint()}


def run(distilled: bool, device: str, config: TrainingConfig) -> tuple[DecoderLM, list[dict]]:
    """Train one student; returns it, and the rows of its curve."""
    student = DecoderLM(student_config(), seed=config.seed).to(device)
    parts = {"dispatch": experts_dense} if "cuda" in device else {}
    teacher = shipped("moe", **parts).to(device)
    state, rows = TrainingState(student, config), []
    stream_N = as_ids(prepared_corpus().stream("train"))
    for point in range(1, POINTS + 1):
        until = config.steps * point // POINTS
        if distilled:
            distill(student, teacher, stream_N, config, state=state, until=until, progress=False)
        else:
            train(student, stream_N, config, state=state, until=until, progress=False)
        rows.append(row_of(student, distilled, until, device))
        print(rows[-1], flush=True)
    return student, rows


def sample() -> dict:
    """The shipped student, measured again on this machine: the last row of its curve."""
    student = load_checkpoint(SHIPPED / "student.safetensors")
    steps = int(max(row["step"] for row in load_record(RECORD).rows))
    return row_of(student, True, steps, "cpu")


def main() -> None:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    config = recipe(given.steps)
    student, rows = run(True, given.device, config)
    lineage = {
        "recipe": "course_utils.records.student",
        "base": None,
        "teacher": "moe",
        "method": "distilled from random weights: forward KL to the teacher, temperature 1",
        "data": f"training split of the course's corpus {rows[-1]['corpus']}, read by the teacher",
        "tokens": config.tokens,
        "seed": config.seed,
        "validation_bits_per_byte": rows[-1]["bits_per_byte"],
    }
    save_checkpoint(student, SHIPPED / "student.safetensors", lineage)
    save_record(RECORD, rows)
    _, control = run(False, given.device, config)
    print(save_record(RECORD, rows + control).name)


if __name__ == "__main__":
    main()
