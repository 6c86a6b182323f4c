"""Arithmetic with worked steps: a generator of problems and a verifier that trusts nothing.

A problem is a few lines: the question, one line per step as done by hand, the answer.

    Q: 47 + 85
    7 + 5 = 12, write 2, carry 1
    4 + 8 + 1 = 13, write 13
    A: 132

Four kinds: addition and subtraction digit by digit from the right, a product with one digit, and a
small expression with brackets. The same seed gives the same problems everywhere (Python's `random`
is the same on every machine). `verify` works the question out anew and compares line by line, so it
judges a model's text as strictly as ours. Left out: other methods that are right as well, such as
adding from the left; a verifier that takes them would have to read what each line claims.
"""

import ast
import operator
import random
import re
from collections.abc import Callable, Iterator

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
LONGEST = 100  # characters of an expression
NUMBER = r"(0|[1-9][0-9]*)"  # not \d, which takes the digits of every script
PLAIN = re.compile(rf"{NUMBER} ([+*-]) {NUMBER}")
BRACKETS = re.compile(rf"\((?P<bracket>{NUMBER} [+-] {NUMBER})\) \* (?P<factor>{NUMBER})")
PRODUCT_FIRST = re.compile(rf"{NUMBER} \+ {NUMBER} \* {NUMBER}")


def evaluate(expression: str) -> int:
    """The value of a whole-number expression with + - * and brackets; ValueError for all else."""
    if len(expression) > LONGEST:
        size = f"expression of {len(expression)} characters"
        raise ValueError(f"{size}: at most {LONGEST} are evaluated")
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


def addition_steps(a: int, b: int) -> list[str]:
    """a + b by hand: digit by digit from the right, with carries."""
    left, right = str(a)[::-1], str(b)[::-1]
    steps, carry = [], 0
    for place in range(max(len(left), len(right))):
        terms = [text[place] for text in (left, right) if place < len(text)] + ["1"] * carry
        total = sum(map(int, terms))
        last = place == max(len(left), len(right)) - 1
        step = f"{' + '.join(terms)} = {total}, write {total if last else total % 10}"
        carry = total // 10
        steps.append(step + (f", carry {carry}" if carry and not last else ""))
    return steps


def subtraction_steps(a: int, b: int) -> list[str]:
    """a - b by hand, b not larger than a: digit by digit from the right, with borrows."""
    left, right = str(a)[::-1], str(b)[::-1]
    steps, borrow = [], 0
    for place in range(len(left)):
        terms = [left[place]] + ([right[place]] if place < len(right) else []) + ["1"] * borrow
        result = int(terms[0]) - sum(map(int, terms[1:]))
        borrow = int(result < 0)
        lent = " + 10" if borrow else ""
        step = f"{' - '.join(terms)}{lent} = {result + 10 * borrow}, write {result + 10 * borrow}"
        steps.append(step + (", borrow 1" if borrow else ""))
    return steps


def multiplication_steps(a: int, b: int) -> list[str]:
    """a * b by hand, b of one digit: digit by digit from the right, with carries."""
    steps, carry = [], 0
    for place, digit in enumerate(reversed(str(a))):
        total = int(digit) * b + carry
        last = place == len(str(a)) - 1
        plus = f" + {carry}" if carry else ""
        step = f"{digit} * {b}{plus} = {total}, write {total if last else total % 10}"
        carry = total // 10
        steps.append(step + (f", carry {carry}" if carry and not last else ""))
    return steps


def addition(rng: random.Random, digits: int) -> str:
    """A sum of two numbers of up to `digits` digits."""
    return f"{_number(rng, digits)} + {_number(rng, digits)}"


def subtraction(rng: random.Random, digits: int) -> str:
    """A difference that is not negative."""
    a, b = sorted((_number(rng, digits), _number(rng, digits)), reverse=True)
    return f"{a} - {b}"


def multiplication(rng: random.Random, digits: int) -> str:
    """A product with a number of one digit."""
    return f"{_number(rng, digits)} * {rng.randint(2, 9)}"


def brackets(rng: random.Random, digits: int) -> str:
    """(a + b) * c, a + b * c or (a - b) * c with small numbers."""
    a, b, c = rng.randint(2, 10 * digits), rng.randint(2, 10 * digits), rng.randint(2, 9)
    form = rng.choice(["sum", "difference", "product first"])
    if form == "product first":
        return f"{a} + {b} * {c}"
    a, b = max(a, b), min(a, b)
    return f"({a} {'+' if form == 'sum' else '-'} {b}) * {c}"


def worked_steps(question: str) -> list[str]:
    """The steps of the worked method for a question of one of the four kinds.

    Raises ValueError for any other text, also where the method does not apply: a difference below
    zero, a product with more than one digit, a number with a leading zero or other digits than 0-9.
    """
    short = len(question) <= LONGEST
    if short and (found := PLAIN.fullmatch(question)):
        a, sign, b = int(found[1]), found[2], int(found[3])
        if sign == "+":
            return addition_steps(a, b)
        if sign == "-" and a >= b:
            return subtraction_steps(a, b)
        if sign == "*" and b < 10:
            return multiplication_steps(a, b)
    if short and (found := PRODUCT_FIRST.fullmatch(question)):
        a, b, c = map(int, found.groups())
        return [f"{b} * {c} = {b * c}", f"{a} + {b * c} = {a + b * c}"]
    if short and (found := BRACKETS.fullmatch(question)):
        bracket, c = found["bracket"], int(found["factor"])
        inner = evaluate(bracket)
        if inner >= 0:
            return [f"{bracket} = {inner}", f"{inner} * {c} = {inner * c}"]
    raise ValueError(f"{question!r} is none of the four kinds that the worked method solves")


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
            question = rng.choice(KINDS)(rng, digits)
            if question not in seen:
                break
        else:
            raise ValueError(f"{count} different problems do not exist with {digits} digits")
        seen.add(question)
        yield worked(question)


def worked(question: str) -> str:
    """The whole problem: question, steps and answer. ValueError as in `worked_steps`."""
    steps = worked_steps(question)
    return "\n".join([f"Q: {question}", *steps, f"A: {evaluate(question)}"]) + "\n"


def verify(text: str) -> bool:
    """True when `text` is one problem solved by the worked method, from the question to the answer.

    Every line must be the method's own: each equation, each "write", "carry" and "borrow", none
    missing, none added, in ASCII. A true equation that does not belong there is False, and so is a
    right answer without its steps. Space around lines and around the text is free. Any other text
    is False, never an error.
    """
    lines = [line.strip(" \r") for line in text.strip(" \r\n").split("\n")]
    try:
        return lines == worked(lines[0].removeprefix("Q: ")).splitlines()
    except ValueError:
        return False
