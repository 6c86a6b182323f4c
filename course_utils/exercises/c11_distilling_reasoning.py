"""The exercises of chapter 11: a verifier, what it keeps, pass@k, the student's own texts.

The wrong answers stand in the files `_c11_*mistakes.py` beside this one.
"""

import random

import torch
from torch import Tensor, nn

from course_utils.data import puzzles
from course_utils.distillation.on_policy import (
    completion_labels,
    on_policy_loss,
    sampled_reverse_kl,
)
from course_utils.distillation.sequence import keep_traces, pass_at_k
from course_utils.exercises import _c11_mistakes as mistakes
from course_utils.exercises import _c11_verifier_mistakes as verifier_mistakes
from course_utils.exercises.spec import Case, ExerciseSpec


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(32))


# ---- the verifier

QUESTION = "a=3;b=a+5;c=b*7;k=b-9;c?"
COMPLETIONS = {
    "a=3;b=3+5=8;c=8*7=6;6.": "right",
    "a=3;b=3+5=8;k=8-9=9;c=8*7=6;6.": "right, with a true step that is not needed",
    "6.": "the answer without steps",
    "a=3;b=3+5=9;c=9*7=3;3.": "3+5=9, and the rest agrees with it",
    "a=3;b=3+5=9;c=8*7=6;6.": "a wrong result on the way, the right answer",
    "c=8*7=6;a=3;b=3+5=8;6.": "a step before its letter is known",
    "a=3;b=3+5=8;b=3+5=8;c=8*7=6;6.": "a step twice",
    "a=3;b=3+5=8;c=8*7=6;k=8-9=9;9.": "the value of another letter",
    "a=3;b=3+5=8;c=8*7=6;6": "no full stop",
    "a=3;p=3+5=8;c=8*7=6;6.": "a letter that the question does not have",
    "0123456789.": "every digit",
    "": "nothing",
}


def _verify_cases(rng: random.Random) -> list[Case]:
    cases = [Case((QUESTION, text), says) for text, says in COMPLETIONS.items()]
    for question in puzzles.questions(rng.getrandbits(30), 4, (1, 3, 5)):
        right = _worked(question)
        place = rng.randrange(len(right) - 1)
        changed = right[:place] + rng.choice(puzzles.DIGITS) + right[place + 1 :]
        cases += [Case((question, right)), Case((question, changed))]
    return cases


def _worked(question: str) -> str:
    """The shortest right completion, without the functions that an answer is compared with."""
    statements, asked = puzzles.read_question(question)
    values, steps = {}, []
    for name in puzzles.needed(question):
        steps.append(puzzles.worked_step(name, statements[name], values))
        values[name] = steps[-1][-1]
    return ";".join([*steps, values[asked]]) + puzzles.END


VERIFY = ExerciseSpec(
    name="c11.verify",
    title="A strict verifier",
    why="What the verifier lets through is taught as if it were right.",
    reference=puzzles.verify,
    cases=_verify_cases,
    wrong_answers=verifier_mistakes.VERIFY,
    hints=(
        "Cut the completion at ';': steps, and at the end the answer. Keep a dict of the values "
        "that have been worked out so far.",
        "worked_step(name, statements[name], values) is the whole right step as text, or None "
        "when its letter has no value yet. Compare the step with it.",
        "values[name] = step[-1] after each step; at the end return answer == values.get(asked)",
    ),
)


# ---- what is kept


def _starts_right(question: str, completion: str) -> bool:
    """A verifier for the exercise: right completions begin with the question."""
    return completion.startswith(question)


def _keep_cases(rng: random.Random) -> list[Case]:
    cases = [
        Case(("q", ["x", "q2", "q1"], _starts_right), "one wrong, then two right"),
        Case(("q", ["qlong", "x", "qlong", "qb", "qa"], _starts_right, 2), "a right one twice"),
        Case(("q", ["x", "y"], _starts_right), "none right"),
        Case(("q", [], _starts_right, 3), "no completions"),
    ]
    for _ in range(3):
        texts = [rng.choice(["q", "x"]) + "0" * rng.randrange(4) for _ in range(12)]
        cases.append(Case(("q", texts, _starts_right, rng.randint(1, 4))))
    return cases


KEEP_TRACES = ExerciseSpec(
    name="c11.keep_traces",
    title="Rejection sampling",
    why="It turns a teacher that is often right into texts that all are.",
    reference=keep_traces,
    cases=_keep_cases,
    wrong_answers=verifier_mistakes.KEEP_TRACES,
    hints=(
        "Walk through the completions in their order; keep a list.",
        "Keep a text if it is not in the list and passes; stop when the list has `most` entries.",
        "if completion not in kept and verify(question, completion): kept.append(completion)",
    ),
)


# ---- pass@k


def _pass_cases(rng: random.Random) -> list[Case]:
    fixed = [(4, 1, 2), (4, 0, 3), (4, 4, 1), (10, 3, 4), (10, 7, 4), (16, 5, 1)]
    drawn = [(n, rng.randint(1, n), rng.randint(1, n)) for n in (8, 12, 16)]
    cases = [Case(numbers, "samples {}, correct {}, k {}".format(*numbers)) for numbers in fixed]
    refused = [(4, 2, 5), (4, 5, 2), (4, 2, 0)]
    return cases + [Case(numbers) for numbers in (*refused, *drawn)]


PASS_AT_K = ExerciseSpec(
    name="c11.pass_at_k",
    title="pass@k without bias",
    why="Tables of reasoning models report it, and the obvious formula is wrong.",
    reference=pass_at_k,
    cases=_pass_cases,
    wrong_answers=verifier_mistakes.PASS_AT_K,
    hints=(
        "Draw k of the n samples without putting back. When is pass@k missed?",
        "All k come from the n - c wrong ones in comb(n - c, k) of the comb(n, k) draws.",
        "return 1 - comb(samples - correct, k) / comb(samples, k), after the ValueError",
    ),
)


# ---- labels of a completion


def _label_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    small = torch.tensor([[0, 9, 8, 5, 6, 1, 1], [7, 9, 8, 5, 6, 7, 4]])
    cases = [Case((small, 3, 1), "prompts of 3 ids; the first ends after three, the second never")]
    for B, prompt, new in ((1, 2, 3), (3, 4, 6)):
        ids = torch.randint(2, 9, (B, prompt + new), generator=g)
        ids[0, prompt + 1 :] = 1
        cases.append(Case((ids, prompt, 1), f"{B} rows, prompt {prompt}, {new} new ids, end 1"))
    inside = torch.tensor([[5, 1, 6, 7, 8, 1, 1]])
    return [*cases, Case((inside, 3, 1), "the end's id stands in the prompt too")]


COMPLETION_LABELS = ExerciseSpec(
    name="c11.completion_labels",
    title="What is judged",
    why="Prompt and padding outnumber the completion; counted, they decide the loss.",
    reference=completion_labels,
    cases=_label_cases,
    wrong_answers=mistakes.COMPLETION_LABELS,
    hints=(
        "Position t predicts id t + 1, so the labels are the ids moved one to the left.",
        "The last position of the prompt is judged: it predicts the first new id.",
        "ended_BT = (ids_BT[:, prompt:] == end_id).cumsum(dim=1) > 0 marks the end and what is "
        "after it; at those positions the label is IGNORED.",
    ),
)


# ---- the on-policy loss


class _Reader(nn.Module):
    """A small model that sees what its mask lets it see: the mean of the rows read so far."""

    def __init__(self, seed: int):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.table, self.past = (nn.Parameter(torch.randn(6, 6, generator=g)) for _ in range(2))

    def forward(self, ids_BT: Tensor, attention_mask: Tensor) -> Tensor:
        weight_BT1 = attention_mask[..., None].float()
        seen = (self.past[ids_BT] * weight_BT1).cumsum(1) / weight_BT1.cumsum(1).clamp(min=1)
        return self.table[ids_BT] + seen


class _Draw:
    """Draws the likeliest ids, and keeps whether gradients were on."""

    def __init__(self) -> None:
        self.graphs: list[bool] = []

    def __call__(self, model: nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        self.graphs.append(torch.is_grad_enabled())
        logits_BTV = model(ids_BT, attention_mask=mask_BT).detach()
        return (logits_BTV[:, -3:].argmax(-1) + logits_BTV[:, -1:].argmin(-1)) % 6


def _reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """A divergence for the loss to call."""
    student, teacher = (logits.log_softmax(-1) for logits in (student, teacher))
    return (student.exp() * (student - teacher)).sum(-1)


def _half_squares(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Another one, which is not the same both ways round."""
    return ((student - teacher).square() * student.softmax(-1)).sum(-1) / 2


def _policy_cases(rng: random.Random) -> list[Case]:
    cases = []
    for B, divergence in ((1, _reverse_kl), (3, _reverse_kl), (4, _half_squares)):
        seed = rng.getrandbits(31)

        def make(B=B, seed=seed, divergence=divergence) -> tuple:
            g = torch.Generator().manual_seed(seed)
            models = _Reader(seed % 1000), _Reader(seed % 1000 + 1)
            prompt = torch.randint(1, 6, (B, 4), generator=g)
            mask = torch.ones_like(prompt)
            mask[0, :2] = 0
            return *models, prompt, mask, _Draw(), 1, divergence

        cases.append(Case(says=f"{B} prompts, the first with two of padding", make=make))
    return cases


def _seen(result, args: tuple):
    """The value, who has gradients, and whether drawing built a graph."""
    student, teacher, draw = args[0], args[1], args[4]
    if isinstance(result, Tensor) and result.requires_grad:
        result.backward()
        result = result.detach()
    return result, student.table.grad, student.past.grad, teacher.table.grad is None, draw.graphs


ON_POLICY_LOSS = ExerciseSpec(
    name="c11.on_policy_loss",
    title="The student writes, the teacher scores",
    why="The student is corrected in the places that it really gets to.",
    reference=on_policy_loss,
    cases=_policy_cases,
    wrong_answers=mistakes.ON_POLICY_LOSS,
    hints=(
        "Four steps: draw from the student, the teacher's logits, the student's logits, the loss "
        "on the new tokens. Which of them need no gradient?",
        "The text is torch.cat([prompt_BT, new_BN], dim=1); the mask grows by torch.ones_like("
        "new_BN). Both models get both.",
        "distillation_loss(student_logits, teacher_logits, completion_labels(ids_BT, "
        "prompt_BT.shape[1], end_id), divergence=divergence)",
    ),
    observe=_seen,
)


# ---- reverse KL from drawn tokens


def _sampled_cases(rng: random.Random) -> list[Case]:
    g = _generator(rng)
    cases = []
    for B, T, ignored in ((1, 2, 0), (2, 4, 3), (3, 5, 6)):
        student, teacher = (-torch.rand(2, B, T, generator=g) * 3 - 0.05).unbind()
        labels = torch.randint(9, (B, T), generator=g)
        labels.view(-1)[:ignored] = -100
        says = f"{B} x {T} drawn tokens, {ignored} of them -100"
        cases.append(Case((student.clone(), teacher.clone(), labels), says))
    return cases


SAMPLED_REVERSE_KL = ExerciseSpec(
    name="c11.sampled_reverse_kl",
    title="Reverse KL from one number a token",
    why="A teacher behind an interface gives log-probabilities of tokens, and no logits.",
    reference=sampled_reverse_kl,
    cases=_sampled_cases,
    wrong_answers=mistakes.SAMPLED_REVERSE_KL,
    hints=(
        "The gradient of a mean over DRAWN tokens is that of a policy gradient: a fixed penalty "
        "times the gradient of the log-probability.",
        "The penalty of a token is its log-ratio, student - teacher, as a number: .detach().",
        "return token_mean(penalty_BT * student_BT, labels_BT)",
    ),
    gradients=True,
)

EXERCISES = [
    VERIFY,
    KEEP_TRACES,
    PASS_AT_K,
    COMPLETION_LABELS,
    ON_POLICY_LOSS,
    SAMPLED_REVERSE_KL,
]
