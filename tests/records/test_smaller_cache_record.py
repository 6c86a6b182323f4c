"""Chapter 07's record: complete, at equal cache, and what the ledger's row rests on."""

from statistics import mean

import pytest

from course_utils.accounting.ledger import ledger_row, ledger_rows
from course_utils.models import ModelConfig, shipped
from course_utils.records import conversion, recorded
from course_utils.records.recorded import load_record

ROWS = load_record("c07_smaller_cache").rows


def of(variant: str, key: str) -> list:
    return [row[key] for row in ROWS if row["variant"] == variant]


def test_every_variant_has_three_seeds_of_one_code():
    assert [(row["variant"], row["seed"]) for row in ROWS] == [
        (variant, seed) for variant in conversion.VARIANTS for seed in (0, 1, 2)
    ]
    assert len({row["code"] for row in ROWS}) == len({row["corpus"] for row in ROWS}) == 1
    for variant in conversion.VARIANTS:
        assert len(set(of(variant, "bits_after"))) == 3
        assert len(set(of(variant, "bits_before"))) == 1


def test_both_small_caches_are_half_of_the_dense_one():
    dense, *small = (set(of(variant, "kv_elements_per_token")) for variant in conversion.VARIANTS)
    assert dense == {1024} and small == [{512}, {512}]


def test_the_ledgers_row_is_the_mean_of_the_record():
    (row,) = (row for row in ledger_rows() if row.chapter == "07")
    bits = of(conversion.VARIANTS[2], "ledger_bits")
    assert row.bits_per_byte == round(mean(bits), 3)
    assert row.parameters == of(conversion.VARIANTS[2], "parameters")[0]
    assert row.kv_bytes_per_token == 4 * 512


def test_the_row_is_that_of_the_converted_config():
    (row,) = (row for row in ledger_rows() if row.chapter == "07")
    dense = shipped("dense").config.to_dict()
    rank, rope, head = conversion.RANK, conversion.ROPE_DIM, dense["head_dim"]
    mla = {"kv_lora_rank": rank, "qk_nope_head_dim": head, "qk_rope_head_dim": rope}
    config = ModelConfig.from_dict(
        dense | {"use_qk_norm": False, "mla": mla | {"v_head_dim": head}}
    )
    assert row == ledger_row("07", "latent", config.to_dict(), row.bits_per_byte)


@pytest.mark.parametrize("column", ["bits_before", "bits_after"])
def test_a_rerun_is_compared(monkeypatch, column):
    recorded_row = next(row for row in ROWS if row["variant"] == conversion.VARIANTS[2])
    monkeypatch.setattr(conversion, "sample", lambda: dict(recorded_row))
    assert recorded.verify("c07_smaller_cache").ok
    worse = recorded_row | {column: recorded_row[column] + 0.1}
    monkeypatch.setattr(conversion, "sample", lambda: worse)
    assert not recorded.verify("c07_smaller_cache").ok
