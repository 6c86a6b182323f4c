"""Puzzles with worked steps: small tasks that a small model can solve, and a strict verifier.

A question lists statements, each after the one that it needs, and asks for the value of one letter.
Only the last digit of every result is kept. A completion works forward from the given number, one
statement a step, and ends with the answer and a full stop.

    question      a=3;b=a+5;c=b*7;k=b-1;c?
    completion    a=3;b=3+5=8;c=8*7=6;6.

The difficulty of a question is the number of operations that its answer needs, here 2. `k` is an
extra: true, and not needed. A step that works out an extra is a detour, and allowed, so a question
has several right completions of different length. Factors are 3, 7 and 9, because times 2 or 5 the
last digit forgets where it came from.

Every text is made of the 34 symbols of `SYMBOLS`, one token each. `verify` works every step out
anew. `answer_is_right` looks at the answer alone, which is what answers without steps can be judged
by; `mentions_answer` is sloppy on purpose: the right digit anywhere will do. Left out: results of
several digits, statements of two letters (a tree of steps in place of a chain), and statements in
any order or with extras between them (`verify` takes them; models of this size learned them far too
slowly).
"""

import random
import re
from collections.abc import Sequence

LETTERS = "abcdefghijklmnop"
DIGITS = "0123456789"
PAD, END = "_", "."
SYMBOLS = PAD + END + ";=?" + "+-*" + DIGITS + LETTERS
PAD_ID, END_ID = SYMBOLS.index(PAD), SYMBOLS.index(END)
OPERANDS = {"+": "123456789", "-": "123456789", "*": "379"}
DIFFICULTIES = (1, 2, 3, 4, 5, 6)
EXTRAS = 2
STATEMENT = re.compile("[a-p]=([0-9]|[a-p][-+*][0-9])")
IDS = {symbol: number for number, symbol in enumerate(SYMBOLS)}


def encode(text: str) -> list[int]:
    """The ids of a text, one a symbol. ValueError for a character that is no symbol."""
    try:
        return [IDS[symbol] for symbol in text]
    except KeyError as error:
        raise ValueError(f"{error} is no symbol of the puzzles: they are {SYMBOLS!r}") from None


def decode(ids: Sequence[int]) -> str:
    """The text of ids up to the first full stop or padding, the full stop included."""
    text = "".join(SYMBOLS[number] for number in ids)
    return text.partition(PAD)[0] if END not in text else text[: text.index(END) + 1]


def read_question(question: str) -> tuple[dict[str, str], str]:
    """The statements (letter to expression, such as {"a": "3", "b": "a+5"}) and the letter asked.

    ValueError when the text is no question.
    """
    *parts, asked = question.split(";")
    statements = {part[0]: part[2:] for part in parts if STATEMENT.fullmatch(part)}
    if len(statements) != len(parts) or asked[-1:] != "?" or asked[:-1] not in statements:
        raise ValueError(f"{question!r} is no question: write a=3;b=a+5;b?")
    return statements, asked[:-1]


def calculate(left: str, operation: str, right: str) -> str:
    """The last digit of left + right, left - right (10 is lent) or left * right."""
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[operation] % 10)


def worked_step(name: str, expression: str, values: dict[str, str]) -> str | None:
    """The step that works out `name`: "a=3", or "b=3+5=8"; None if its letter has no value yet."""
    if expression in DIGITS:
        return f"{name}={expression}"
    letter, operation, right = expression
    if letter not in values:
        return None
    left = values[letter]
    return f"{name}={left}{operation}{right}={calculate(left, operation, right)}"


def needed(question: str) -> list[str]:
    """The letters that the answer needs, from the given number to the letter asked."""
    statements, name = read_question(question)
    chain = [name]
    while statements[name] not in DIGITS:
        name = statements[name][0]
        chain.append(name)
    return chain[::-1]


def difficulty(question: str) -> int:
    """How many operations the answer needs."""
    return len(needed(question)) - 1


def answer_of(question: str) -> str:
    """The right answer, one digit."""
    return worked(question)[-2]


def worked(question: str, rng: random.Random | None = None, detours: float = 0.0) -> str:
    """A right completion. Each step is any that is possible with chance `detours`, else a needed
    one."""
    statements, asked = read_question(question)
    chain, values, steps = needed(question), {}, []
    while asked not in values:
        name = next(letter for letter in chain if letter not in values)
        if rng is not None and rng.random() < detours:
            possible = [n for n, e in statements.items() if worked_step(n, e, values)]
            name = rng.choice([n for n in possible if n not in values])
        steps.append(worked_step(name, statements[name], values))
        values[name] = steps[-1][-1]
    return ";".join([*steps, values[asked]]) + END


def make_question(rng: random.Random, steps: int, extras: int = EXTRAS) -> str:
    """A question of difficulty `steps`, letters at random, with so many extras at its end."""
    letters = rng.sample(LETTERS, steps + 1 + extras)
    statements = [f"{letters[0]}={rng.choice(DIGITS)}"]
    for number in range(1, len(letters)):
        operation = rng.choice("+-*")
        source = letters[number - 1] if number <= steps else rng.choice(letters[:number])
        statements.append(f"{letters[number]}={source}{operation}{rng.choice(OPERANDS[operation])}")
    return ";".join([*statements, letters[steps] + "?"])


def questions(seed: int, count: int, difficulties: Sequence[int] = DIFFICULTIES) -> list[str]:
    """`count` different questions, the difficulties in turn; the same seed gives the same ones."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        steps = difficulties[len(found) % len(difficulties)]
        found[make_question(rng, steps)] = None
    return list(found)


def verify(question: str, completion: str) -> bool:
    """True when every step is a statement of the question, worked out rightly from what stands
    before, none twice, and the answer is the value of the letter asked."""
    statements, asked = read_question(question)
    if not completion.endswith(END):
        return False
    *steps, answer = completion[:-1].split(";")
    values: dict[str, str] = {}
    for step in steps:
        name = step.partition("=")[0]
        if name not in statements or name in values:
            return False
        if step != worked_step(name, statements[name], values):
            return False
        values[name] = step[-1]
    return answer == values.get(asked)


def answer_is_right(question: str, completion: str) -> bool:
    """True when the completion ends with the right answer, whatever stands before it."""
    return completion.rpartition(";")[2] == answer_of(question) + END


def mentions_answer(question: str, completion: str) -> bool:
    """True when the right digit occurs anywhere in the completion: a sloppy verifier."""
    return answer_of(question) in completion
