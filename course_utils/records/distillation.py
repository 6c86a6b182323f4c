"""What a small student learns from a large teacher, and what from the text alone (chapter 10).

`python -m course_utils.records.distillation --full --devices cuda:0 --jobs 14` made the record, in
six minutes on one large GPU. The teacher is the shipped MoE model, which has read the whole
training split. The student has a tenth of its activated parameters outside the embedding, and reads
one part in ten of the split, 0.4 million tokens, in 600 batches of 8 x 256: three times over.
Variants differ in the loss, and the controls in text or length:

- `labels, same compute`: as many steps on labels as cost what the distilled run costs, with the
  teacher's forward pass; `labels, longer`: the student trained eight times as long;
- `labels, all text`, `distilled, all text`: the student may read what the teacher has read.

Temperatures are mixed half and half with the labels, as in Hinton et al. 2015; the divergences
stand alone. Three rates are swept with seed 0 on the validation split, for runs with labels alone
and for all others; `--rates` gives them instead. Seeds 0, 1, 2. Results are those on 32 windows a
domain of the test split, and `entropy` is that of the student's predictions on 8 of them. Distilled
students of one seed and text learn side by side, batch by batch, so that the teacher answers once
for all of them.

Without `--full` it is the form for two cores, a quarter of an hour on them: one part in forty, 250
batches of 4 x 256, `labels, longer` four times as long, two rates, no `distilled, all text`. After
so short a training seeds differ more than variants do.

Rows go to c10_distillation.csv as they come; `--resume` keeps those that are there. `--steps` tries
the command.
"""

import argparse
import csv
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace

import torch
from torch import Tensor, nn

from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.distillation import distill
from course_utils.models import DecoderLM, shipped
from course_utils.moe import experts_dense
from course_utils.records.distillation_setup import (
    FULL,
    LENGTH,
    SMALL,
    VARIANTS,
    Scale,
    Variant,
    flops_per_token,
    groups,
    loss_of,
    mean_entropy,
    steps_of,
    student_config,
    text,
)
from course_utils.records.recorded import EXPERT_CODE, FOLDER, code_hash, load_record, save_record
from course_utils.records.small_models import prepared_corpus
from course_utils.training import TrainingConfig, TrainingState, evaluate, train

RECORD = "c10_distillation"
KEYS = ("variant", "seed")
TOLERANCE = {"nats_per_token": 0.05, "bits_per_byte": 0.03}  # a GPU's run, again on a CPU
SWEPT = ("labels alone", "forward KL")
DISTILLATION_CODE = (*EXPERT_CODE, "distillation/losses.py", "distillation/loop.py")
DISTILLATION_CODE += ("distillation/topk.py",)


class AnswersOnce(nn.Module):
    """A teacher that keeps its last answer, for several students that read the same batch."""

    def __init__(self, teacher: DecoderLM) -> None:
        super().__init__()
        self.teacher, self.config, self.asked, self.answer = teacher, teacher.config, None, None

    def forward(self, ids_BT: Tensor) -> Tensor:
        if self.asked is None or not torch.equal(self.asked, ids_BT):
            self.asked, self.answer = ids_BT, self.teacher(ids_BT)
        return self.answer


def distill_together(
    variants: Sequence[Variant],
    students: Sequence[DecoderLM],
    stream_N: Tensor,
    config: TrainingConfig,
) -> None:
    """Distil one student for each variant, all on the same batches."""
    device = str(next(students[0].parameters()).device)
    parts = {"dispatch": experts_dense} if "cuda" in device else {}
    teacher = AnswersOnce(shipped("moe", **parts)).to(device)
    states = [TrainingState(student, config) for student in students]
    losses = [loss_of(variant) for variant in variants]
    for until in range(1, config.steps + 1):
        for student, state, loss in zip(students, states, losses, strict=True):
            given = {"loss": loss, "state": state, "until": until, "progress": False}
            distill(student, teacher, stream_N, config, **given)


def run(
    group: tuple[Variant, ...], seed: int, device: str, rate: float, scale: Scale = SMALL
) -> list[dict]:
    """Train the students of one seed, text and length (one alone on labels); their rows."""
    first, stream_N = group[0], text(1 if group[0].all_text else scale.share)
    steps = steps_of(first, scale)
    config = TrainingConfig(steps, scale.batch, LENGTH, rate, max(1, steps // 20), seed=seed)
    students = [DecoderLM(student_config(), seed=seed).to(device) for _ in group]
    if first.alpha == 0:
        train(students[0], stream_N, config, progress=False)
    else:
        distill_together(group, students, stream_N, config)
    code, corpus = code_hash(DISTILLATION_CODE), prepared_corpus().fingerprint()
    own, teachers = flops_per_token()
    rows = []
    for variant, student in zip(group, students, strict=True):
        row = {"variant": variant.name, "seed": seed, "alpha": variant.alpha}
        row |= {"temperature": variant.temperature, "learning_rate": rate}
        row |= {"text_tokens": len(stream_N), "steps": steps, "tokens": config.tokens}
        row |= {"flops": int(config.tokens * (own + (teachers if variant.alpha else 0)))}
        row |= measured(student, device, scale.windows)
        rows.append(row | {"code": code, "corpus": corpus})
    return rows


def measured(student: DecoderLM, device: str, windows: int) -> dict[str, float]:
    """Nats a token on both held-out splits; entropy and bits per byte on the test split."""
    bytes_V, corpus = course_tokenizer().token_bytes(), prepared_corpus()
    given = {"windows": windows, "device": device}
    chosen = evaluate(student, corpus, bytes_V, split="validation", **given)["all"]
    results = evaluate(student, corpus, bytes_V, split="test", **given)
    row = {"validation_nats": round(chosen.nats_per_token, 5)}
    row |= {"nats_per_token": round(results["all"].nats_per_token, 5)}
    row |= {"entropy": round(mean_entropy(student), 5)}
    row |= {"bits_per_byte": round(results["all"].bits_per_byte, 5)}
    return row | {f"{name}_bits": round(results[name].bits_per_byte, 5) for name in DOMAINS}


def sample() -> dict:
    """One row, on the CPU: labels alone, seed 0, at the recorded rate and in the recorded form."""
    row = load_record(RECORD).rows[0]
    scale = FULL if row["steps"] == FULL.steps else SMALL
    return run((VARIANTS[0],), 0, "cpu", row["learning_rate"], scale)[0]


def start(grid: Sequence[tuple], devices: list[str], jobs: int, scale: Scale) -> Iterator[list]:
    """The rows of each (group, seed, rate) of the grid, `jobs` at a time, as they are ready."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        waiting = [
            pool.submit(run, group, seed, devices[n % len(devices)], rate, scale)
            for n, (group, seed, rate) in enumerate(grid)
        ]
        for ready in as_completed(waiting):
            yield ready.result()


def best_rates(devices: list[str], jobs: int, scale: Scale) -> dict[bool, float]:
    """The best rate of the sweep with seed 0: for labels alone (False) and for the rest (True)."""
    swept = [(v,) for v in VARIANTS if v.name in SWEPT]
    grid = [(group, 0, rate) for group in swept for rate in scale.rates]
    best = {}
    rows = [row for (row,) in start(grid, devices, jobs, scale)]
    for row in sorted(rows, key=lambda row: row["validation_nats"], reverse=True):
        print(row["variant"], row["learning_rate"], row["validation_nats"], flush=True)
        best[row["alpha"] > 0] = row["learning_rate"]
    return best


def in_order(rows: list[dict]) -> list[dict]:
    """Rows as the variants are listed, then by seed."""
    names = [variant.name for variant in VARIANTS]
    return sorted(rows, key=lambda row: (names.index(row["variant"]), int(row["seed"])))


def main() -> None:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument("--full", action="store_true", help="the form for GPUs")
    parser.add_argument("--steps", type=int, help="other than the form's")
    parser.add_argument("--rates", type=float, nargs=2, help="labels alone, all others: no sweep")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are recorded")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    scale = FULL if given.full else SMALL
    scale = replace(scale, steps=given.steps or scale.steps)
    places = given.devices, given.jobs, scale
    if given.rates:
        rates = dict(zip((False, True), given.rates, strict=True))
    else:
        rates = best_rates(*places)
    rows = []
    if given.resume and (path := FOLDER / f"{RECORD}.csv").exists():
        rows = list(csv.DictReader(path.open(encoding="utf-8")))
    done = {(row["variant"], int(row["seed"])) for row in rows}
    grid = [
        (group, seed, rates[group[0].alpha > 0]) for group in groups(scale) for seed in (0, 1, 2)
    ]
    grid = [place for place in grid if (place[0][0].name, place[1]) not in done]
    for found in start(grid, *places):
        rows += found
        save_record(RECORD, in_order(rows))
        for row in found:
            print(row["variant"], row["seed"], row["nats_per_token"], flush=True)
    print(f"{RECORD}.csv: {len(rows)} rows")


if __name__ == "__main__":
    main()
