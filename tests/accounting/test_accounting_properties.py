"""Properties of counting, on generated models: sums, scaling, activation, latents."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.accounting.attention import GroupedQueryAttention, LatentAttention
from course_utils.accounting.cache import cache_elements
from course_utils.accounting.catalog import catalog
from course_utils.accounting.conventions import conventions
from course_utils.accounting.flops import decode_flops, prefill_flops
from course_utils.accounting.spec import ModelSpec
from course_utils.accounting.tensors import MTP, Count

SIZES = {"deadline": None, "max_examples": 60}
small = st.integers(1, 12)


@st.composite
def configs(draw, sparse: bool | None = None) -> dict:
    """A small dense or sparse config with grouped queries."""
    heads, per_group = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    config = {
        "model_type": "qwen3", "hidden_size": draw(small), "num_hidden_layers": draw(small),
        "num_attention_heads": heads * per_group, "num_key_value_heads": heads,
        "head_dim": draw(small), "intermediate_size": draw(small), "vocab_size": draw(small),
        "tie_word_embeddings": draw(st.booleans()),
    }  # fmt: skip
    if draw(st.booleans()) if sparse is None else sparse:
        experts = draw(st.integers(2, 9))
        chosen = draw(st.integers(1, experts - 1))
        config |= {"model_type": "qwen3_moe", "num_experts": experts, "moe_intermediate_size": 3}
        config |= {"num_experts_per_tok": chosen}
    return config


def read(config: dict, **changes) -> ModelSpec:
    return ModelSpec.from_hf_config(config | changes)


@given(configs())
@settings(**SIZES)
def test_totals_are_the_sum_of_parts_and_of_layers(config):
    spec = read(config)
    by_part = sum(spec.by_part().values(), Count())
    layers = [one.total * number for number, one in spec.by_layer_type().values()]
    assert by_part == spec.count()
    assert sum(layers) + sum(w.total for w in spec.tables) == spec.count().total
    by_name = sum((c for part in spec.by_part() for c in spec.by_name(part).values()), Count())
    assert by_name == spec.count()


@pytest.mark.parametrize("name", catalog())
def test_totals_of_the_catalog_are_the_sum_of_parts(name):
    spec = catalog()[name].spec
    parts = spec.by_part()
    assert sum((c for p, c in parts.items() if p != MTP), Count()) == spec.count()
    assert parts.get(MTP, Count()) == spec.mtp_count()
    assert spec.count().activated <= spec.count().total
    dense = {"router", "routed experts"}.isdisjoint(parts)
    assert dense == (spec.count().activated == spec.count().total)


@given(configs())
@settings(**SIZES)
def test_activated_is_total_for_dense_models_alone(config):
    count = read(config).count()
    assert (count.activated == count.total) == (config["model_type"] == "qwen3")
    assert count.activated <= count.total


SCALED = [
    ("vocab_size", {"embedding", "head"}),
    ("intermediate_size", {"dense FFN"}),
    ("moe_intermediate_size", {"routed experts"}),
    ("num_experts", {"routed experts", "router"}),
    ("num_key_value_heads", {"attention"}),
]


@pytest.mark.parametrize(("key", "parts"), SCALED)
@given(data=st.data())
@settings(**SIZES)
def test_doubling_one_size_changes_exactly_its_parts(key, parts, data):
    config = data.draw(configs(sparse=key in ("moe_intermediate_size", "num_experts")))
    config["num_attention_heads"] *= 2  # so that twice the key-value heads still divide them
    before = read(config).by_part()
    after = read(config, **{key: 2 * config[key]}).by_part()
    changed = {part for part in before if before[part] != after[part]}
    assert changed == parts & set(before)
    if key != "num_key_value_heads":
        assert all(after[part].total == 2 * before[part].total for part in changed)
        return
    kept = read(config).by_name("attention")
    grown = read(config, num_key_value_heads=2 * config[key]).by_name("attention")
    assert {name for name in kept if kept[name] != grown[name]} == {"k_proj", "v_proj"}


@given(configs(sparse=True))
@settings(**SIZES)
def test_more_experts_chosen_activate_more_and_store_the_same(config):
    before = read(config)
    after = read(config, num_experts_per_tok=config["num_experts_per_tok"] + 1)
    assert after.count().total == before.count().total
    changed = {p for p in before.by_part() if before.by_part()[p] != after.by_part()[p]}
    assert changed == {"routed experts"}
    assert after.count().activated > before.count().activated


@given(configs(), st.integers(1, 50))
@settings(**SIZES)
def test_layers_count_evenly(config, tokens):
    one, two = read(config), read(config, num_hidden_layers=2 * config["num_hidden_layers"])
    tables = sum(w.total for w in one.tables)
    assert two.count().total - tables == 2 * (one.count().total - tables)
    assert cache_elements(two, tokens) == 2 * cache_elements(one, tokens)


@given(configs(), st.integers(1, 50))
@settings(**SIZES)
def test_operations_grow_with_the_text_and_causal_is_cheaper(config, tokens):
    spec = read(config)
    assert decode_flops(spec, tokens + 1) > decode_flops(spec, tokens)
    causal, full = prefill_flops(spec, tokens), prefill_flops(spec, tokens, causal=False)
    assert causal <= full and (causal == full) == (tokens == 1)


@given(configs())
@settings(**SIZES)
def test_conventions_are_ordered(config):
    spec = read(config)
    counts = conventions(spec)
    bare = counts.get("without embedding and head", counts["all"])
    middle = counts.get("without input embedding", counts["all"])
    assert bare.total <= middle.total <= counts["all"].total
    tables = 1 if spec.tie_word_embeddings else 2
    assert counts["all"].total - bare.total == tables * spec.table


@given(
    heads=st.integers(1, 8), width=st.integers(1, 16), hidden=st.integers(1, 64),
    rope=st.integers(1, 8),
)  # fmt: skip
@settings(**SIZES)
def test_latents_of_full_rank_are_no_smaller_than_what_they_replace(heads, width, hidden, rope):
    """A latent as wide as all keys and values keeps as much and stores more; a narrow one less."""
    plain = GroupedQueryAttention(heads, heads, width)
    full = LatentAttention(heads, 2 * heads * width, width, rope, width)

    def parameters(attention) -> int:
        return sum(weight.total for weight in attention.weights(hidden))

    def kept(attention) -> int:
        return sum(span.at(1) for span in attention.keeps())

    assert parameters(full) >= parameters(plain)
    assert kept(full) > kept(plain)
    narrow = replace(full, kv_lora_rank=1)
    assert parameters(narrow) < parameters(full) and kept(narrow) < kept(full)
