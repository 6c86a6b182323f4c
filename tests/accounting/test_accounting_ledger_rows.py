"""The rows that ship are those of the checkpoints that ship, computed again from their headers."""

from dataclasses import replace

import pytest

from course_utils.accounting.ledger import ledger_row, ledger_rows
from course_utils.models.checkpoints import SHIPPED, read_header

ROWS = [row for row in ledger_rows() if (SHIPPED / f"{row.model}.safetensors").exists()]


def test_the_first_chapters_have_rows():
    assert [(row.chapter, row.model) for row in ROWS][:2] == [("02", "dense"), ("03", "moe")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model)
def test_a_row_is_its_checkpoints(row):
    header = read_header(SHIPPED / f"{row.model}.safetensors")
    assert row == ledger_row(row.chapter, row.model, header["config"], row.bits_per_byte)
    # the row is of the test split, the lineage of the validation split
    assert row.bits_per_byte == pytest.approx(
        header["lineage"]["validation_bits_per_byte"], abs=0.1
    )


@pytest.mark.parametrize(("chapter", "source"), [("13", "dense"), ("15", "moe")])
def test_a_quantized_model_differs_in_its_score_alone(chapter, source):
    (row,) = [row for row in ledger_rows() if row.chapter == chapter]
    (original,) = [row for row in ledger_rows() if row.model == source]
    assert row.bits_per_byte > original.bits_per_byte
    score = original.bits_per_byte
    assert replace(row, chapter=original.chapter, model=source, bits_per_byte=score) == original
