"""Wrong answers of chapter 11: verifiers, what is kept, pass@k."""

from math import comb

from course_utils.data.puzzles import END, needed, read_question, worked_step
from course_utils.exercises.spec import WrongAnswer


def _answer(question: str) -> str:
    """The right digit."""
    statements, asked = read_question(question)
    values: dict[str, str] = {}
    for name in needed(question):
        values[name] = worked_step(name, statements[name], values)[-1]
    return values[asked]


def _answer_alone(question, completion):
    return completion.rpartition(";")[2] == _answer(question) + END


def _answer_anywhere(question, completion):
    return _answer(question) in completion


def _judge(results=True, order=True, twice=False, own=True, end=True, asked_letter=True):
    """A verifier with one of its rules left out."""

    def verify(question, completion):
        statements, asked = read_question(question)
        if end and not completion.endswith(END):
            return False
        *steps, answer = completion.removesuffix(END).split(";")
        values: dict[str, str] = {}
        if not order:  # every true value is known before the first step
            while len(values) < len(statements):
                for name, expression in statements.items():
                    step = worked_step(name, expression, values)
                    values |= {name: step[-1]} if step else {}
        seen, last = [], ""
        for step in steps:
            name = step.partition("=")[0]
            if (own and name not in statements) or (not twice and name in seen):
                return False
            right = worked_step(name, statements[name], values)
            if results and step != right:
                return False
            if not results and (right is None or step[:-1] != right[:-1]):
                return False
            seen.append(name)
            last = values[name] = step[-1]
        return answer == (values.get(asked) if asked_letter else last)

    return verify


def _without_detours(question, completion):
    statements, asked = read_question(question)
    values, steps = {}, []
    for name in needed(question):
        steps.append(worked_step(name, statements[name], values))
        values[name] = steps[-1][-1]
    return completion == ";".join([*steps, values[asked]]) + END


VERIFY = (
    WrongAnswer(
        "the answer alone",
        _answer_alone,
        "You look at the answer only. A completion with wrong steps and a right digit passes: one "
        "in ten does by luck, and a student would be taught its steps.",
    ),
    WrongAnswer(
        "the digit anywhere",
        _answer_anywhere,
        "You accept the right digit anywhere in the text. 0123456789 passes every question; a "
        "student that is rewarded for it will find that out.",
    ),
    WrongAnswer(
        "results taken as written",
        _judge(results=False),
        "A step may claim any result, such as 3+5=9, if the answer agrees with it. Work every "
        "step out anew: worked_step(...) gives the whole step to compare with.",
    ),
    WrongAnswer(
        "steps in any order",
        _judge(order=False),
        "A step may use a letter whose value has not been worked out yet. That is no derivation: "
        "give worked_step the values that stand before the step, and no others.",
    ),
    WrongAnswer(
        "a step may come twice",
        _judge(twice=True),
        "The same step may be repeated. It is true each time, but a text that goes round in "
        "circles would be taught as a good one. Refuse a letter that has a value.",
    ),
    WrongAnswer(
        "any letter's value will do",
        _judge(asked_letter=False),
        "You compare the answer with the last step's result. It must be the value of the letter "
        "that the question asks for.",
    ),
    WrongAnswer(
        "no end needed",
        _judge(end=False),
        "A completion that was cut off before its full stop passes. The end is a token too, and "
        "the student has to learn it.",
    ),
    WrongAnswer(
        "one text alone is right",
        _without_detours,
        "You compare with the shortest right completion. A true step more is allowed; refusing it "
        "throws right traces away.",
    ),
    WrongAnswer(
        "unknown letters crash it",
        _judge(own=False),
        "A step that names a letter without a statement raises a KeyError. Completions are written "
        "by a model and may be anything: answer False.",
    ),
)


def _keep(question, completions, verify, most, again=False):
    """The right rule, with or without duplicates."""
    kept = []
    for text in completions:
        if len(kept) < most and (again or text not in kept) and verify(question, text):
            kept.append(text)
    return kept


def _duplicates(question, completions, verify, most=1):
    return _keep(question, completions, verify, most, again=True)


def _shortest(question, completions, verify, most=1):
    return _keep(question, sorted(completions, key=len), verify, most)


def _all(question, completions, verify, most=1):
    return _keep(question, completions, verify, len(completions))


def _cut_first(question, completions, verify, most=1):
    return _keep(question, completions[:most], verify, most)


def _until_wrong(question, completions, verify, most=1):
    right = [verify(question, text) for text in completions]
    first = right.index(False) if False in right else len(right)
    return _keep(question, completions[:first], verify, most)


def _never_empty(question, completions, verify, most=1):
    return _keep(question, completions, verify, most) or list(completions[:1])


def _swapped(question, completions, verify, most=1):
    return [text for text in dict.fromkeys(completions) if verify(text, question)][:most]


def _unordered(question, completions, verify, most=1):
    return sorted({text for text in completions if verify(question, text)})[:most]


KEEP_TRACES = (
    WrongAnswer(
        "duplicates kept",
        _duplicates,
        "The same completion is kept several times. An easy question then counts more often than "
        "a hard one.",
    ),
    WrongAnswer(
        "the shortest first",
        _shortest,
        "You prefer short completions. What is kept is then no fair sample of what is right: every "
        "preference of the filter is taught to the student.",
    ),
    WrongAnswer(
        "all of them kept",
        _all,
        "`most` is not used: easy questions give as many traces as there are samples, hard ones "
        "one, and the student sees mostly easy ones.",
    ),
    WrongAnswer(
        "cut before judged",
        _cut_first,
        "You take the first `most` completions and judge those. Judge first: a question whose "
        "first sample is wrong may have a right one behind it.",
    ),
    WrongAnswer(
        "stopped at the first wrong one",
        _until_wrong,
        "You stop at the first completion that fails. Go on: rejection sampling skips wrong ones.",
    ),
    WrongAnswer(
        "a wrong one for want of a right one",
        _never_empty,
        "When nothing passes you keep the first completion all the same. Those are the wrong "
        "traces that the filter is there for; give an empty list.",
    ),
    WrongAnswer(
        "question and completion swapped",
        _swapped,
        "verify takes the question first, then the completion.",
    ),
    WrongAnswer(
        "order lost",
        _unordered,
        "Through a set the order of sampling is lost, and sorting prefers some texts. Keep the "
        "first ones, in the order in which they were sampled.",
    ),
)


def _checked(formula):
    """A wrong answer that refuses impossible numbers as the exercise asks."""

    def pass_at_k(samples, correct, k):
        if not 1 <= k <= samples or not 0 <= correct <= samples:
            raise ValueError(f"pass@{k} of {samples} samples, {correct} of them correct")
        return formula(samples, correct, k)

    return pass_at_k


def _unchecked(samples, correct, k):
    missed = 1.0
    for number in range(k):
        missed *= max(samples - correct - number, 0) / max(samples - number, 1)
    return 1 - missed


PASS_AT_K = (
    WrongAnswer(
        "the power formula",
        _checked(lambda n, c, k: 1 - (1 - c / n) ** k),
        "1 - (1 - c/n)^k draws with putting back. Averaged over questions it is too low: with few "
        "samples c/n is a rough guess, and the power of a guess is not the guess of the power.",
    ),
    WrongAnswer(
        "the share of right samples",
        _checked(lambda n, c, k: c / n),
        "This is pass@1 whatever k is. Ask for the chance that k samples are not all wrong.",
    ),
    WrongAnswer(
        "k times the share",
        _checked(lambda n, c, k: min(1.0, k * c / n)),
        "Chances of events that can happen together do not add up: two right samples among the k "
        "are counted twice. Take the chance that all k are wrong from 1.",
    ),
    WrongAnswer(
        "all k right",
        _checked(lambda n, c, k: comb(c, k) / comb(n, k)),
        "This is the chance that all k samples are right. pass@k asks for at least one.",
    ),
    WrongAnswer(
        "any right sample counts",
        _checked(lambda n, c, k: float(c > 0)),
        "You ask whether any of all the samples is right. That is pass@n: with k below n, some "
        "draws of k miss it.",
    ),
    WrongAnswer(
        "impossible numbers accepted",
        _unchecked,
        "k above the number of samples, or more right ones than samples, must raise a ValueError: "
        "an estimate of pass@16 from 4 samples does not exist.",
    ),
)
