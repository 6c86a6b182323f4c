"""The re-pricing ledger: one call for the course's models and for any config."""

import pytest

from course_utils.accounting.catalog import find
from course_utils.accounting.ledger import dense_parameters, dense_row, ledger_row, ledger_rows

COURSE = {
    "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "tie_word_embeddings": True, "use_qk_norm": True, "rope_theta": 1e4,
}  # fmt: skip


def test_a_course_model_by_hand():
    row = ledger_row("02", "dense", COURSE, 1.5)
    layer = 256 * 64 * (4 + 2 + 2 + 4) + 3 * 256 * 768
    table = 1024 * 256
    assert row.parameters == row.active_parameters == table + 4 * (layer + 512 + 128) + 256
    assert row.kv_bytes_per_token == 4 * 4 * 2 * 2 * 64
    assert row.flops_per_token == 2 * (4 * layer + table) + 4 * 4 * 4 * 64 * 512
    assert row == dense_row("02", "dense", COURSE, 1.5)
    parts = dense_parameters(COURSE)
    assert parts == {
        "embedding": table,
        "attention": 4 * 256 * 64 * 12,
        "feed-forward": 4 * 3 * 256 * 768,
        "norms": 4 * (512 + 128) + 256,
        "head": 0,
    }
    assert dense_parameters(COURSE | {"tie_word_embeddings": False})["head"] == table


def test_a_course_model_with_experts_by_hand():
    experts = {
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 96,
        "n_shared_experts": 2, "use_shared_expert_gate": True, "first_k_dense_replace": 1,
        "use_routing_bias": True, "zero_expert_num": 3, "scoring_func": "sigmoid",
    }  # fmt: skip
    dense = ledger_row("02", "dense", COURSE | {"moe": None}, 1.5)
    row = ledger_row("03", "moe", COURSE | {"moe": experts}, 1.5)
    one, was = 3 * 256 * 96, 3 * 256 * 768
    beside = 2 * one + 256 + 9 * 256 + 9  # shared experts with their gate, router, its bias
    assert row.parameters == dense.parameters + 3 * (6 * one + beside - was)
    assert row.active_parameters == dense.parameters + 3 * (2 * one + beside - was)
    assert row.flops_per_token == dense.flops_per_token + 2 * 3 * (2 * one + beside - 9 - was)
    assert row.kv_bytes_per_token == dense.kv_bytes_per_token
    with pytest.raises(ValueError, match="num_experts is missing"):
        ledger_row("03", "moe", COURSE | {"moe": {"moe_intermediate_size": 96}}, 1.5)


def test_the_row_that_ships_is_a_row():
    (first, *_) = ledger_rows()
    assert (first.chapter, first.parameters) == ("02", 3_935_936)


def test_any_config_has_a_row():
    entry = find("DeepSeek-V3")
    row = ledger_row("07", "DeepSeek-V3", entry.config, 0.0, cache_bits=16)
    assert row.parameters == 671_026_419_200
    assert row.active_parameters == 37_552_297_472
    assert row.kv_bytes_per_token == 70_272
    assert row == ledger_row("07", "DeepSeek-V3", entry.spec, 0.0, cache_bits=16)


def test_missing_keys_are_named():
    short = {key: value for key, value in COURSE.items() if key != "head_dim"}
    with pytest.raises(ValueError, match="the config of 'dense' lacks the key 'head_dim'"):
        dense_row("02", "dense", short, 1.5)
    with pytest.raises(KeyError, match="head_dim"):
        dense_parameters(short)
    with pytest.raises(ValueError, match="num_attention_heads is missing"):
        ledger_row("01", "x", {"model_type": "llama", "hidden_size": 4}, 1.0)
