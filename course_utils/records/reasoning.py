"""Distilled reasoning on puzzles (chapter 11): what a student learns from answers, from its
teacher's texts, right and wrong, from the teacher's scores, and from a sloppy verifier.

`python -m course_utils.records.reasoning [--devices cuda:0 cuda:1 --jobs 16]` trains the teacher on
worked steps (60,000 questions), lets it answer the 6,000 questions of the students, trains students
of a fifth of its size on them, seeds 0, 1, 2, and writes models/shipped/reasoner.safetensors (the
teacher), reasoner_student.safetensors ("kept traces", seed 0) and c11_reasoning.csv. `--stage
students` takes the teacher that is there.

Compute is equal: each method gets `budget()` operations, in which the teacher's sampling and
scoring and the student's own sampling are counted; what it does not spend on them, it spends on
training. Methods: "answers" sees question and answer; "worked steps" is the control, what the
teacher itself learned from; "kept traces" are the teacher's first right completions; "unfiltered"
its first ones; "N% wrong" has wrong ones in place of so many; "on policy" spends half of the budget
on kept traces and half on the teacher's scores of its own texts. "own samples, VERIFIER" is not at
equal compute: a student begun on kept traces samples, keeps what the verifier lets through, and
learns from it, in three rounds.
"""

import argparse
import json
import random

import torch

from course_utils.data import puzzles
from course_utils.distillation.on_policy import distill_on_policy
from course_utils.distillation.sequence import keep_traces
from course_utils.models import DecoderLM, load_checkpoint
from course_utils.models.checkpoints import SHIPPED
from course_utils.records.reasoning_setup import (
    BATCH,
    DETOURS,
    LENGTH,
    NEW,
    QUESTIONS,
    SAMPLES,
    STEPS,
    STUDENT_CONFIG,
    TEACHER_CONFIG,
    TEACHER_STEPS,
    TRACES,
    ask,
    example_flops,
    learn,
    measure,
    new_model,
    ship,
    student_questions,
    train_teacher,
    write_traces,
)
from course_utils.records.recorded import CODE, code_hash, save_record
from course_utils.records.small_models import run_grid
from course_utils.training import TrainingConfig

RECORD = "c11_reasoning"
KEYS = ("method", "seed", "round")
TOLERANCE = {"accuracy": 0.05, "hardest_third": 0.08}
REASONING_CODE = (*CODE, "data/puzzles.py", "distillation", "training/supervised.py")
VERIFIERS = {"strict": puzzles.verify, "sloppy": puzzles.mentions_answer}
WRONG = {"25% wrong": 0.25, "50% wrong": 0.5, "100% wrong": 1.0}
METHODS = ("answers", "worked steps", "kept traces", "unfiltered", *WRONG, "on policy")
OWN = {f"own samples, {name}": verifier for name, verifier in VERIFIERS.items()}
ROUNDS, ROUND_QUESTIONS, ON_POLICY_BATCH = 3, 2000, 128


def spent_before(method: str) -> int:
    """Operations of the teacher's sampling before the student's training begins."""
    if method in ("answers", "worked steps"):
        return 0
    each = 1 if method == "unfiltered" else SAMPLES
    return QUESTIONS * each * example_flops(TEACHER_CONFIG, LENGTH)[0]


def budget(steps: int = STEPS) -> int:
    """Operations of each method: those of "kept traces" with so many steps."""
    return spent_before("kept traces") + steps * BATCH * example_flops(STUDENT_CONFIG, LENGTH)[1]


def pairs_of(method: str, seed: int) -> list[tuple[str, str]]:
    """What a student is shown: (question, completion)."""
    questions, rng = student_questions(), random.Random(seed)
    if method == "answers":
        return [(q, puzzles.answer_of(q) + puzzles.END) for q in questions]
    if method == "worked steps":
        return [(q, puzzles.worked(q, rng, DETOURS)) for q in questions]
    traces = json.loads(TRACES.read_text(encoding="utf-8"))
    both = list(zip(questions, traces["samples"], strict=True))
    if method == "unfiltered":
        return [(question, texts[0]) for question, texts in both]
    kept = [(q, keep_traces(q, texts, puzzles.verify)) for q, texts in both]
    right = [(q, texts[0]) for q, texts in kept if texts]
    if method not in WRONG:
        return right
    wrong = [(q, text) for q, (text, _) in traces["wrong"].items()]
    rng.shuffle(wrong)
    taken = wrong[: round(WRONG[method] * len(questions))]
    named = {question for question, _ in taken}
    rest = [pair for pair in right if pair[0] not in named]
    return taken + rest[: round(len(taken) / WRONG[method]) - len(taken)]


def on_policy(student: DecoderLM, seed: int, left: float, device: str) -> int:
    """Spend `left` operations on the teacher's scores of the student's texts; the steps taken."""
    read, train = example_flops(STUDENT_CONFIG, LENGTH)
    each = read + train + example_flops(TEACHER_CONFIG, LENGTH)[0]
    steps = max(1, int(left / (each * ON_POLICY_BATCH)))
    teacher = load_checkpoint(SHIPPED / "reasoner.safetensors").to(device)
    prompts = [puzzles.encode(question) for question in student_questions()]
    config = TrainingConfig(
        steps, ON_POLICY_BATCH, peak_learning_rate=1e-3, warmup_steps=5, seed=seed
    )
    ends = {"end_id": puzzles.END_ID, "pad_id": puzzles.PAD_ID, "progress": False}
    distill_on_policy(student, teacher, prompts, config, NEW, **ends)
    return steps


def run(method: str, seed: int, device: str, steps: int = STEPS) -> list[dict]:
    """Train one student and measure it."""
    torch.set_num_threads(1)
    if method in OWN:
        return own_samples(method, seed, device, steps)
    student, pairs = new_model(STUDENT_CONFIG, seed, device), pairs_of(method, seed)
    length = max(len(question + completion) for question, completion in pairs)
    batch = BATCH * example_flops(STUDENT_CONFIG, length)[1]
    left = budget(steps) - spent_before(method)
    half = left / 2 if method == "on policy" else left
    taken = int(half / batch)
    learn(student, pairs, taken, seed)
    scored = on_policy(student, seed, half, device) if method == "on policy" else 0
    found = measure(student)
    if method == "kept traces" and seed == 0:
        ship(student, "reasoner_student", "reasoner", "its verified completions", taken, found)
    return [row(method, seed, 0, taken, scored, len(pairs), budget(steps), found)]


def own_samples(method: str, seed: int, device: str, steps: int) -> list[dict]:
    """Rounds of sampling, judging and learning, from a student begun on kept traces."""
    student, verifier = new_model(STUDENT_CONFIG, seed, device), OWN[method]
    pairs, begin, again = pairs_of("kept traces", seed), max(1, steps // 2), max(1, steps // 6)
    learn(student, pairs, begin, seed)
    rows = [row(method, seed, 0, begin, 0, len(pairs), "", measure(student))]
    for number in range(1, ROUNDS + 1):
        questions = random.Random(number).sample(student_questions(), ROUND_QUESTIONS)
        samples = ask(student, questions, SAMPLES, 1.0, seed=seed * ROUNDS + number)
        kept = [
            (q, text)
            for q, texts in zip(questions, samples, strict=True)
            for text in keep_traces(q, texts, verifier)
            if text
        ]
        if kept:
            learn(student, kept, again, seed + number)
        rows.append(row(method, seed, number, again, 0, len(kept), "", measure(student)))
    return rows


def row(method, seed, number, steps, scored, pairs, flops, found: dict) -> dict:
    """A row of the record: what was done, and what it gave."""
    done = {"method": method, "seed": seed, "round": number, "steps": steps}
    done |= {"scored_steps": scored, "pairs": pairs, "flops": flops}
    return done | found | {"code": code_hash(REASONING_CODE), "corpus": "generated"}


def sample() -> dict:
    """The student that ships, measured again on this machine."""
    student = load_checkpoint(SHIPPED / "reasoner_student.safetensors")
    return row("kept traces", 0, 0, "", "", "", "", measure(student))


def main() -> None:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--devices", nargs="+", default=["cuda:0" if torch.cuda.is_available() else "cpu"]
    )
    parser.add_argument("--jobs", type=int, default=1, help="students trained at the same time")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps on kept traces")
    parser.add_argument("--teacher-steps", type=int, default=TEACHER_STEPS)
    parser.add_argument("--stage", choices=("all", "students"), default="all")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    if given.stage == "all":
        train_teacher(given.devices[0], given.teacher_steps)
    write_traces(given.devices[0])
    runs = [(method, seed) for method in ("on policy", *OWN, *METHODS[:-1]) for seed in (0, 1, 2)]
    grid = [
        (*place, given.devices[number % len(given.devices)], given.steps)
        for number, place in enumerate(runs)
    ]
    found = run_grid(run, grid, given.jobs)
    print(save_record(RECORD, [one for rows in found for one in rows]))
    TRACES.unlink()


if __name__ == "__main__":
    main()
