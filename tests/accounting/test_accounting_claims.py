"""The claims ledger: every computable row is recomputed, digit by digit."""

import pytest

from course_utils.accounting import chips as chip_data
from course_utils.accounting.claim_checks import COMPUTATIONS
from course_utils.accounting.claims import VERDICTS, claims, find_claim

COMPUTED = [claim for claim in claims() if claim.computation]


@pytest.mark.parametrize("claim", COMPUTED, ids=lambda claim: f"{claim.id}-{claim.computation}")
def test_results_are_recomputed_to_the_printed_digits(claim):
    assert claim.results
    assert claim.recompute() == claim.results


def test_claims_are_numbered_and_complete():
    assert [claim.id for claim in claims()] == list(range(1, len(claims()) + 1))
    for claim in claims():
        assert claim.verdict in VERDICTS
        assert claim.claim and claim.fact and claim.source and all(claim.where)
        assert bool(claim.computation) == bool(claim.results)
    assert {claim.verdict for claim in claims()} == set(VERDICTS)


def test_no_computation_is_left_over():
    uses = [claim.computation for claim in COMPUTED]
    assert set(uses) == set(COMPUTATIONS)
    assert len(claims()) == 55 and len(COMPUTED) == 30


@pytest.mark.parametrize("number", [*range(34, 44), 32])
def test_claims_of_efficiency_cost_and_memory_are_all_computed(number):
    assert find_claim(number).computation


def test_the_false_ones_are_there():
    false = {claim.id for claim in claims() if claim.verdict == "false"}
    assert {1, 2, 9, 32} <= false


def test_a_changed_input_changes_the_result():
    from course_utils.accounting.claim_checks.costs import mla_93_percent

    at_16_bits = mla_93_percent(bits=16, table_9=[860.2, 34.6])
    assert at_16_bits["with 6 bits"] == at_16_bits["MLA alone"] == "-82.24%"


def test_without_a_computation_the_source_is_named():
    with pytest.raises(ValueError, match="claim 3 has no computation: see its source, DeepSeek-V3"):
        find_claim(3).recompute()
    with pytest.raises(ValueError, match="no claim 99: they are numbered 1 to 55"):
        find_claim(99)


def test_chips():
    assert {name: chip.balance and round(chip.balance) for name, chip in chip_data.chips().items()}[
        "H20"
    ] == 37
    assert round(chip_data.chip("H800").balance) == 295
    assert chip_data.chip("Kunlun P800").balance is None
    assert chip_data.cards_needed(688.6e9, 20e9, "H800") == 9
    assert chip_data.cards_needed(80e9, 0, "H100") == 1
    with pytest.raises(ValueError, match="unknown chip 'H900': choose from H100"):
        chip_data.chip("H900")
