"""`course bench` and `course verify-records`: choosing, running, telling."""

import json
import sys
from types import SimpleNamespace

import pytest

from course_utils.cli import main

GOOD = """
def run():
    print("measuring")
    row = {"name": "decode", "ours": 40.0, "peer": 20.0, "ratio": 2.0, "target": 1.3}
    return [row, {**row, "name": "prefill", "target": None}]
"""


@pytest.fixture
def folder(checkout):
    (checkout / "benchmarks").mkdir()
    (checkout / "benchmarks" / "bench_good.py").write_text(GOOD)
    return checkout / "benchmarks"


def test_lists_runs_and_writes_json(folder, capsys):
    assert main(["bench", "--list"]) == 0
    assert capsys.readouterr().out == "good\n"
    assert main(["bench", "good", "--json", "rows.json"]) == 0
    out = capsys.readouterr().out
    assert "decode" in out and "1.3" in out
    rows = json.loads(open("rows.json").read())
    assert [row["name"] for row in rows] == ["decode", "prefill"]
    assert rows[0]["benchmark"] == "good" and rows[0]["ratio"] == 2.0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def run(): raise OSError('no peer here')", "bench_bad.py: OSError: no peer here"),
        ("def run(): return []", "expected a list of rows"),
        ("def run(): return [{'name': 'x', 'ours': 1}]", "a row lacks peer, ratio, target"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_a_broken_benchmark_fails_after_the_others_ran(folder, capsys, code, words):
    (folder / "bench_bad.py").write_text(code)
    assert main(["bench", "--json", "rows.json"]) == 1
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1
    assert len(json.loads(open("rows.json").read())) == 2


def test_a_missed_target_is_no_failure(folder):
    (folder / "bench_good.py").write_text(GOOD.replace("1.3", "99.0"))
    assert main(["bench", "good"]) == 0


def _records(monkeypatch, ok: dict[str, bool]) -> None:
    module = SimpleNamespace(
        names=lambda: list(ok),
        verify=lambda name: SimpleNamespace(ok=ok[name], text=f"{name} compared"),
    )
    import course_utils

    monkeypatch.setitem(sys.modules, "course_utils.records", module)
    monkeypatch.setattr(course_utils, "records", module, raising=False)


def test_records_that_hold_and_that_differ(monkeypatch, capsys):
    _records(monkeypatch, {"tokenizer": True, "sizes": False})
    assert main(["verify-records", "tokenizer"]) == 0
    assert capsys.readouterr().out == "tokenizer: holds: tokenizer compared\n"
    assert main(["verify-records"]) == 1
    assert "sizes: DIFFERS: sizes compared" in capsys.readouterr().out
    assert main(["verify-records", "weather"]) == 2
    assert "the records are tokenizer, sizes" in capsys.readouterr().err


def test_no_records_yet(monkeypatch, capsys):
    _records(monkeypatch, {})
    assert main(["verify-records"]) == 0
    assert "no records yet" in capsys.readouterr().out


def test_a_benchmark_may_use_another_beside_it(folder):
    (folder / "bench_second.py").write_text("from bench_good import run\n")
    assert main(["bench", "second"]) == 0
