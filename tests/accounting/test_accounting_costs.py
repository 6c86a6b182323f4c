"""Caches, formats, operations and hours, each against numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.accounting import cache, flops, formats, training
from course_utils.accounting.catalog import catalog, find
from course_utils.accounting.spec import ModelSpec
from course_utils.accounting.tensors import Count, Span

TINY = {
    "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 3, "intermediate_size": 5, "vocab_size": 11,
    "tie_word_embeddings": False,
}  # fmt: skip


def spec(**changes) -> ModelSpec:
    return ModelSpec.from_hf_config(TINY | changes)


@given(
    amount=st.integers(1, 5), limit=st.none() | st.integers(1, 9), stride=st.integers(1, 5),
    tokens=st.integers(0, 40),
)  # fmt: skip
def test_a_span_summed_is_the_sum_of_its_values(amount, limit, stride, tokens):
    span = Span(amount, limit, stride)
    assert span.up_to(tokens) == sum(span.at(i) for i in range(1, tokens + 1))


def test_cache_of_each_kind_of_attention():
    assert cache.cache_elements(spec(), 7) == 2 * 7 * 2 * 2 * 3
    mha, mqa = spec(num_key_value_heads=4), spec(num_key_value_heads=1)
    assert cache.cache_elements(mha, 7) == 4 * cache.cache_elements(mqa, 7)
    v3 = find("DeepSeek-V3").spec
    assert cache.cache_elements_per_token(v3) == 61 * (512 + 64)
    indexed = find("DeepSeek-V3.2-Exp").spec
    assert cache.cache_elements_per_token(indexed) == 61 * (512 + 64 + 128)
    assert cache.cache_elements_per_token(find("Step-3").spec) == 61 * 2 * 256


def test_windows_stop_growing():
    oss = find("gpt-oss-120b").spec
    token = 2 * 8 * 64
    assert cache.cache_elements(oss, 100) == 36 * 100 * token
    assert cache.cache_elements(oss, 1000) == 18 * (128 + 1000) * token
    assert cache.cache_elements_per_token(oss) == 36 * token
    assert cache.cache_elements_per_token(oss, beyond_windows=True) == 18 * token


def test_shared_layers_keep_nothing_and_halve_the_cache():
    entry = find("Hunyuan-Large")
    alone = ModelSpec.from_hf_config(entry.config | {"use_cla": False})
    assert 2 * cache.cache_elements(entry.spec, 9) == cache.cache_elements(alone, 9)
    saved = 32 * 2 * 6400 * 8 * 80
    assert alone.count().total - entry.spec.count().total == saved


def test_states_of_linear_attention_do_not_grow():
    kimi = find("Kimi-Linear-48B-A3B").spec
    state = 20 * (32 * 128 * 128 + 3 * 32 * 128 * 3)
    assert cache.state_elements(kimi) == state
    assert cache.cache_elements(kimi, 1000) == state + 7 * 1000 * 576
    assert cache.cache_elements(find("MiniMax-Text-01").spec, 0) == 0
    assert cache.state_elements(find("MiniMax-Text-01").spec) == 70 * 64 * 128 * 128


def test_compressed_caches_of_v4():
    v4 = find("DeepSeek-V4-Flash").spec
    window, coarse, fine = 43 * 128 * 512, 20 * 512, 21 * (512 + 128)
    tokens = 128 * 40
    expected = window + coarse * tokens // 128 + fine * tokens // 4
    assert cache.cache_elements(v4, tokens) == expected


def test_quantized_caches_and_wrong_arguments():
    assert cache.cache_bytes(spec(), 7, bits=6) == math.ceil(168 * 6 / 8)
    assert cache.cache_bytes(spec(), 7, sequences=3) == 3 * 168 * 2
    with pytest.raises(ValueError, match="bits is 0"):
        cache.cache_bytes(spec(), 7, bits=0)
    with pytest.raises(ValueError, match="tokens is -1"):
        cache.cache_elements(spec(), -1)


def test_formats_by_hand():
    assert formats.BF16.bytes((3, 5)) == 30
    assert formats.FP8.bytes((129, 128)) == 129 * 128 + 2 * 4
    assert formats.MXFP4.bytes((2, 64)) == 4 * 17
    assert formats.INT4.bytes((3, 256)) == 3 * 128 + 3 * 2 * 2
    assert formats.INT4_ZERO.bytes((1, 128)) == 64 + math.ceil(20 / 8)
    with pytest.raises(ValueError, match="unknown recipe 'fp3': choose from bf16"):
        formats.stored_bytes(spec(), "fp3")


def test_bf16_is_two_bytes_a_parameter():
    for entry in catalog().values():
        biases = entry.spec.by_name("router").get("e_score_correction_bias")
        extra = 2 * biases.total if biases else 0  # those are kept in float32
        assert formats.stored_bytes(entry.spec) == 2 * entry.spec.count().total + extra


def test_fp8_bytes_of_deepseek_v3_are_those_of_the_stored_types():
    stored = formats.stored_bytes(find("DeepSeek-V3").spec, "fp8", mtp=True)
    assert stored == 2 * 3_918_786_560 + 680_571_043_840 + 4 * 41_555_600


def test_mxfp4_of_gpt_oss():
    oss = find("gpt-oss-120b").spec
    experts = 36 * 128 * 3 * 2880 * 2880
    assert formats.stored_bytes(oss, "mxfp4") == experts * 17 // 32 + 2 * (
        oss.count().total - experts
    )
    assert round(formats.stored_bytes(oss, "mxfp4") / 1e9, 1) == 65.2
    assert 4.25 < formats.bits_per_weight(oss, "mxfp4") < 4.5


def test_a_recipe_may_be_any_function():
    half = formats.stored_bytes(spec(), lambda weight, layer: formats.W4)
    assert half == sum(math.ceil(w.total / 2) * n for w, n in spec().weights())


def test_operations_of_one_token_by_hand():
    products = 2 * (8 * 3 * (4 + 2 + 2 + 4) + 3 * 8 * 5) + 11 * 8
    assert flops.product_elements(spec()) == products
    assert flops.decode_flops(spec(), 10) == 2 * products + 2 * 4 * 4 * 3 * 10
    tied = spec(tie_word_embeddings=True)
    assert flops.product_elements(tied) == products


def test_prefill_is_decoding_every_token_but_for_the_head():
    def one_by_one(model: ModelSpec, tokens: int) -> int:
        steps = (flops.decode_flops(model, i, absorbed=False) for i in range(1, tokens + 1))
        return sum(steps) - 2 * (tokens - 1) * model.table

    for name in ("Qwen3-0.6B", "DeepSeek-V3.2-Exp", "gpt-oss-20b", "Kimi-Linear-48B-A3B"):
        model = find(name).spec
        assert flops.prefill_flops(model, 300) == one_by_one(model, 300)


def test_without_causality_attention_costs_nearly_twice():
    model, tokens = find("Qwen3-8B").spec, 4096
    rest = 2 * (tokens * flops.product_elements(model, head=False) + model.table)
    full = flops.prefill_flops(model, tokens, causal=False) - rest
    half = flops.prefill_flops(model, tokens) - rest
    assert full * (tokens + 1) == 2 * half * tokens


def test_absorbed_latents_read_more_operations_and_fewer_bytes():
    v3 = find("DeepSeek-V3").spec
    expanded = flops.attention_flops(v3, 1000)
    absorbed = flops.attention_flops(v3, 1000, absorbed=True)
    assert expanded == 61 * 1000 * 2 * 128 * (192 + 128)
    assert absorbed == 61 * 1000 * 2 * 128 * (576 + 512)


def test_an_indexer_bounds_what_attention_reads():
    v32 = find("DeepSeek-V3.2-Exp").spec
    index = 61 * 2 * 64 * 128
    growth = flops.attention_flops(v32, 100_000) - flops.attention_flops(v32, 50_000)
    assert growth == 50_000 * index


def test_intensity_of_decoding_grows_with_the_batch_until_caches_weigh():
    model = find("Llama-3.1-8B").spec
    one, many = (flops.decode_intensity(model, batch, 1) for batch in (1, 64))
    assert 0.9 < one < 1.1 and 50 < many < 64
    assert flops.decode_intensity(model, 64, 8192) < many / 4
    small = flops.decode_intensity(model, 64, 1, weight_bits=4)
    assert small > 3 * many
    with pytest.raises(ValueError, match="batch is 0"):
        flops.decode_intensity(model, 0, 1)


def test_one_token_touches_its_experts_and_a_large_batch_all():
    model = find("Qwen3-30B-A3B").spec
    unread = model.table - model.hidden_size
    assert flops.touched_parameters(model, 1) == pytest.approx(model.count().activated - unread)
    rows = model.vocab_size * model.hidden_size
    large = flops.touched_parameters(model, 1_000_000)
    assert large == pytest.approx(model.count().total - model.table + rows)


def test_hours_mfu_and_cost_undo_each_other():
    hours = training.training_cost(Count(9, 1), 3.29e24 / 6, 989e12, 0.35, 2)[0]
    assert training.mfu(3.29e24, hours, 989e12) == pytest.approx(0.35)
    assert training.cost(hours, 2) == pytest.approx(2 * hours)
    assert training.days(48, 2) == 1
    assert training.saving(100, 75) == 0.25
    with pytest.raises(ValueError, match=r"mfu is 1\.2: a share"):
        training.training_cost(Count(1, 1), 1, 1, 1.2, 2)
    with pytest.raises(ValueError, match="hours is 0"):
        training.cost(0, 2)
    with pytest.raises(ValueError, match="tokens is 0"):
        flops.prefill_flops(spec(), 0)


def test_operations_of_states_and_of_compressed_pasts_by_hand():
    kimi = find("Kimi-Linear-48B-A3B").spec
    delta, latent = 20 * 6 * 32 * 128 * 128, 7 * 2 * 32 * (192 + 128)
    assert flops.attention_flops(kimi, 1000) == delta + latent * 1000
    qwen = find("Qwen3-Next-80B-A3B").spec
    assert flops.attention_flops(qwen, 10) == 36 * 6 * 32 * 128 * 128 + 12 * 4 * 16 * 256 * 10
    lightning = find("MiniMax-Text-01").spec
    assert flops.attention_flops(lightning, 1) == 70 * 4 * 64 * 128 * 128 + 10 * 4 * 64 * 128
    v4, tokens, heads = find("DeepSeek-V4-Flash").spec, 128 * 100, 4 * 64 * 512
    seen = 43 * 128 + 20 * tokens // 128 + 21 * 512  # windows, coarse entries, chosen fine ones
    assert flops.attention_flops(v4, tokens) == heads * seen + 21 * 2 * 64 * 128 * tokens // 4
