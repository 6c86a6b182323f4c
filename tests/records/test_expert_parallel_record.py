"""The record of experts on two GPUs: whole, consistent in itself, and made again on a CPU."""

import pytest

from course_utils.moe.parallel import wire_bytes
from course_utils.records import expert_parallel, load_record, recorded

ROWS = load_record("c06_expert_parallel").rows
ITEM = {"float32": 4, "bfloat16": 2}


def row_of(setting: str, limit: int, redundant: int) -> dict:
    (found,) = [
        row
        for row in ROWS
        if (row["setting"], row["limit"], row["redundant"]) == (setting, limit, redundant)
    ]
    return found


def test_every_setting_has_its_runs_once():
    expected = []
    for setting, (_, ranks, copies) in expert_parallel.SETTINGS.items():
        expected += [(setting, limit, 0) for limit in range(ranks, 0, -1)]
        expected += [(setting, ranks, copies)] * (copies > 0)
    assert [tuple(row[key] for key in expert_parallel.KEYS) for row in ROWS] == expected


def test_a_row_is_what_its_setting_says():
    for row in ROWS:
        sizes, ranks, _ = expert_parallel.SETTINGS[row["setting"]]
        assert row["ranks"] == ranks
        assert all(row[name.replace("-", "_")] == value for name, value in sizes.items())
        assert row["hardware"] == f"{ranks} x NVIDIA H200"


def test_bytes_are_those_of_the_formula():
    for row in ROWS:
        expected = wire_bytes(row["copies"], row["hidden"], ITEM[row["dtype"]])
        assert row["vector_bytes"] == row["formula_bytes"] == expected


def test_pairs_add_up_and_say_the_balance():
    for row in ROWS:
        text = row["pairs_per_rank"]
        pairs = [int(text)] if isinstance(text, float) else list(map(int, text.split()))
        assert sum(pairs) == row["tokens"] * row["top_k"] and max(pairs) == row["pairs_most"]
        even = sum(pairs) / len(pairs) / max(pairs)
        assert row["balancedness"] == pytest.approx(
            even, abs=2e-3
        )  # copies take turns: whole pairs


def test_errors_are_rounding():
    for row in ROWS:
        bound = 2e-6 if row["dtype"] == "float32" else 0.02  # bfloat16 has 8 bits
        assert row["error_output"] < bound and row["error_gradient"] < bound


def test_what_the_chapter_says_of_the_record():
    free, limited = row_of("large", 2, 0), row_of("large", 1, 0)
    placed, alone = row_of("large", 2, 8), row_of("large, one rank", 1, 0)
    assert limited["vector_bytes"] < 0.6 * free["vector_bytes"]
    assert round(free["vector_bytes"] / 2 / 1e6) == 133  # from each of the two
    assert round(limited["pairs_most"] / (limited["tokens"] * limited["top_k"]), 2) == 0.58
    times = (alone["milliseconds_parallel"], alone["milliseconds_one_process"])
    assert [round(time, 1) for time in times] == [20.2, 14.8]
    assert all(row["milliseconds_parallel"] > times[0] / 2 for row in (free, limited, placed))
    assert limited["milliseconds_parallel"] > free["milliseconds_parallel"]
    small = [row for row in ROWS if row["setting"] == "small"]
    assert all(row["milliseconds_parallel"] > row["milliseconds_one_process"] for row in small)
    assert limited["pairs_most"] > free["pairs_most"] > placed["pairs_most"]
    assert alone["vector_bytes"] == 0
    assert alone["milliseconds_parallel"] > alone["milliseconds_one_process"]
    assert all(
        row["milliseconds_parallel"] < row["milliseconds_one_process"]
        for row in (free, limited, placed)
    )


def test_two_processes_on_this_machine_come_to_the_same_counts():
    again = expert_parallel.sample()
    row = row_of("small", 2, 0)
    for column, tolerance in expert_parallel.TOLERANCE.items():
        assert float(again[column]) == pytest.approx(row[column], abs=tolerance), column
    assert again["pairs_per_rank"] == row["pairs_per_rank"]
    assert again["milliseconds_parallel"] == ""


def test_a_lost_byte_would_be_noticed(monkeypatch):
    """`verify` compares counts exactly."""
    changed = row_of("small", 2, 0) | {"vector_bytes": 514052.0, "limit": 2, "redundant": 0}
    monkeypatch.setattr(expert_parallel, "sample", lambda: changed)
    result = recorded.verify("c06_expert_parallel")
    assert not result.ok and result.text.count("DIFFERS") == 1 and "514052" in result.text


def test_it_can_be_made_again():
    assert recorded.RECIPES["c06_expert_parallel"] == expert_parallel.__name__
    command = load_record("c06_expert_parallel").command
    assert command == "python -m course_utils.records.expert_parallel"
