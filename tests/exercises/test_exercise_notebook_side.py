"""What a learner sees: stubs, check, hints, predictions, progress, as text and as HTML."""

import subprocess
import sys
from collections.abc import Callable
from math import ceil

import pytest
from exercise_samples import make_spec

from course_utils.exercises import (
    Exercise,
    check,
    exercise,
    helping,
    hint,
    predict,
    predicting,
    progress,
    revisit,
    solution,
    standin,
)
from course_utils.exercises.panel import Code, Labelled, Panel, Table
from course_utils.exercises.stubs import is_stub

MARK = {"difficulty": 1, "minutes": 5}


@pytest.fixture(autouse=True)
def fresh_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing defined, revealed or predicted yet."""
    monkeypatch.setattr(standin, "_defined", {})
    monkeypatch.setattr(helping, "_revealed", {})
    monkeypatch.setattr(predicting, "_predictions", {})


@pytest.fixture
def shown(capsys: pytest.CaptureFixture) -> Callable[[], str]:
    """What was printed since the last look."""
    return lambda: capsys.readouterr().out


def dots(x):
    """Text."""
    ...


def only_docstring(x):
    """Text."""


def passes(x):
    pass


def not_implemented(x):
    """Text."""
    raise NotImplementedError("your code here")


def guarded(x):
    if x < 0:
        raise ValueError(x)
    ...


def returns_none(x):
    return None


def guard_only(x):
    if x < 0:
        raise ValueError(x)


def begun(x):
    y = x + 1  # noqa: F841
    ...


def other_exception(x):
    raise ValueError("no")


@pytest.mark.parametrize("function", [dots, only_docstring, passes, not_implemented, guarded])
def test_a_stub_is_recognised(function: Callable) -> None:
    assert is_stub(function)


@pytest.mark.parametrize("function", [returns_none, begun, other_exception, ceil])
def test_an_attempt_is_recognised(function: Callable) -> None:
    assert not is_stub(function)


@pytest.mark.parametrize(
    ("body", "stub"),
    [
        ("...", True),
        ("pass", True),
        ("'''text'''", True),
        ("raise NotImplementedError", True),
        ("raise NotImplementedError('later')", True),
        ("return x", False),
        ("raise ValueError('later')", False),
        ("x + 1", False),
        ("if x: raise NotImplementedError", False),
    ],
)
def test_without_source_the_bytecode_decides(body: str, stub: bool) -> None:
    namespace: dict = {}
    exec(f"def function(x):\n    {body}", namespace)
    assert is_stub(namespace["function"]) is stub


def test_a_stub_falls_back_and_says_how_to_get_help(shown: Callable) -> None:
    @exercise("c00.weight_bytes", **MARK)
    def weight_bytes(parameters, bits_per_weight):
        """Bytes of the weights."""
        ...

    assert check(weight_bytes) is None
    text = shown()
    assert "c00.weight_bytes: not attempted. The course's version is used below." in text
    assert 'hint("c00.weight_bytes")' in text and 'solution("c00.weight_bytes")' in text
    assert weight_bytes(3, 4) == 2
    assert (
        weight_bytes.__name__ == "weight_bytes" and weight_bytes.__doc__ == "Bytes of the weights."
    )
    assert weight_bytes.name == "c00.weight_bytes" and weight_bytes.status == "not attempted"


def test_pass_fail_and_forced_are_said_and_done(shown: Callable) -> None:
    @exercise("c00.weight_bytes", **MARK)
    def weight_bytes(parameters, bits_per_weight):
        return parameters * bits_per_weight

    assert weight_bytes.status == "not checked" and weight_bytes(1, 8) == 1
    check(weight_bytes)
    text = shown()
    assert "not right yet. THE COURSE'S VERSION is used below, not yours." in text
    assert "likely mistake (bits instead of bytes): Your result is about 8 times" in text
    assert "check(weight_bytes, use_mine=True)" in text
    assert weight_bytes.status == "failed" and weight_bytes(1, 8) == 1

    check(weight_bytes, use_mine=True)
    assert "YOUR weight_bytes is used from here on, although it is not" in shown()
    assert weight_bytes.status == "failed" and weight_bytes(1, 8) == 8
    check(weight_bytes)
    assert weight_bytes(1, 8) == 1, "checked again, the course's version is back"

    @exercise("c00.weight_bytes", **MARK)
    def weight_bytes(parameters, bits_per_weight):
        return ceil(parameters * bits_per_weight / 8)

    assert weight_bytes.status == "not checked", "a new stand-in starts anew"
    check(weight_bytes)
    assert "right on all" in (text := shown()) and "Your weight_bytes is used" in text
    assert weight_bytes.status == "passed"


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        ("c00.weight_bytes", "a text"),
        (3, "a whole number"),
        (None, "None"),
        (ceil, "a builtin_function"),
    ],
)
def test_check_of_something_else_is_a_clear_error(thing: object, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"check got {kind}.*begins with @exercise\(") as caught:
        check(thing)
    assert str(caught.value).endswith("without calling it"), "no exercise was met yet: name none"


def test_check_of_a_result_names_the_exercise_at_hand() -> None:
    for name in ("c02.rms_norm", "c02.bits_per_byte", "c00.weight_bytes"):
        exercise(name, **MARK)(_named(name.partition(".")[2]))
    with pytest.raises(ValueError, match=r"without calling it: check\(weight_bytes\)$"):
        check(3)
    exercise("c02.rms_norm", **MARK)(_named("rms_norm"))
    with pytest.raises(ValueError, match=r"without calling it: check\(rms_norm\)$"):
        check(3)


def _named(name: str) -> Callable:
    function = lambda *args: 0  # noqa: E731
    function.__name__ = name
    return function


def test_exercise_above_something_else_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="stands above a function"):
        exercise("c00.weight_bytes", **MARK)(3)
    with pytest.raises(ValueError, match="whole number of at least 1"):
        exercise("c00.weight_bytes", difficulty=1, minutes=0)


def test_hints_come_one_by_one_and_stay_at_the_last(shown: Callable) -> None:
    texts = []
    for _ in range(4):
        hint("c00.weight_bytes")
        texts.append(shown())
    assert [f"hint {n} of 3" in text for n, text in zip((1, 2, 3, 3), texts, strict=True)] == [
        True
    ] * 4
    assert texts[0] != texts[1] and texts[2] == texts[3]
    assert 'solution("c00.weight_bytes")' in texts[2] and "solution" not in texts[0]


def test_the_solution_is_the_librarys_source_with_its_place(shown: Callable) -> None:
    solution("c00.weight_bytes")
    text = shown()
    assert "weight_bytes in course_utils.accounting.weights" in text
    assert "return ceil(parameters * bits_per_weight / 8)" in text
    with pytest.raises(ValueError, match="unknown exercise"):
        solution("c00.nothing")
    with pytest.raises(ValueError, match="unknown exercise"):
        hint(3)


def test_progress_names_what_rests_on_the_course(shown: Callable) -> None:
    progress("c00")
    nothing = shown()
    assert "You attempted 0 of 1; the results above rest on the course's version of" in nothing
    assert "not defined in this session" in nothing

    @exercise("c00.weight_bytes", **MARK)
    def weight_bytes(parameters, bits_per_weight):
        return ceil(parameters * bits_per_weight / 8)

    progress("c00")
    assert "attempted 1 of 1" in (text := shown()) and "not checked" in text
    weight_bytes.check()
    progress("c00")
    assert "attempted 1 of 1; the results above rest on your own work" in shown()
    with pytest.raises(ValueError, match="no chapter 'c77'"):
        progress("c77")


def test_progress_follows_the_function_that_the_cells_below_call(shown: Callable) -> None:
    def first_try(parameters, bits_per_weight):
        return parameters * bits_per_weight

    def weight_bytes(parameters, bits_per_weight):
        return ceil(parameters * bits_per_weight / 8)

    def look() -> str:
        shown()
        progress("c00")
        return shown()

    check(exercise("c00.weight_bytes", **MARK)(first_try))
    assert "attempted 0 of 1" in look(), "somebody's first try under another name is no attempt"
    answer = exercise("c00.weight_bytes", **MARK)(weight_bytes)
    check(answer)
    passed = look()
    assert "attempted 1 of 1; the results above rest on your own work" in passed
    check(exercise("c00.weight_bytes", **MARK)(first_try))
    assert look() == passed and answer.uses_learners

    exercise("c00.weight_bytes", **MARK)(weight_bytes)  # its own cell again: nothing is checked
    assert "not checked" in look() and "the course's version of: c00.weight_bytes" in look()


def test_predictions_are_noted_and_compared(shown: Callable) -> None:
    predict("size", 3.0, "GB")
    assert shown() == "prediction noted: size: 3 GB\n"
    predict("speed", None)
    assert shown().startswith("no prediction: fine")
    predict("winner", "dense")
    shown()
    revisit({"size": 7.2, "speed": 12}, winner="Dense")
    rows = [line.split() for line in shown().splitlines()]
    assert rows[2] == "size 3 GB 7.2 GB 2.4 times more than you said".split()
    assert rows[3] == "speed - 12 no prediction".split()
    assert rows[4] == "winner dense Dense as you said".split()


@pytest.mark.parametrize(
    ("said", "found", "words"),
    [
        (100, 100.2, "as you said"),
        (100, 110, "close: 10% more than you said"),
        (100, 90.0, "close: 10% less than you said"),
        (100, 25, "4 times less than you said"),
        (0, 5, "5 more than you said"),
        (-1.0, 2.0, "3 more than you said"),
        (3, float("nan"), "not comparable"),
        ("yes", "no", "otherwise"),
        ("3", 3, "as you said"),
    ],
)
def test_a_prediction_is_compared_in_words(said: object, found: object, words: str) -> None:
    assert predicting.compared(said, found) == words


def test_bad_predictions_are_clear_errors() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        predict("", 3)
    with pytest.raises(ValueError, match="got a list; give a number, a text, or None"):
        predict("x", [1])
    with pytest.raises(ValueError, match="no predict"):
        revisit(never_asked=3)
    with pytest.raises(ValueError, match="needs what was found"):
        revisit()


def test_a_one_element_tensor_is_a_number(shown: Callable) -> None:
    import torch

    predict("loss", torch.tensor(2.5))
    assert "loss: 2.5" in shown()


def test_a_panel_escapes_html_and_sets_no_text_colour() -> None:
    blocks = ("<b>", Code("a < b"), Labelled("<i>", "&"), Table(("<h>",), (("<d>",),)))
    page = Panel("<script>", blocks, "bad")._repr_html_()
    for tag in ("<script>", "<b>", "<i>", "<h>", "<d>"):
        assert tag not in page
    assert "&lt;script&gt;" in page and "&amp;" in page
    styles = [style for style in page.split('"') if ":" in style]
    assert not any(part.strip().startswith("color") for s in styles for part in s.split(";"))
    assert "background: none" in page and "background: #" not in page


def test_reports_are_the_same_every_time(shown: Callable) -> None:
    texts = []
    for _ in range(2):
        answer = Exercise(make_spec(), lambda x: x - 100, 1, 1)
        check(answer)
        texts.append(shown())
    assert texts[0] == texts[1] and " at 0x" not in texts[0]


def test_importing_the_exercises_loads_no_torch_and_is_quick() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import course_utils.exercises;"
        "seconds = time.perf_counter() - start;"
        "from course_utils.exercises import catalog; catalog.find('c00.weight_bytes');"
        "print([m for m in ('torch', 'matplotlib', 'numpy', 'rich') if m in sys.modules], seconds)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert all(run.stdout.startswith("[] ") for run in runs), runs[0].stdout
    assert min(float(run.stdout.split()[-1]) for run in runs) < 0.3
