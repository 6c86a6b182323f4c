"""Arithmetic with worked steps: a generator of problems and a verifier that trusts nothing.

A problem is a few lines: the question, one line per step as done by hand, the answer.

    Q: 47 + 85
    7 + 5 = 12, write 2, carry 1
    4 + 8 + 1 = 13, write 13
    A: 132

Four kinds: addition and subtraction digit by digit from the right, a product with one digit, and a
small expression with brackets. The same seed gives the same problems everywhere (Python's `random`
is the same on every machine). `verify` recomputes the question with its own evaluator and checks
every equation of the steps, so it judges a model's text as strictly as ours.
"""

import ast
import operator
import random
import re
from collections.abc import Callable, Iterator

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def evaluate(expression: str) -> int:
    """The value of a whole-number expression with + - * and brackets; ValueError for all else."""
    if len(expression) > 100:
        raise ValueError(f"expression of {len(expression)} characters: at most 100 are evaluated")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{expression!r} is not whole-number arithmetic with + - *") from None


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if not isinstance(node, ast.BinOp):
        raise KeyError(node)
    return OPERATIONS[type(node.op)](_value(node.left), _value(node.right))


def addition(rng: random.Random, digits: int) -> tuple[str, list[str]]:
    """A sum of two numbers of up to `digits` digits: the question and its steps."""
    a, b = _number(rng, digits), _number(rng, digits)
    left, right = str(a)[::-1], str(b)[::-1]
    steps, carry = [], 0
    for place in range(max(len(left), len(right))):
        terms = [text[place] for text in (left, right) if place < len(text)] + ["1"] * carry
        total = sum(map(int, terms))
        last = place == max(len(left), len(right)) - 1
        step = f"{' + '.join(terms)} = {total}, write {total if last else total % 10}"
        carry = total // 10
        steps.append(step + (f", carry {carry}" if carry and not last else ""))
    return f"{a} + {b}", steps


def subtraction(rng: random.Random, digits: int) -> tuple[str, list[str]]:
    """A difference that is not negative: the question and its steps."""
    a, b = sorted((_number(rng, digits), _number(rng, digits)), reverse=True)
    left, right = str(a)[::-1], str(b)[::-1]
    steps, borrow = [], 0
    for place in range(len(left)):
        terms = [left[place]] + ([right[place]] if place < len(right) else []) + ["1"] * borrow
        result = int(terms[0]) - sum(map(int, terms[1:]))
        borrow = int(result < 0)
        lent = " + 10" if borrow else ""
        step = f"{' - '.join(terms)}{lent} = {result + 10 * borrow}, write {result + 10 * borrow}"
        steps.append(step + (", borrow 1" if borrow else ""))
    return f"{a} - {b}", steps


def multiplication(rng: random.Random, digits: int) -> tuple[str, list[str]]:
    """A product with a one-digit number: the question and its steps."""
    a, b = _number(rng, digits), rng.randint(2, 9)
    steps, carry = [], 0
    for place, digit in enumerate(reversed(str(a))):
        total = int(digit) * b + carry
        last = place == len(str(a)) - 1
        plus = f" + {carry}" if carry else ""
        step = f"{digit} * {b}{plus} = {total}, write {total if last else total % 10}"
        carry = total // 10
        steps.append(step + (f", carry {carry}" if carry and not last else ""))
    return f"{a} * {b}", steps


def brackets(rng: random.Random, digits: int) -> tuple[str, list[str]]:
    """(a + b) * c, a + b * c or (a - b) * c with small numbers: the question and its steps."""
    a, b, c = rng.randint(2, 10 * digits), rng.randint(2, 10 * digits), rng.randint(2, 9)
    form = rng.choice(["sum", "difference", "product first"])
    if form == "product first":
        return f"{a} + {b} * {c}", [f"{b} * {c} = {b * c}", f"{a} + {b * c} = {a + b * c}"]
    a, b = max(a, b), min(a, b)
    sign, inner = ("+", a + b) if form == "sum" else ("-", a - b)
    return f"({a} {sign} {b}) * {c}", [f"{a} {sign} {b} = {inner}", f"{inner} * {c} = {inner * c}"]


def _number(rng: random.Random, digits: int) -> int:
    length = rng.randint(1, digits)
    return rng.randint(10 ** (length - 1), 10**length - 1)


KINDS: tuple[Callable, ...] = (addition, subtraction, multiplication, brackets)


def problems(seed: int, count: int, digits: int = 5) -> Iterator[str]:
    """`count` different problems as text; each question appears once.

    Raises ValueError when so few digits do not give that many different questions.
    """
    rng, seen = random.Random(seed), set()
    for _ in range(count):
        for _ in range(1000):
            question, steps = rng.choice(KINDS)(rng, digits)
            if question not in seen:
                break
        else:
            raise ValueError(f"{count} different problems do not exist with {digits} digits")
        seen.add(question)
        yield "\n".join([f"Q: {question}", *steps, f"A: {evaluate(question)}"]) + "\n"


def verify(text: str) -> bool:
    """True when `text` is one problem whose every step and answer are right.

    The question is evaluated anew; each "x = y" of the steps must hold and the last line must be
    the answer. Any other text is False, never an error.
    """
    lines = text.strip().splitlines()
    if len(lines) < 2 or not lines[0].startswith("Q: ") or not lines[-1].startswith("A: "):
        return False
    try:
        expected = evaluate(lines[0].removeprefix("Q: "))
        if not re.fullmatch(r"-?\d+", answer := lines[-1].removeprefix("A: ").strip()):
            return False
        return int(answer) == expected and all(map(_step_holds, lines[1:-1]))
    except ValueError:
        return False


def _step_holds(line: str) -> bool:
    found = re.match(r"([\d\s+*()-]+) = (-?\d+)(?:,|$)", line)
    return bool(found) and evaluate(found[1]) == int(found[2])
