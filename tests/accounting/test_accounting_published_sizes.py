"""Published sizes: exact ones to the last parameter, others within 1% or explained and pinned."""

import pytest

from course_utils.accounting.catalog import CACHE, PARAMETERS, catalog, find
from course_utils.accounting.conventions import CONVENTIONS, conventions, fp8_scales
from course_utils.accounting.spec import ModelSpec

FIGURES = [(name, figure) for name, entry in catalog().items() for figure in entry.published]
PARAMETER_FIGURES = [(name, figure) for name, figure in FIGURES if figure.what in PARAMETERS]

# Every exact size known, written out once more, so that a wrong data file cannot hide.
EXACT = {
    ("DeepSeek-V3", "as stored"): 684_531_386_000,
    ("DeepSeek-V3", "all"): 671_026_419_200,
    ("DeepSeek-V2-Lite", "all"): 15_706_484_224,
    ("Kimi-K2", "all"): 1_026_408_232_448,
    ("MiniMax-M2", "all"): 228_689_764_864,
    ("Qwen3-30B-A3B", "all"): 30_532_122_624,
    ("gpt-oss-120b", "all"): 116_829_156_672,
    ("Qwen1.5-0.5B", "with a stored copy of the tied head"): 619_570_176,
}

# Figures that a count misses by more than 1%: what the count gives instead.
MISSED = {
    ("DeepSeek-R1", "activated", 37e9): 36_625_618_432,
    ("DeepSeek-V2-Lite", "activated", 2.4e9): 2_451_435_008,
    ("DeepSeek-V3", "activated", 37e9): 36_625_618_432,
    ("DeepSeek-V3.2-Exp", "activated", 37e9): 36_550_464_256,
    ("DeepSeek-V4-Flash", "activated", 13e9): 12_740_570_711,
    ("DeepSeek-V4-Pro", "total", 1.6e12): 1_572_997_201_763,
    ("DeepSeekMoE-16B", "activated", 2.8e9): 2_828_650_496,
    ("ERNIE-4.5-21B-A3B", "activated", 3e9): 3_087_384_768,
    ("ERNIE-4.5-21B-A3B", "total", 21e9): 21_825_437_888,
    ("GLM-4.5-Air", "activated", 12e9): 12_182_615_680,
    ("Hunyuan-A13B", "activated", 13e9): 12_747_448_320,
    ("Hunyuan-Large", "activated", 52e9): 51_322_077_440,
    ("Kimi-K2", "total", 1.04e12): 1_026_408_232_448,
    ("Kimi-Linear-48B-A3B", "activated", 3e9): 3_106_972_544,
    ("Kimi-Linear-48B-A3B", "total", 48e9): 49_122_681_728,
    ("MiniMax-M2", "activated", 10e9): 9_801_359_872,
    ("OLMoE-1B-7B", "activated", 1.3e9): 1_282_017_280,
    ("Qwen3-1.7B", "total", 1.7e9): 1_720_574_976,
    ("Qwen3-30B-A3B", "activated", 3.3e9): 3_353_032_704,
    ("Qwen3-Next-80B-A3B", "activated", 3e9): 3_252_599_552,
    ("Qwen3.5-397B-A17B", "activated", 17e9): 17_349_040_896,
}


def test_the_exact_sizes_are_those_known():
    exact = {(n, f.convention): f.value for n, f in PARAMETER_FIGURES if f.exact}
    assert exact == EXACT


@pytest.mark.parametrize(("name", "convention"), EXACT)
def test_exact_sizes_are_met_to_the_last_parameter(name, convention):
    assert CONVENTIONS[convention](find(name).spec).total - EXACT[name, convention] == 0


@pytest.mark.parametrize(
    ("name", "figure"), PARAMETER_FIGURES, ids=lambda v: v if isinstance(v, str) else v.what
)
def test_rounded_sizes_are_within_a_percent_or_explained(name, figure):
    spec, key = find(name).spec, (name, figure.what, figure.value)
    if abs(figure.difference(spec)) <= 0.01:
        assert key not in MISSED
    else:
        assert figure.explanation, f"{key}: no explanation for {figure.difference(spec):+.2%}"
        assert figure.counted(spec) == MISSED[key]


def test_every_miss_that_is_pinned_is_in_the_catalog():
    assert set(MISSED) <= {(name, figure.what, figure.value) for name, figure in PARAMETER_FIGURES}


def test_glm5_meets_all_six_digits_that_the_hub_prints():
    (figure,) = [figure for figure in find("GLM-5").published if figure.digits]
    assert round(figure.counted(find("GLM-5").spec) / 1e6) == figure.value / 1e6 == 753_864


def test_published_caches_are_met_to_the_byte():
    caches = {name: figure for name, figure in FIGURES if figure.what == CACHE}
    assert {name: figure.value for name, figure in caches.items()} == {
        "DeepSeek-V3": 70_272,
        "Qwen2.5-72B": 327_680,
        "Llama-3.1-405B": 516_096,
    }
    for name, figure in caches.items():
        assert figure.counted(find(name).spec) == figure.value


def test_deepseek_v3_from_671_to_685_billion():
    spec = find("DeepSeek-V3").spec
    projection = 2 * spec.hidden_size**2
    assert spec.mtp_count().total == 11_610_068_224
    assert round((spec.mtp_count().total - projection) / 1e9, 1) == 11.5  # README_WEIGHTS.md
    assert 2 * spec.table == 1_853_358_080
    assert fp8_scales(spec) == 41_540_496
    parts = (671_026_419_200, 11_610_068_224, 1_853_358_080, 41_540_496)
    assert sum(parts) == 684_531_386_000


def test_deepseek_v3_by_stored_type():
    """The hub lists BF16 3,918,786,560, F8_E4M3 680,571,043,840 and F32 41,555,600 numbers."""
    from course_utils.accounting.conventions import is_quantized_in_fp8

    spec = find("DeepSeek-V3").spec
    every = [*spec.weights(), *spec.mtp_weights]
    eight_bits = sum(w.total * n for w, n in every if is_quantized_in_fp8(w))
    biases = sum(w.total * n for w, n in every if w.name == "e_score_correction_bias")
    stored = CONVENTIONS["as stored"](spec).total
    assert eight_bits == 680_571_043_840
    assert biases + fp8_scales(spec) == 41_555_600
    assert stored - eight_bits - biases - fp8_scales(spec) == 3_918_786_560


def test_deepseek_v3_activated_under_three_conventions():
    counts = conventions(find("DeepSeek-V3").spec)
    names = ("all", "without input embedding", "without embedding and head")
    assert [round(counts[name].activated / 1e9, 3) for name in names] == [37.552, 36.626, 35.699]


def test_kimi_k2_is_1043_billion_only_if_every_layer_had_experts():
    config = dict(find("Kimi-K2").config, first_k_dense_replace=0)
    assert round(ModelSpec.from_hf_config(config).count().total / 1e9, 2) == 1042.97


def test_glm_air_follows_its_caption_only_without_mtp():
    counts = conventions(find("GLM-4.5-Air").spec)
    assert round(counts["with MTP, without embedding and head"].total / 1e9, 1) == 108.0
    assert round(counts["without embedding and head"].total / 1e9, 1) == 105.6


@pytest.mark.parametrize(
    ("name", "change", "key", "billions"),
    [
        ("DeepSeek-LLM-67B", {"num_key_value_heads": 64}, "total", 78.6),
        ("Ling-1T", {"num_key_value_heads": 32}, "activated", 55.1),
        ("Ling-1T", {"num_key_value_heads": 16}, "activated", 52.4),
        ("OLMoE-1B-7B", {"intermediate_size": 2048}, "total", 13.4),
    ],
)
def test_a_wrong_value_that_is_in_circulation_does_not_fit(name, change, key, billions):
    count = ModelSpec.from_hf_config(find(name).config | change).count()
    assert round(getattr(count, key) / 1e9, 1) == billions
    assert abs(getattr(count, key) / find(name).figure(key).value - 1) > 0.02


def test_every_figure_and_config_has_a_source():
    for entry in catalog().values():
        assert entry.config_source
        for figure in entry.published:
            assert figure.source and figure.value > 0
            assert figure.what in (*PARAMETERS, CACHE)
        assert all(fact["source"] for fact in entry.training.values())


def test_r1_has_the_config_of_v3():
    assert find("DeepSeek-R1").config == find("DeepSeek-V3").config


def test_unknown_models_are_answered_with_what_is_near():
    with pytest.raises(ValueError, match="'qwen3-30': did you mean Qwen3-30B-A3B"):
        find("qwen3-30")
    with pytest.raises(ValueError, match="`course models` lists all"):
        find("no such model")
