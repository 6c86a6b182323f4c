"""Chapter 13's widget: every format restores weights to values of its grid; its record is whole."""

import pytest
import torch

from course_utils.display.c13 import FORMATS, format_explorer, format_grid
from course_utils.quantization.metrics import relative_error
from course_utils.records import load_record
from course_utils.records.quantization import OURS, SMOL

WEIGHT = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) * 0.03


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_restored_lies_on_the_grid(kind, capsys):
    grid, restored, bits = format_grid(WEIGHT[:1], kind)
    nearest = (restored[0][:, None] - grid[None]).abs().amin(1)
    assert nearest.max() < 1e-6
    assert bits == pytest.approx(
        int(kind[3]) if kind.startswith("int") else 8 if kind == "fp8" else 4, abs=0.6
    )
    assert relative_error(WEIGHT[:1], restored) < {"int2": 0.7}.get(kind, 0.2)
    format_explorer(WEIGHT)(kind, row=1, block=32)
    assert "values that the format can write" in capsys.readouterr().out.replace("\n", " ")


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="unknown format 'fp7': there are int4"):
        format_grid(WEIGHT[:1], "fp7")


def test_the_record_has_every_scheme_once_and_eight_bits_within_a_fifth_of_a_percent():
    rows = load_record("c13_rounding").rows
    keys = [(r["model"], r["num_bits"], r["group_size"], bool(r["symmetric"])) for r in rows]
    wanted = [("ours", *key) for key in OURS] + [("SmolLM2", *key) for key in SMOL]
    assert sorted(keys) == sorted(wanted)
    plain, eight = (rows[keys.index(("ours", bits, 0, True))]["perplexity"] for bits in (0, 8))
    assert abs(eight / plain - 1) < 0.002
