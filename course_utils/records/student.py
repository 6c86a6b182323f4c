"""The shipped student: the MoE teacher distilled into a tenth of its activated size (chapter 10).

`python -m course_utils.records.student [--device cuda] [--steps 4000]` trains two students of 0.51
million parameters on the whole training split, from the same weights on the same batches: one on
the teacher's distributions (forward KL, T = 1), one on labels alone, as control. The distilled one
goes to models/shipped/student.safetensors (bfloat16), both curves to c10_student.csv. The teacher
has read the same text before, twelve times. About two minutes on a GPU.
"""

import argparse

import torch

from course_utils.data.batches import as_ids
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.distillation import distill
from course_utils.models import DecoderLM, save_checkpoint, shipped
from course_utils.models.checkpoints import SHIPPED
from course_utils.moe import experts_dense
from course_utils.records.distillation import DISTILLATION_CODE, student_config
from course_utils.records.recorded import code_hash, save_record
from course_utils.records.small_models import prepared_corpus
from course_utils.training import TrainingConfig, TrainingState, evaluate, train

RECORD = "c10_student"
POINTS = 8  # of each curve


def recipe(steps: int) -> TrainingConfig:
    """Batches of 16 x 256 tokens."""
    return TrainingConfig(steps, 16, 256, peak_learning_rate=4e-3, warmup_steps=100, seed=0)


def run(distilled: bool, device: str, config: TrainingConfig) -> tuple[DecoderLM, list[dict]]:
    """Train one student; returns it, and the rows of its curve."""
    student = DecoderLM(student_config(), seed=config.seed).to(device)
    parts = {"dispatch": experts_dense} if "cuda" in device else {}
    teacher = shipped("moe", **parts).to(device)
    state, corpus, rows = TrainingState(student, config), prepared_corpus(), []
    stream_N = as_ids(corpus.stream("train"))
    for point in range(1, POINTS + 1):
        until = config.steps * point // POINTS
        if distilled:
            distill(student, teacher, stream_N, config, state=state, until=until, progress=False)
        else:
            train(student, stream_N, config, state=state, until=until, progress=False)
        bytes_V = course_tokenizer().token_bytes()
        results = evaluate(student, corpus, bytes_V, windows=64, device=device)
        row = {
            "student": "distilled" if distilled else "labels alone",
            "step": until,
            "tokens": until * config.batch * config.length,
            "nats_per_token": round(results["all"].nats_per_token, 5),
            "bits_per_byte": round(results["all"].bits_per_byte, 5),
        }
        row |= {f"{name}_bits": round(results[name].bits_per_byte, 5) for name in DOMAINS}
        rows.append(row | {"code": code_hash(DISTILLATION_CODE), "corpus": corpus.fingerprint()})
        print(row, flush=True)
    return student, rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4000)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    config = recipe(arguments.steps)
    student, rows = run(True, arguments.device, config)
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
    _, control = run(False, arguments.device, config)
    print(save_record(RECORD, rows + control))
