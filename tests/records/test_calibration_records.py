"""The records of chapter 14: whole, judged alike, and saying what the chapter says of them."""

from statistics import mean

import pytest
import torch

from course_utils.data.fetch import available
from course_utils.data.texts import NEEDS
from course_utils.models import shipped
from course_utils.quantization import QuantizationArgs
from course_utils.quantization.affine import choose_qparams
from course_utils.quantization.gptq import round_to_nearest
from course_utils.records import (
    calibrated,
    gptq_smollm2,
    load_record,
    outliers,
    rare_experts,
    recorded,
    sensitivity,
    verdict,
)
from course_utils.records.calibrated import AWQ, GPTQ, GPTQ_SEARCHED, PLAIN, PLANTED, RTN
from course_utils.records.calibrated import RTN_SEARCHED as CONTROL

MODULES = (calibrated, sensitivity, rare_experts, gptq_smollm2, outliers)
needs_texts = pytest.mark.skipif(
    not all(available(asset) for asset in NEEDS.values()), reason="texts not fetched"
)


def ladder(method: str, bits: int, symmetric: int, model: str = PLAIN, text: str = "") -> list:
    """Excess loss of a method, one number for each seed."""
    wanted = {"model": model, "method": method, "num_bits": bits, "symmetric": symmetric}
    wanted["calibration"] = text or ("none" if method == RTN else "train")
    rows = load_record("c14_calibrated").rows
    return [row["excess"] for row in rows if wanted.items() <= row.items()]


def smol(what: str, method: str, bits: int) -> float:
    """Excess loss of SmolLM2."""
    (row,) = [
        row
        for row in load_record("c14_smollm2").rows
        if (row["what"], row["method"], row["num_bits"]) == (what, method, bits)
    ]
    return row["excess"]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.RECORD)
def test_each_record_can_be_made_again_and_its_rows_are_of_one_code(module):
    assert recorded.RECIPES[module.RECORD] == module.__name__
    rows = load_record(module.RECORD).rows
    keys = [tuple(row[key] for key in module.KEYS) for row in rows]
    assert len(set(keys)) == len(keys) and set(module.TOLERANCE) <= set(rows[0])
    for column in recorded.HASHES:
        (value,) = {row[column] for row in rows}
        assert len(value) == 12 and int(value, 16) >= 0


def test_the_ladder_and_smollm2_have_every_row_in_order():
    rows = load_record("c14_calibrated").rows
    assert [tuple(row[key] for key in calibrated.KEYS) for row in rows] == calibrated.grid()
    assert len({row["tokens"] for row in rows}) == 1  # all judged on the same
    rows = load_record("c14_smollm2").rows
    assert [tuple(row[key] for key in gptq_smollm2.KEYS) for row in rows] == gptq_smollm2.grid()
    assert len({row["tokens"] for row in rows}) == 1
    assert not any(row["num_bits"] == 4 for row in rows)  # its file lies on a grid of 4 bits


def test_rounding_to_nearest_is_what_the_control_does():
    weight_OI = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    args = QuantizationArgs(3, False, "group", 16)
    scale_OI, zero_OI = (one.repeat_interleave(16, 1) for one in choose_qparams(weight_OI, args))
    codes_OI = calibrated.nearest(weight_OI, torch.eye(32), scale_OI, zero_OI, args)
    assert torch.equal(codes_OI, round_to_nearest(weight_OI, args).codes_OI.float())


@torch.no_grad()
def test_planted_outliers_change_the_inputs_and_no_output():
    ids_BT = torch.arange(64).view(2, 32) + 300
    plain, planted = shipped("dense"), calibrated.plant(shipped("dense"))
    torch.testing.assert_close(planted(ids_BT), plain(ids_BT), rtol=1e-3, atol=1e-3)
    peaks = [
        outliers.inputs(model, ids_BT)["model.layers.3.self_attn.q_proj"].abs().amax((0, 1))
        for model in (plain, planted)
    ]
    assert sorted((peaks[1] / peaks[0]).tolist())[-4:] == pytest.approx([30] * 4, rel=1e-3)


def test_parts_cover_the_model_and_each_weight_once():
    model = shipped("dense")
    found = sensitivity.parts(model)
    names = list(sensitivity.quantizable(model))
    for group in (sensitivity.KINDS, [f"layers.{n}" for n in range(8)]):
        counts = [sum(found[part](name) for part in group) for name in names]
        assert counts == [0 if name == "lm_head" else 1 for name in names]
    assert [name for name in names if found[sensitivity.TABLE](name)] == ["lm_head"]


def test_an_expert_without_a_token_has_the_identity():
    x_TD, experts_TK = torch.randn(5, 4), torch.tensor([[0], [0], [2], [2], [2]])
    hessian_DD, tokens = rare_experts.hessian(x_TD, experts_TK, 1, False)
    assert tokens == 0 and torch.equal(hessian_DD, torch.eye(4))
    assert rare_experts.hessian(x_TD, experts_TK, 2, False)[1] == 3
    everyone, tokens = rare_experts.hessian(x_TD, experts_TK, 1, True)
    assert tokens == 5
    torch.testing.assert_close(everyone, x_TD.T @ x_TD / 5)


@needs_texts
def test_the_courses_model_comes_to_its_recorded_outliers_again():
    assert recorded.verify("c14_outliers").ok


def test_outliers_are_smollm2s_and_not_the_courses():
    largest = {}
    for row in load_record("c14_outliers").rows:
        largest.setdefault((row["model"], row["part"]), []).append(row)
    (spike,) = [row for row in largest["SmolLM2", "down_proj"] if row["ratio"] > 1000]
    assert (spike["layer"], spike["channel"], spike["first"]) == (11, 1229, 1.0)
    steady = [row for row in largest["SmolLM2", "q_proj"] if row["channel"] == 247]
    assert len(steady) > 10 and all(row["first"] < 1 for row in steady)
    assert max(row["ratio"] for row in largest["course", "q_proj"]) < 5


def test_eight_bits_cost_nothing_and_fewer_bits_ever_more():
    for method in (RTN, *calibrated.CALIBRATED):
        assert abs(mean(ladder(method, 8, 1))) < 0.002
        means = [mean(ladder(method, *scheme)) for scheme in ((8, 1), (4, 1), (3, 0), (2, 0))]
        assert means == sorted(means)


@pytest.mark.parametrize("scheme", [(4, 1), (3, 1), (3, 0), (2, 0)])
def test_gptq_beats_its_fair_control_and_most_of_the_gain_is_the_search(scheme):
    nearest, control = mean(ladder(RTN, *scheme)), ladder(CONTROL, *scheme)
    plain, searched = ladder(GPTQ, *scheme), ladder(GPTQ_SEARCHED, *scheme)
    assert "GPTQ is better" in verdict("GPTQ", searched, "control", control)
    if scheme != (4, 1):  # at 4 bits the two are within twice the spread
        assert "search is better" in verdict("plain", plain, "search", control)
    assert mean(searched) < 0.55 * nearest and mean(plain) > 0.5 * nearest
    assert nearest - mean(control) > mean(control) - mean(searched)


def test_awq_gains_where_outliers_were_planted():
    unplanted, planted = mean(ladder(RTN, 4, 1)), mean(ladder(RTN, 4, 1, PLANTED))
    repaired = ladder(AWQ, 4, 1, PLANTED)
    assert planted > 2 * unplanted and mean(repaired) < 1.2 * unplanted
    assert abs(mean(ladder(AWQ, 4, 1)) - unplanted) < 0.005  # without outliers: nothing


def test_calibrating_on_the_judged_text_looks_better_than_it_is():
    for scheme in calibrated.LOW:
        (cheated,) = ladder(GPTQ_SEARCHED, *scheme, text="test")
        assert cheated < min(ladder(GPTQ_SEARCHED, *scheme))


def test_layers_of_one_size_differ_in_what_they_lose():
    excess = {row["part"]: row["excess"] for row in load_record("c14_sensitivity").rows}
    layers = [excess[f"layers.{n}"] for n in range(8)]
    assert max(layers) == excess["layers.0"] > 20 * min(layers)
    assert excess["v_proj"] > excess["q_proj"]  # with a third of its weights
    assert excess["everything"] > sum(layers) + excess["embedding and head"]


def test_smollm2s_ladder_and_where_awq_gains():
    assert smol("weights", RTN, 8) < 0.01
    for bits in (3, 2):
        found = {
            one: smol("weights", one, bits) for one in (RTN, CONTROL, AWQ, GPTQ, GPTQ_SEARCHED)
        }
        assert sorted(found, key=found.get) == [GPTQ_SEARCHED, CONTROL, GPTQ, AWQ, RTN]
        assert found[GPTQ_SEARCHED] < 0.55 * found[CONTROL]
    assert smol("weights", AWQ, 3) < 0.75 * smol("weights", RTN, 3)  # ours has no such gain
    assert smol("weights", GPTQ_SEARCHED, 3) > 0.3  # three bits still hurt a model of this size


def test_smollm2s_activations_need_a_scale_for_each_token_and_like_to_be_turned():
    one, smooth_one = gptq_smollm2.ONE_SCALE, f"{gptq_smollm2.SMOOTH}, {gptq_smollm2.ONE_SCALE}"
    each = {name: smol("activations", name, 8) for name in gptq_smollm2.ACTIVATIONS}
    assert each[one] > 0.5 and each[smooth_one] > 0.5  # the spike stands before the down projection
    plain = each["per token"]
    assert plain < 0.05 * each[one]
    for name in ("SmoothQuant, per token", "LLM.int8"):
        assert each[name] < 0.5 * plain
    assert each["rotation, per token"] < 0.1 * plain


def error_ratios(calibration: str, seed: int) -> list[float]:
    """GPTQ's error over that of rounding to nearest, experts with the fewest tokens first."""
    rows = [
        row
        for row in load_record("c14_experts").rows
        if (row["calibration"], row["seed"]) == (calibration, seed)
    ]
    assert len(rows) == len(rare_experts.LAYERS) * 16
    rows.sort(key=lambda row: row["tokens"])
    return [row["gptq_error"] / row["rtn_error"] for row in rows]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_experts_that_saw_few_tokens_are_worse_than_rounded_to_nearest(seed):
    english = error_ratios(rare_experts.ONE_DOMAIN, seed)
    everyone = error_ratios(rare_experts.ONE_DOMAIN + rare_experts.ALL, seed)
    more = error_ratios(rare_experts.MANY, seed)
    assert mean(english[:12]) > 1.5 and mean(english[:12]) > 1.5 * mean(english[-12:])
    assert mean(everyone[:12]) < 0.7 * mean(english[:12])  # the rarest gain
    assert mean(everyone) > 1  # and text of one kind stays text of one kind
    assert max(more) < 1 and mean(more) < mean(error_ratios(rare_experts.FEW, seed))
