"""Records: complete, comparable as they claim, tied to the code that made them, and rerunnable."""

import csv
import shutil
from statistics import mean

import pytest

from course_utils import records
from course_utils.data.texts import DOMAINS
from course_utils.models import DecoderLM
from course_utils.records import recorded, scaling
from course_utils.records.recorded import CODE, FOLDER, code_hash, load_record, save_record, verify

TRAINED = ("c02_scaling", "c02_dense", "c03_dense_vs_moe", "c03_moe", "c04_balance")
TRAINED += ("c05_granularity",)
SIZES, SEEDS, BUDGETS = ("small", "medium", "large"), (0, 1, 2), ("tokens", "compute")


def rows_of(**wanted) -> list[dict]:
    rows = load_record("c02_scaling").rows
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_scaling_has_every_budget_size_and_seed_once():
    for budget in BUDGETS:
        for size in SIZES:
            assert [row["seed"] for row in rows_of(budget=budget, size=size)] == list(SEEDS)
    assert len(rows_of()) == 18


def test_the_tokens_budget_is_equal_tokens():
    assert len({row["tokens"] for row in rows_of(budget="tokens")}) == 1


def test_the_compute_budget_is_equal_operations():
    flops = [row["flops"] for row in rows_of(budget="compute")]
    assert max(flops) / min(flops) < 1.01
    assert len({row["tokens"] for row in rows_of(budget="compute")}) == 3


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_what_its_config_says(size):
    model = DecoderLM(scaling.model_config(size))
    config = model.config
    for row in rows_of(size=size):
        assert row["parameters"] == model.count_parameters()
        assert row["non_embedding"] == model.count_parameters(embedding=False)
        # 6 per weight of a matrix product, and attention over 128 earlier tokens on average
        attention = 12 * config.num_hidden_layers * config.hidden_size * 128
        expected = row["tokens"] * (6 * row["parameters"] + attention)
        assert row["flops"] == pytest.approx(expected, rel=1e-3)


def test_seeds_are_runs_of_their_own():
    for budget in BUDGETS:
        for size in SIZES:
            rows = rows_of(budget=budget, size=size)
            assert len({row["bits_per_byte"] for row in rows}) == 3
            assert len({row["loss_first_step"] for row in rows}) == 3


def test_the_first_loss_is_that_of_a_guess():
    for row in rows_of():
        assert row["loss_first_step"] == pytest.approx(8.3178, abs=0.1)  # ln 4096


@pytest.mark.parametrize("name", TRAINED)
def test_all_rows_are_of_one_code_and_one_corpus(name):
    rows = load_record(name).rows
    for column in ("code", "corpus"):
        (value,) = {row[column] for row in rows}
        assert isinstance(value, str) and len(value) == 12 and int(value, 16) >= 0


@pytest.mark.parametrize("name", TRAINED)
def test_the_whole_lies_between_its_domains(name):
    for row in load_record(name).rows:
        domains = [row[f"{domain}_bits"] for domain in DOMAINS]
        assert min(domains) < row["bits_per_byte"] < max(domains)


def test_the_dense_run_learns():
    rows = load_record("c02_dense").rows
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps) and rows[0]["bits_per_byte"] > rows[-1]["bits_per_byte"] + 0.3


def test_numbers_come_back_as_numbers_and_hashes_as_text(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)
    rows = [
        {"size": "small", "seed": 0, "bits": 1.5, "code": "7412e9184150", "corpus": "123456789012"}
    ]
    assert save_record("one", rows) == tmp_path / "one.csv"
    record = load_record("one")
    assert record.rows == rows and record.name == "one" and record.command == ""
    assert type(record.rows[0]["seed"]) is float
    with (tmp_path / "one.csv").open(newline="") as file:
        assert next(csv.reader(file)) == list(rows[0])


def test_commands_name_modules_that_are_there():
    for name in records.names():
        command = load_record(name).command
        assert command == f"python -m {recorded.RECIPES[name]}"
        assert (FOLDER / f"{recorded.RECIPES[name].rpartition('.')[2]}.py").is_file()
    assert "c02_scaling" in records.names()


def test_unknown_records_list_the_known_ones():
    with pytest.raises(ValueError, match=r"no record 'c99': there are .*c02_scaling"):
        load_record("c99")
    with pytest.raises(ValueError, match=r"no record 'c02_dense' can be rerun: .*c02_scaling"):
        verify("c02_dense")


def answering(monkeypatch, **changes) -> None:
    """Let the recipe come to the recorded row again, but for these changes."""
    (row,) = rows_of(budget="tokens", size="small", seed=0)
    again = row | {"seed": 0} | changes
    monkeypatch.setattr(scaling, "sample", lambda: again)


def test_a_rerun_that_agrees(monkeypatch):
    answering(monkeypatch)
    result = verify("c02_scaling")
    assert result.ok and "DIFFERS" not in result.text and "note" not in result.text
    for column in scaling.TOLERANCE:
        assert f"{column}: recorded " in result.text


@pytest.mark.parametrize("column", list(scaling.TOLERANCE))
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_rerun_within_and_beyond_the_tolerance(monkeypatch, column, sign):
    (row,) = rows_of(budget="tokens", size="small", seed=0)
    tolerance = scaling.TOLERANCE[column]
    answering(monkeypatch, **{column: row[column] + sign * 0.9 * tolerance})
    assert verify("c02_scaling").ok
    answering(monkeypatch, **{column: row[column] + sign * 1.1 * tolerance})
    result = verify("c02_scaling")
    assert not result.ok and result.text.count("DIFFERS") == 1
    assert f"{column}: recorded {row[column]:.4f}, now" in result.text


def test_a_rerun_that_is_no_number_differs(monkeypatch):
    answering(monkeypatch, bits_per_byte=float("nan"))
    assert not verify("c02_scaling").ok


def test_other_code_or_corpus_is_noted(monkeypatch):
    answering(monkeypatch, code="0" * 12, corpus="1" * 12)
    result = verify("c02_scaling")
    assert result.ok and "other code" in result.text and "other corpus" in result.text


def test_a_row_that_was_not_recorded(monkeypatch):
    answering(monkeypatch, seed=77)
    result = verify("c02_scaling")
    assert not result.ok and "0 recorded rows" in result.text


def test_the_tolerance_tells_the_sizes_apart():
    """A rerun of the wrong size would be noticed: the sizes differ by more than the tolerance."""
    for budget in BUDGETS:
        means = [
            mean(row["bits_per_byte"] for row in rows_of(budget=budget, size=s)) for s in SIZES
        ]
        gaps = [abs(a - b) for a, b in zip(means, means[1:] + means[:1], strict=True)]
        assert min(gaps) > scaling.TOLERANCE["bits_per_byte"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the code that is hashed, to change at will."""
    for part in CODE:
        source, target = FOLDER.parent / part, tmp_path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        ignore = shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore)
        else:
            shutil.copy(source, target)
    monkeypatch.setattr(recorded, "FOLDER", tmp_path / "records")
    return tmp_path


def edit(path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_hash_is_of_the_code_and_not_of_its_place(package, monkeypatch):
    elsewhere = code_hash()
    assert len(elsewhere) == 12 and int(elsewhere, 16) >= 0
    monkeypatch.setattr(recorded, "FOLDER", FOLDER)
    assert code_hash() == elsewhere


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""The loss of a language', '"""THE loss of a language'),
        ('    """Mean cross-entropy', '    """Average cross-entropy'),
        ("import torch.nn", "\n\n# a remark\nimport torch.nn"),
    ],
)
def test_the_hash_forgives_words(package, old, new):
    expected = code_hash()
    edit(package / "training" / "loss.py", old, new)
    assert code_hash() == expected


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("training/loss.py", "ids_BT[:, 1:]", "ids_BT[:, :-1]"),
        ("training/loop.py", "betas=(0.9, 0.95)", "betas=(0.9, 0.99)"),
        ("attention/gqa.py", "math.sqrt", "math.log"),
        ("layers/norm.py", "eps: float = 1e-6", "eps: float = 1e-5"),
        ("models/decoder.py", "deviation = 0.02", "deviation = 0.03"),
        ("models/config.py", "10_000.0", "100_000.0"),
        ("data/corpus.py", "WINDOW = 64", "WINDOW = 32"),
        ("data/arithmetic.py", "digits: int = 5", "digits: int = 4"),
        ("data/batches.py", "length + 1, (batch", "length, (batch"),
        ("data/texts.py", "24_000", "25_000"),
    ],
)
def test_the_hash_sees_code(package, file, old, new):
    expected = code_hash()
    edit(package / file, old, new)
    assert code_hash() != expected


def test_the_hash_sees_another_file(package):
    expected = code_hash()
    (package / "layers" / "more.py").write_text("x = 1\n")
    assert code_hash() != expected
