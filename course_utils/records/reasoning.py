"""Distilled reasoning on puzzles (chapter 11): what a student learns from answers, from its
teacher's texts, right and wrong, from the teacher's scores, and from a sloppy verifier.

`python -m course_utils.records.reasoning --stage teacher` trains the teacher on worked steps and
writes models/shipped/reasoner.safetensors, in some five minutes on one core. `--stage base`
trains the model that all students begin as, a fifth of the teacher's size, on easy puzzles, and
writes reasoner_base.safetensors. `--stage students --jobs 2` lets the teacher answer the students'
questions and trains the students, seeds 0, 1, 2, in about ten minutes on two cores; it writes
reasoner_student.safetensors ("kept traces", seed 0) and c11_reasoning.csv, row by row as they come.
`--resume` keeps the rows that are there and the traces. `--full --devices cuda:0 cuda:1 --jobs 16`
is the larger form, for GPUs. A seed decides the order of texts and the samples; the base is one.

Compute is equal: each method gets the operations of "kept traces", in which the teacher's sampling
and scoring and the student's own sampling are counted; what it does not spend on them, it spends on
training. Methods: "answers" sees question and answer; "kept traces" are the teacher's first right
completions; "unfiltered" its first ones; "N% wrong" has wrong ones in place of so many, sampled hot
where the teacher is right otherwise; "on policy" spends half of the budget on kept traces and half
on the teacher's scores of its own texts; "base" is trained no further. "own samples, VERIFIER" is
not at equal compute: the base samples, keeps what the verifier lets through, and learns from it, in
three rounds.
"""

import argparse
import csv
import json
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor, as_completed
from statistics import mean

import torch

from course_utils.data import puzzles
from course_utils.distillation.on_policy import distill_on_policy
from course_utils.distillation.sequence import keep_traces
from course_utils.models import DecoderLM, load_checkpoint
from course_utils.models.checkpoints import SHIPPED
from course_utils.records.reasoning_setup import (
    FULL,
    NEW,
    SMALL,
    STUDENT_CONFIG,
    TEACHER_CONFIG,
    TRACES,
    Scale,
    ask,
    example_flops,
    learn,
    measure,
    ship,
    student_questions,
    train_base,
    train_teacher,
    write_traces,
)
from course_utils.records.recorded import CODE, FOLDER, code_hash, save_record
from course_utils.training import TrainingConfig

RECORD = "c11_reasoning"
KEYS = ("method", "seed", "round")
TOLERANCE = {"accuracy": 0.05, "hardest_third": 0.08}
REASONING_CODE = (*CODE, "data/puzzles.py", "distillation/sequence.py", "distillation/on_policy.py")
REASONING_CODE += ("distillation/losses.py", "training/supervised.py")
UNTRAINED = ((1, "base"), (2, "base"))  # would be the same row again
VERIFIERS = {"strict": puzzles.verify, "sloppy": puzzles.mentions_answer}
OWN = {f"own samples, {name}": verifier for name, verifier in VERIFIERS.items()}
TEXT = 76  # symbols of a question and its worked steps, on average: what compute is counted with


def wrong_shares(scale: Scale) -> dict[str, float]:
    """The methods with wrong traces, and the share of them."""
    return {f"{share:.0%} wrong": share for share in scale.shares}


def methods(scale: Scale) -> list[str]:
    """Every method, as the record lists them."""
    right = ["base", "answers", "kept traces", "unfiltered"]
    return [*right, *wrong_shares(scale), "on policy", *OWN]


def spent_before(method: str, scale: Scale) -> int:
    """Operations of the teacher's sampling before the student's training begins."""
    if method == "answers":
        return 0
    each = 1 if method == "unfiltered" else scale.samples
    return scale.questions * each * example_flops(TEACHER_CONFIG, TEXT)[0]


def budget(scale: Scale) -> int:
    """Operations of each method: those of "kept traces"."""
    training = scale.steps * scale.batch * example_flops(STUDENT_CONFIG, TEXT)[1]
    return spent_before("kept traces", scale) + training


def pairs_of(method: str, seed: int, scale: Scale) -> list[tuple[str, str]]:
    """What a student is shown: (question, completion)."""
    questions, rng = student_questions(scale), random.Random(seed)
    if method == "answers":
        return [(q, puzzles.answer_of(q) + puzzles.END) for q in questions]
    traces = json.loads(TRACES.read_text(encoding="utf-8"))
    both = list(zip(questions, traces["samples"], strict=True))
    if method == "unfiltered":
        return [(question, texts[0]) for question, texts in both if texts[0]]
    kept = [(q, keep_traces(q, texts, puzzles.verify)) for q, texts in both]
    right = [(q, texts[0]) for q, texts in kept if texts]
    shares = wrong_shares(scale)
    if method not in shares:
        return right
    wrong = [(q, text) for q, (text, _) in traces["wrong"].items()]
    rng.shuffle(wrong)
    taken = wrong[: round(shares[method] * len(questions))]
    named = {question for question, _ in taken}
    rest = [pair for pair in right if pair[0] not in named]
    return taken + rest[: round(len(taken) / shares[method]) - len(taken)]


def on_policy(student: DecoderLM, seed: int, left: float, device: str, scale: Scale) -> int:
    """Spend `left` operations on the teacher's scores of the student's texts; the steps taken."""
    read, train = example_flops(STUDENT_CONFIG, TEXT)
    each = read + train + example_flops(TEACHER_CONFIG, TEXT)[0]
    steps = max(1, int(left / (each * scale.on_policy_batch)))
    teacher = load_checkpoint(SHIPPED / "reasoner.safetensors").to(device)
    prompts = [puzzles.encode(question) for question in student_questions(scale)]
    config = TrainingConfig(
        steps, scale.on_policy_batch, peak_learning_rate=1e-3, warmup_steps=5, seed=seed
    )
    ends = {"end_id": puzzles.END_ID, "pad_id": puzzles.PAD_ID, "progress": False}
    distill_on_policy(student, teacher, prompts, config, NEW, **ends)
    return steps


def run(method: str, seed: int, device: str, scale: Scale) -> list[dict]:
    """Train one student and measure it."""
    student = load_checkpoint(SHIPPED / "reasoner_base.safetensors").to(device)
    if method == "base":
        return [row(method, seed, 0, 0, 0, 0, 0, measure(student, scale))]
    if method in OWN:
        return own_samples(student, method, seed, scale)
    pairs = pairs_of(method, seed, scale)
    length = round(mean(len(question + completion) for question, completion in pairs))
    batch = scale.batch * example_flops(STUDENT_CONFIG, length)[1]
    left = budget(scale) - spent_before(method, scale)
    half = left / 2 if method == "on policy" else left
    taken = int(half / batch)
    learn(student, pairs, taken, scale.batch, seed)
    scored = on_policy(student, seed, half, device, scale) if method == "on policy" else 0
    found = measure(student, scale)
    if method == "kept traces" and seed == 0:
        how = "sequence-level distillation", "verified completions of reasoner"
        ship(student, "reasoner_student", "reasoner_base", *how, taken * scale.batch, found)
    return [row(method, seed, 0, taken, scored, len(pairs), budget(scale), found)]


def own_samples(student: DecoderLM, method: str, seed: int, scale: Scale) -> list[dict]:
    """Rounds of sampling, judging and learning, with no teacher."""
    verifier, again = OWN[method], max(1, scale.steps // 10)
    rows = []
    for number in range(1, scale.rounds + 1):
        sampler = random.Random(number)
        questions = sampler.sample(student_questions(scale), scale.round_questions)
        samples = ask(student, questions, 4, 1.0, seed=seed * scale.rounds + number)
        kept = [
            (q, text)
            for q, texts in zip(questions, samples, strict=True)
            for text in keep_traces(q, texts, verifier)
            if text
        ]
        if kept:
            learn(student, kept, again, scale.batch, seed + number)
        rows.append(row(method, seed, number, again, 0, len(kept), "", measure(student, scale)))
    return rows


def row(method, seed, number, steps, scored, pairs, flops, found: dict) -> dict:
    """A row of the record: what was done, and what it gave."""
    done = {"method": method, "seed": seed, "round": number, "steps": steps}
    done |= {"scored_steps": scored, "pairs": pairs, "flops": flops}
    return done | found | {"code": code_hash(REASONING_CODE), "corpus": "generated"}


def sample() -> dict:
    """The student that ships, measured again on this machine."""
    student = load_checkpoint(SHIPPED / "reasoner_student.safetensors")
    return row("kept traces", 0, 0, "", "", "", "", measure(student, SMALL))


def train_students(devices: list[str], jobs: int, scale: Scale, resume: bool) -> None:
    """Write the record, row by row; all methods of one seed before the next seed."""
    path, rows = FOLDER / f"{RECORD}.csv", []
    if resume and path.exists():
        rows = list(csv.DictReader(path.open(encoding="utf-8")))
    if not (resume and TRACES.exists()):
        write_traces(devices[0], scale)
    done = {(row["method"], int(row["seed"])) for row in rows}
    grid = [(method, seed) for seed in (0, 1, 2) for method in methods(scale)]
    grid = [place for place in grid if place not in done and place[::-1] not in UNTRAINED]
    grid.sort(key=lambda place: (place[1], place[0] != "kept traces"))  # the one that ships first
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, torch.set_num_threads, (1,)) as pool:
        waiting = [
            pool.submit(run, *place, devices[n % len(devices)], scale)
            for n, place in enumerate(grid)
        ]
        for ready in as_completed(waiting):
            rows = sorted(rows + ready.result(), key=lambda row: place_of(row, scale))
            print(save_record(RECORD, rows), len(rows), ready.result()[-1], flush=True)
    TRACES.unlink()


def place_of(row: dict, scale: Scale) -> tuple[int, int, int]:
    """Where a row stands in the record."""
    return methods(scale).index(row["method"]), int(row["seed"]), int(row["round"])


def main() -> None:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--jobs", type=int, default=1, help="students trained at the same time")
    parser.add_argument("--stage", choices=("all", "teacher", "base", "students"), default="all")
    parser.add_argument("--full", action="store_true", help="the form for GPUs")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are recorded")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    scale = FULL if given.full else SMALL
    torch.set_num_threads(1)
    if given.stage in ("all", "teacher"):
        train_teacher(given.devices[0], scale)
    if given.stage in ("all", "base"):
        train_base(given.devices[0], scale)
    if given.stage in ("all", "students"):
        train_students(given.devices, given.jobs, scale, given.resume)


if __name__ == "__main__":
    main()
