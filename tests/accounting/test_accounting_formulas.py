"""Closed formulas against the specs, which list every weight: on real and on generated configs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.accounting.attention import LatentAttention
from course_utils.accounting.cache import cache_bytes_per_token
from course_utils.accounting.catalog import PARAMETERS, catalog, find
from course_utils.accounting.conventions import conventions, fitting_conventions
from course_utils.accounting.formulas import (
    head_width,
    kv_bytes_per_token,
    llama_parameters,
    mla_parameters,
    moe_parameters,
)
from course_utils.accounting.spec import ModelSpec
from course_utils.accounting.tensors import Count
from course_utils.accounting.training import cost, mfu, training_cost

DENSE = [name for name, entry in catalog().items() if entry.spec.model_type == "llama"]
LATENT = [name for name, entry in catalog().items() if entry.config.get("kv_lora_rank")]
V3_KIND = ["DeepSeek-V3", "DeepSeek-R1", "Kimi-K2", "Moonlight-16B-A3B"]
# Nothing but keys and values or latents, in every layer, for every token.
PLAIN_CACHES = [
    name
    for name, entry in catalog().items()
    if all(layer.attention.label in ("MHA", "GQA", "MLA") for layer in entry.spec.layers)
]


def latent_block(name: str) -> LatentAttention:
    kinds = [layer.attention for layer in find(name).spec.layers]
    return next(kind for kind in kinds if isinstance(kind, LatentAttention))


@pytest.mark.parametrize("name", DENSE)
def test_dense_models(name):
    assert llama_parameters(find(name).config) == find(name).spec.count().total


@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 5), groups=st.integers(1, 3), shared=st.integers(1, 3),
    tied=st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_dense_models_of_any_shape(sizes, groups, shared, tied):
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "head_dim")
    config = dict(zip(keys, sizes, strict=True)) | {
        "model_type": "llama", "num_attention_heads": groups * shared,
        "num_key_value_heads": groups, "tie_word_embeddings": tied,
    }  # fmt: skip
    spec = ModelSpec.from_hf_config(config)
    assert llama_parameters(config) == spec.count().total
    assert kv_bytes_per_token(config) == cache_bytes_per_token(spec)


@pytest.mark.parametrize("name", LATENT)
def test_blocks_of_latent_attention(name):
    config = find(name).config
    block = latent_block(name)
    index = block.index.weights(config["hidden_size"], config["q_lora_rank"]) if block.index else []
    listed = sum(weight.total for weight in block.weights(config["hidden_size"]))
    without = listed - sum(weight.total for weight in index)
    assert mla_parameters({"q_lora_rank": None} | config) == without


@given(sizes=st.tuples(*[st.integers(1, 40)] * 6), rank=st.none() | st.integers(1, 40))
def test_blocks_of_latent_attention_of_any_shape(sizes, rank):
    keys = ("num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")
    config = dict(zip((*keys, "v_head_dim"), sizes[1:], strict=True)) | {"q_lora_rank": rank}
    listed = sum(weight.total for weight in LatentAttention(**config).weights(sizes[0]))
    assert mla_parameters(config | {"hidden_size": sizes[0]}) == listed


@pytest.mark.parametrize("name", V3_KIND)
def test_sparse_models(name):
    entry = find(name)
    count = entry.spec.count()
    found = moe_parameters(entry.config, mla_parameters(entry.config))
    assert found == (count.total, count.activated)


@pytest.mark.parametrize("name", PLAIN_CACHES)
@pytest.mark.parametrize("bits", [16, 8, 6])
def test_caches(name, bits):
    entry = find(name)
    config = entry.config.get("text_config", entry.config)
    assert kv_bytes_per_token(config, bits) == cache_bytes_per_token(entry.spec, bits)


def test_most_of_the_catalog_has_a_plain_cache():
    assert len(PLAIN_CACHES) > 35


def test_head_width_is_the_key_or_the_quotient():
    assert head_width({"hidden_size": 1024, "num_attention_heads": 16}) == 64
    assert head_width({"hidden_size": 1024, "num_attention_heads": 16, "head_dim": 128}) == 128
    assert head_width({"hidden_size": 96, "num_attention_heads": 4, "head_dim": None}) == 24


def test_training_cost_is_undone_by_mfu_and_by_the_price():
    count = Count(671_026_419_200, 37_552_297_472)
    hours, dollars = training_cost(count, 14.8e12, 989e12, 0.346, 2)
    assert mfu(6 * count.activated * 14.8e12, hours, 989e12) == pytest.approx(0.346)
    assert dollars == pytest.approx(cost(hours, 2))
    assert hours == pytest.approx(6 * 37_552_297_472 * 14.8e12 / (989e12 * 0.346) / 3600)


@pytest.mark.parametrize("share", [0, -0.1, 1.2, 35])
def test_a_share_above_one_is_refused(share):
    with pytest.raises(ValueError, match=f"mfu is {share}: a share, above 0 and at most 1"):
        training_cost(Count(1, 1), 1, 1, share, 2)


def test_a_figure_fits_what_rounds_to_it_as_printed():
    counts = {"all": 37_552_297_472, "without input embedding": 36_625_618_432}
    assert fitting_conventions("37", counts) == ["without input embedding"]
    assert fitting_conventions("38", counts) == ["all"]
    assert fitting_conventions("36.7", counts) == []
    assert fitting_conventions("36.6", counts) == ["without input embedding"]
    assert fitting_conventions("10", {"a": 9_801_359_872, "b": 10_416_000_000}) == ["a", "b"]


def test_more_than_half_of_the_published_figures_fit_their_convention():
    """The others are within one percent or explained: see the tests of published sizes."""
    figures = [
        (entry.spec, figure)
        for entry in catalog().values()
        for figure in entry.published
        if figure.what in PARAMETERS and not figure.exact
    ]
    fit = 0
    for spec, figure in figures:
        both = conventions(spec)
        what = "activated" if figure.what == "activated" else "total"
        counts = {name: getattr(count, what) for name, count in both.items()}
        fit += figure.convention in fitting_conventions(f"{figure.value / 1e9:g}", counts)
    assert fit > len(figures) / 2
