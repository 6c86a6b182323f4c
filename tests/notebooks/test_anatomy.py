"""Every notebook keeps the rules of anatomy; and every rule is proved to fail when broken."""

import anatomy
import hygiene
import pytest
import specimen
from chapter import NOTEBOOKS, Chapter
from specimen import EXERCISE, OBJECTIVES, PICTURE, RECAP, code, markdown

FORM = [
    anatomy.lengths,
    anatomy.tags,
    anatomy.objectives,
    anatomy.core_path,
    anatomy.predictions,
    anatomy.exercises,
    anatomy.parts,
    anatomy.hidden_answers,
    anatomy.figures,
    anatomy.executed,
    anatomy.committed,
    hygiene.no_shell,
    hygiene.no_machine_paths,
    hygiene.no_emoji,
    hygiene.seeded,
]


@pytest.mark.parametrize("rule", [*FORM, anatomy.surroundings], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rule(path, rule):
    problems = list(rule(Chapter(path)))
    assert not problems, "\n".join([f"{path.stem}: {rule.__doc__}", *problems])


def _problems(chapter: Chapter) -> dict[str, list[str]]:
    found = {rule.__name__: list(rule(chapter)) for rule in FORM}
    return {name: problems for name, problems in found.items() if problems}


def test_specimen_keeps_every_rule(tmp_path):
    assert _problems(specimen.chapter(tmp_path, specimen.cells())) == {}


def _replace(old: dict, new: dict):
    def change(cells: list[dict]) -> None:
        index = next(i for i, cell in enumerate(cells) if cell["source"] == old["source"])
        cells[index] = new

    return change


def _remove(start: str):
    def change(cells: list[dict]) -> None:
        kept = [cell for cell in cells if not cell["source"].startswith(start)]
        assert len(kept) < len(cells)
        cells[:] = kept

    return change


def _set(start: str, key: str, value):
    def change(cells: list[dict]) -> None:
        (cell,) = [cell for cell in cells if cell["source"].startswith(start)]
        cell[key] = value

    return change


def _add(*made: dict):
    return lambda cells: cells.extend(made)


def _exercise(name: str, old: str, new: str):
    source = EXERCISE.format(name=name)
    assert old in source
    return _set(f'@exercise("c03.{name}"', "source", source.replace(old, new))


ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
PRINTED = {"output_type": "stream", "name": "stdout", "text": "loaded /home/ada/model\n"}
BROKEN = [
    ("lengths", _add(*(markdown(f"more {n}") for n in range(60))), "cells: a chapter has"),
    ("lengths", _remove("Thought"), "cells: a chapter has"),
    ("lengths", _add(code("x = 1\n" * 31)), "31 lines: at most 30"),
    ("lengths", _add(*(code(f"x = {n}\n" * 9) for n in range(20))), "median code cell has 9"),
    ("tags", _add(code("1", "fun")), "unknown tags fun"),
    ("tags", _add(*(code("1", "nbval-ignore-output") for _ in range(30))), "at most half"),
    ("objectives", _set("# A chapter", "source", "A chapter"), "does not begin with a title"),
    ("objectives", _set("**Obj", "source", OBJECTIVES.replace("- count\n", "")), "2 list items"),
    ("objectives", _set("**Obj", "source", OBJECTIVES.replace("Prereq", "")), "prerequisites"),
    ("objectives", _set("**Obj", "source", OBJECTIVES.replace("Study", "")), "study time"),
    ("objectives", _set("**Obj", "source", OBJECTIVES.replace("Run time", "")), "run time"),
    ("core_path", _add(*(markdown("more", "core") for _ in range(40))), "core cells: 1 to 45"),
    ("core_path", _add(code(EXERCISE.format(name="x"), "exercise", "core")), "3 exercises on"),
    ("predictions", _remove("revisit"), "never revisited: loss"),
    ("predictions", _set("revisit", "source", "revisit(cost=1)"), "never revisited: loss"),
    ("predictions", _set("guess =", "metadata", {"tags": []}), "lacks the tag prediction"),
    ("predictions", _remove("guess ="), "no predict"),
    ("exercises", _remove('@exercise("c03.double_3"'), "3 exercises: 4 to 6"),
    ("exercises", _set("def slow", "metadata", {"tags": ["exercise"]}), "go tog"),
    ("exercises", _remove("double_1(3)"), ""),
    ("exercises", _exercise("double_2", "c03.", "c04."), "expected c03.double_2"),
    ("exercises", _exercise("double_2", ", minutes=10", ""), "does not give minutes"),
    ("exercises", _exercise("double_2", '    """Double it."""\n', ""), "no docstring"),
    ("exercises", _exercise("double_2", "    ...", "    return 2 * x"), "is no stub"),
    ("exercises", _exercise("double_2", "check(double_2)", ""), "not checked in its own cell"),
    ("exercises", _exercise("double_2", "check(double_2)", "check(double_1)"), "not checked"),
    ("parts", _remove("def slow"), "no cell tagged naive"),
    ("parts", _remove("draw()"), "no cell tagged experiment"),
    ("parts", _remove("interact"), "no cell tagged widget"),
    ("parts", _remove("compare()"), "no cell tagged reality"),
    ("parts", _remove("ledger()"), "no cell tagged ledger"),
    ("parts", _set("## Recap", "source", RECAP.replace("3. line", "")), "4 list items"),
    ("parts", _remove("## Further"), "no heading `Further reading`"),
    ("parts", _remove("## What we"), "left out"),
    ("parts", _remove("progress()"), "no progress"),
    ("hidden_answers", _add(code('hint("c03.double_1")')), "calls hint"),
    ("hidden_answers", _add(code('solution("c03.double_1")')), "calls solution"),
    ("figures", _set("draw()", "outputs", [PICTURE]), "without a line that describes it"),
    ("executed", _set("ledger()", "execution_count", 99), "not executed from top to bottom"),
    ("executed", _set("ledger()", "outputs", [ERROR]), "ended with ValueError"),
    ("committed", _set("ledger()", "id", "cell-0"), "the same one"),
    ("committed", _set("ledger()", "metadata", {"execution": 1}), "cell metadata to remove"),
    ("no_shell", _add(code("!pip install torch")), "shell or install"),
    ("no_shell", _add(code("%pip install torch")), "shell or install"),
    ("no_machine_paths", _add(code("open('/home/ada/x')")), "/home/"),
    ("no_machine_paths", _add(code("1", outputs=(PRINTED,))), "/home/"),
    ("no_machine_paths", _add(code("open('C:\\\\data')")), "C:"),
    ("no_emoji", _add(markdown("Well done \U0001f389")), "has"),
    ("seeded", _add(code("np.random.rand(3)")), "np.random.rand"),
    ("seeded", _add(code("rng = np.random.default_rng()")), "default_rng"),
    ("seeded", _add(code("random.random()")), "random.random"),
    ("seeded", _add(code("x = torch.randn(3)")), "torch.randn"),
    ("seeded", _add(code("x.normal_()")), "x.normal_"),
]


@pytest.mark.parametrize(
    ("rule", "change", "words"), BROKEN, ids=[f"{rule}-{n}" for n, (rule, *_) in enumerate(BROKEN)]
)
def test_broken_rule_is_told(tmp_path, rule, change, words):
    made = specimen.cells()
    change(made)
    problems = _problems(specimen.chapter(tmp_path, made))
    if words:
        assert any(words in problem for problem in problems.get(rule, [])), problems
    else:  # markdown between two exercises separates them for a reader, not for Run All
        assert "follows another exercise at once" in "\n".join(problems[rule])


@pytest.mark.parametrize(
    "source",
    [
        "rng = np.random.default_rng(0)\nrng.normal()",
        "dice = random.Random(3)",
        "g = torch.Generator().manual_seed(0)\nx = torch.randn(3, generator=g)",
        "torch.manual_seed(0)\nx = torch.randn(3)",
        "open('data/home/x')\nurl = 'https://example.org/home/page'",
        "ratio = tokens/work/2",
        "revisit(loss=2.0)",
    ],
)
def test_what_is_fine_is_not_complained_about(tmp_path, source):
    chapter = specimen.chapter(tmp_path, [*specimen.cells(), code(source)])
    assert _problems(chapter) == {}


def test_tours_have_their_own_anatomy(tmp_path):
    kept = [cell for cell in specimen.cells() if not cell["source"].startswith("Thought")]
    drop = ("def slow", "draw()", "interact", "compare()", "ledger()", "## What we", "guess =")
    kept = [cell for cell in kept if not cell["source"].startswith((*drop, "revisit"))]
    for cell in kept:
        cell["source"] = cell["source"].replace("c03.", "c00.")
    assert _problems(specimen.chapter(tmp_path, kept, "00_specimen")) == {}
    bare = [cell for cell in kept if not cell["source"].startswith(("@exercise", "double"))]
    problems = _problems(specimen.chapter(tmp_path, bare, "00_specimen"))
    assert "0 exercises: 1 to 6" in problems["exercises"]


def test_missing_teacher_page_and_readme_row_are_told(tmp_path):
    problems = list(anatomy.surroundings(specimen.chapter(tmp_path, specimen.cells())))
    assert len(problems) == 2
