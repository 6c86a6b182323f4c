"""Values, shapes, dtypes, gradients and work: what is compared, and how it is said."""

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from exercise_samples import double, make_spec, tensor_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.exercises.compare import Tolerance, difference
from course_utils.exercises.judge import judge, prepare, size
from course_utils.exercises.spec import Case, WrongAnswer

X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
NAN, INF = float("nan"), float("inf")


class Pair(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (X, X.tolist(), "a list of 2 came back, expected a tensor of shape (2, 2)"),
        (X, None, "did you forget `return`?"),
        (X, X[:1], "shape (1, 2), expected (2, 2)"),
        (torch.ones(2, 3), torch.ones(3, 2), "(transposed?)"),
        (X, X.double(), "dtype float64, expected float32"),
        (X, X.numpy(), "a numpy array of shape (2, 2) came back"),
        (X, X + torch.tensor([[0, 0], [0.5, 0]]), "1 of 4 values differ; the largest"),
        (X, X + torch.tensor([[0, 0], [0.5, 0]]), "at [1, 0]: expected 3, got 3.5"),
        (X, X * NAN, "4 of 4 values are NaN, the first at [0, 0]; expected 1"),
        (X, X / 0, "4 of 4 values are infinite"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "the first is at [1]: expected 2, got 3"),
        (torch.tensor([True]), torch.tensor([False]), "expected True, got False"),
        (torch.tensor(2.0), torch.tensor(3.0), "expected 2, got 3"),
        (torch.tensor(2.0), 2.0, "a float (2) came back, expected a tensor of shape ()"),
        (np.ones(2), np.zeros(2), "2 of 2 values differ"),
        (X.bfloat16(), X.bfloat16() * 1.1, "values differ"),
        (1.5, 1.25, "expected 1.5, got 1.25"),
        (1.0, INF, "expected 1, got inf"),
        (1.00001, 1.00003, "expected 1.00001, got 1.00003"),
        (1.0, True, "a truth value (True) came back"),
        (True, 1, "a whole number (1) came back"),
        (None, 0, "a whole number (0) came back, expected None"),
        (3, 3.0, "the float 3.0 came back"),
        ("tokens", "tokers", "from character 4: expected 'ns', got 'rs'"),
        ("ab", "a", "from character 1: expected 'b', got ''"),
        ((1, 2), (1, 3), "in result[1]: expected 2, got 3"),
        ((1, 2), 1, "expected a tuple of 2"),
        ([1, 2], [1], "1 item came back, expected 2"),
        ({"a": 1}, {"b": 1}, "missing: 'a'; not expected: 'b'"),
        ({"a": [1, X]}, {"a": [1, X + 1]}, "in result['a'][1]: 4 of 4 values differ"),
        (Pair(1, 2), Pair(1, 5), "in result[1]"),
        (torch.float32, torch.float64, "expected torch.float32, got torch.float64"),
        (torch.empty(0, 3), torch.empty(3, 0), "shape (3, 0)"),
    ],
)
def test_a_difference_is_said_in_words(expected: object, got: object, words: str) -> None:
    assert words in difference(expected, got, Tolerance())


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (X, X + 1e-7),
        (X, X.clone().requires_grad_(True)),
        (X * NAN, X * NAN),
        (torch.tensor([-INF, 1.0]), torch.tensor([-INF, 1.0])),
        (X.bfloat16(), X.bfloat16() * 1.005),
        ((1, 2), [1, 2]),
        (2.0, 2),
        (NAN, NAN),
        (torch.empty(0), torch.empty(0)),
        ({"b": 1, "a": (None, "x")}, {"a": (None, "x"), "b": 1}),
    ],
)
def test_the_same_is_the_same(expected: object, got: object) -> None:
    assert difference(expected, got, Tolerance()) == ""


def test_float64_is_compared_more_closely_than_float32() -> None:
    assert difference(X, X * (1 + 4e-6), Tolerance()) == ""
    assert difference(X.double(), X.double() * (1 + 4e-6), Tolerance()) != ""


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(_values, _values)
def test_any_two_values_can_be_compared(one: object, two: object) -> None:
    assert difference(one, one, Tolerance()) == ""
    assert isinstance(difference(one, two, Tolerance()), str)


def test_the_smallest_failing_case_is_reported() -> None:
    cases = [Case((torch.ones(n, n),), says=f"{n} by {n}") for n in (1, 4, 2, 3)]
    spec = tensor_spec(cases=lambda rng: cases)

    def wrong_from_two(x):
        return x * 2 if len(x) == 1 else x * 3

    verdict = judge(prepare(spec), wrong_from_two)
    assert (verdict.failed, verdict.cases) == (3, 4)
    assert verdict.smallest.case.says == "2 by 2"


def test_a_wrong_value_is_shown_before_a_smaller_wrong_gradient() -> None:
    spec = tensor_spec(gradients=True)

    def forgets(x):
        return x.detach() * 2 if x.numel() == 2 else x * 3

    verdict = judge(prepare(spec), forgets)
    assert verdict.failed == 2 and verdict.smallest.got.value.shape == (2, 3)


def test_size_counts_elements() -> None:
    assert size(Case((torch.ones(2, 3), "abc", [1, 2], {"a": 1}), kwargs={"k": 1})) == 13


def test_a_mistake_that_is_known_is_named_and_others_are_not() -> None:
    task = prepare(make_spec())
    assert judge(task, lambda x: x * 1).mistake.name == "same"
    assert judge(task, lambda x: x - 100).mistake is None
    assert judge(task, lambda x: x if x == 1 else x - 100).mistake is None, "only one case agrees"


def test_another_form_of_a_mistake_has_the_same_diagnosis() -> None:
    half = WrongAnswer("half", lambda x: x / 2, "You divide.", also=(lambda x: x // 2,))
    spec = make_spec(wrong_answers=(half, *make_spec().wrong_answers[1:]))
    assert judge(prepare(spec), lambda x: int(x / 2)).mistake is half


def test_an_answer_that_raises_like_a_known_mistake_is_diagnosed() -> None:
    def misses(x, wording="{0} rows do not fit {1} columns"):
        if len(x) != 1:
            raise RuntimeError(wording.format(len(x), x.shape[1]))
        return x * 2

    wrong = WrongAnswer("misses", misses, "Rows are no columns.")
    task = prepare(tensor_spec(wrong_answers=(wrong, *make_spec().wrong_answers[1:])))
    same = judge(task, lambda x: misses(x, "17 rows do not fit {1} columns"))
    assert same.mistake is wrong, "numbers in the message do not matter"
    other_words = judge(task, lambda x: misses(x, "no {0}"))
    assert not other_words.passed and other_words.mistake is None
    assert judge(task, lambda x: _fail(RuntimeError)).mistake is None, "on other cases as well"
    assert judge(task, lambda x: x * 2 if len(x) == 1 else _fail(KeyError)).mistake is None


def test_where_the_reference_raises_the_wording_is_free() -> None:
    wrong = WrongAnswer("twice", lambda x: x * 2 if x >= 0 else _fail(ValueError), "You double.")
    spec = make_spec(
        _root,
        cases=lambda rng: [Case((4.0,)), Case((-1.0,)), Case((9.0,))],
        wrong_answers=(wrong, *make_spec().wrong_answers[:2]),
    )

    def answer(x):
        if x < 0:
            raise ValueError("other words")
        return x + x

    assert judge(prepare(spec), answer).mistake is wrong


def test_the_reference_raising_is_expected_of_the_answer() -> None:
    spec = make_spec(_root, cases=lambda rng: [Case((4.0,)), Case((-1.0,))])
    task = prepare(spec)
    right = lambda x: x**0.5 if x >= 0 else _fail(ValueError)  # noqa: E731
    assert judge(task, right).passed
    returned = judge(task, lambda x: abs(x) ** 0.5).smallest.differences
    assert returned == ("it returned 1, expected ValueError (x is -1.0: give a number >= 0)",)
    other = judge(task, lambda x: x**0.5 if x >= 0 else _fail(KeyError)).smallest.differences
    assert "it raised KeyError, expected ValueError" in other[0]


def _root(x):
    if x < 0:
        raise ValueError(f"x is {x}: give a number >= 0")
    return x**0.5


def _fail(kind: type[Exception]):
    raise kind("no")


def test_gradients_are_compared() -> None:
    detach = WrongAnswer("detached", lambda x: x.detach() * 2, "You detach.")
    spec = tensor_spec(gradients=True, wrong_answers=(detach, *make_spec().wrong_answers[1:]))
    task = prepare(spec)
    assert judge(task, lambda x: x + x).passed
    lost = judge(task, lambda x: (x + x).detach())
    assert "no gradient reaches x" in lost.smallest.differences[0]
    assert lost.mistake is detach
    half = judge(task, lambda x: x + x.detach())
    assert "not the gradient of x: 2 of 2 values differ" in half.smallest.differences[0]


def test_a_gradient_that_cannot_be_computed_is_said() -> None:
    class NoBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("not written")

    verdict = judge(prepare(tensor_spec(gradients=True)), lambda x: NoBackward.apply(x))
    assert "gradient cannot be computed: RuntimeError" in verdict.smallest.differences[0]


class Counter:
    """A function that counts how many items it was given: the work of a case."""

    def __init__(self) -> None:
        self.work = 0

    def __call__(self, items):
        self.work += len(items)
        return sum(items)


def _total(count, items):
    return count(items)


def _total_step_by_step(count, items):
    return [count(items[: i + 1]) for i in range(len(items))][-1]


def _work_spec(**changes):
    wrong = (
        WrongAnswer("all again", _total_step_by_step, "You start anew at each step."),
        WrongAnswer("none", lambda count, items: 0, "Nothing is counted."),
        WrongAnswer("first", lambda count, items: count(items[:1]), "Only the first."),
    )
    cases = [Case((Counter(), [3, 4])), Case(make=lambda: (Counter(), [1, 2, 3, 4]))]
    fields = {"cases": lambda rng: cases, "wrong_answers": wrong, "work": "items counted"}
    return make_spec(_total, **{**fields, **changes})


def test_too_much_work_is_said_and_diagnosed() -> None:
    verdict = judge(prepare(_work_spec()), _total_step_by_step)
    words = "the values are right, with too much work: 3 items counted, 2 suffice"
    assert verdict.smallest.differences == (words,)
    assert verdict.mistake.name == "all again"


def test_one_piece_of_work_suffices() -> None:
    spec = _work_spec(cases=lambda rng: [Case((Counter(), [3]))])
    verdict = judge(prepare(spec), lambda count, items: min(count(items) for _ in range(2)))
    assert "2 items counted, 1 suffices" in verdict.smallest.differences[0]


def test_another_amount_of_too_much_work_is_close_enough() -> None:
    def twice(count, items):
        count(items)
        return _total_step_by_step(count, items)

    assert judge(prepare(_work_spec()), twice).mistake.name == "all again"


def test_less_work_and_work_within_the_slack_pass() -> None:
    assert judge(prepare(_work_spec()), lambda count, items: sum(items)).passed
    assert judge(prepare(_work_spec(work_slack=3.0)), _total_step_by_step).passed


def test_observe_turns_a_result_into_values() -> None:
    task = prepare(make_spec(_count_up, observe=lambda result, args: [*result]))
    assert judge(task, lambda x: iter([0, 1, 2, 3, 4, 5, 6, 7, 8][:x])).passed
    assert "did you forget" in judge(task, lambda x: None).smallest.differences[0]


def _count_up(x):
    yield from range(x)


def test_cases_differ_by_seed_and_repeat_for_one() -> None:
    shown = [[case.args for case in prepare(make_spec(), seed).cases] for seed in (0, 0, 1, 2, 3)]
    assert shown[0] == shown[1] and any(other != shown[0] for other in shown[2:])


def test_a_spec_without_cases_or_with_a_case_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="returned no case"):
        prepare(make_spec(cases=lambda rng: []))
    with pytest.raises(ValueError, match="does not fit the reference"):
        prepare(make_spec(cases=lambda rng: [Case((1, 2))]))


def test_global_random_numbers_in_cases_are_the_authors_to_seed() -> None:
    def cases(rng: random.Random) -> list[Case]:
        return [Case((rng.random(),))]

    values = [prepare(make_spec(cases=cases), 3).cases[0].args for _ in range(2)]
    assert values[0] == values[1]


def test_an_answer_gets_fresh_arguments_every_time() -> None:
    def spoils(x: torch.Tensor) -> torch.Tensor:
        result = x * 2
        x.zero_()
        return result

    task = prepare(tensor_spec())
    spoiled: Callable = spoils
    assert judge(task, spoiled).smallest.differences[0].startswith("it changes its argument")
    assert judge(task, double, may_call_reference=True).passed
