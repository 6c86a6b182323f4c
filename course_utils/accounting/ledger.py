"""The ledger of the course's model: what it costs after each chapter, and what it scores.

A row says how many parameters a model has, how many of them a token uses, what a token leaves in
the cache, what it costs to compute, and how well the model predicts held-out text. Rows of all
chapters ship in `ledger.json`; a notebook computes its own from the config and appends it in
memory.

Left out until chapter 01: models other than dense ones, and the publishers' counting conventions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEDGER_FILE = Path(__file__).with_name("ledger.json")
CONTEXT = 512  # tokens already seen when a token's operations are counted


@dataclass(frozen=True)
class LedgerRow:
    """One model. Bytes of the cache are at 4 bytes a number; bits per byte on the test split."""

    chapter: str
    model: str
    parameters: int
    active_parameters: int
    kv_bytes_per_token: int
    flops_per_token: int
    bits_per_byte: float


def dense_parameters(config: Mapping[str, Any]) -> dict[str, int]:
    """Parameters of a dense decoder by part, from its config with Hugging Face's keys."""
    D, F = config["hidden_size"], config["intermediate_size"]
    L, d = config["num_hidden_layers"], config["head_dim"]
    H, G = config["num_attention_heads"], config["num_key_value_heads"]
    qk_norm = 2 * d if config["use_qk_norm"] else 0
    table = config["vocab_size"] * D
    return {
        "embedding": table,
        "attention": L * D * d * (2 * H + 2 * G),
        "feed-forward": L * 3 * D * F,
        "norms": L * (2 * D + qk_norm) + D,
        "head": 0 if config["tie_word_embeddings"] else table,
    }


def dense_kv_elements(config: Mapping[str, Any]) -> int:
    """Numbers that a token leaves in the cache: a key and a value per layer and key-value head."""
    heads = config["num_key_value_heads"] * config["head_dim"]
    return 2 * config["num_hidden_layers"] * heads


def dense_flops_per_token(config: Mapping[str, Any], context: int = CONTEXT) -> int:
    """Operations to compute one more token after `context` tokens.

    Two per weight of every matrix product (the embedding is looked up, the head is a product), and
    four per context token, query head and channel for attention's scores and sums.
    """
    parts = dense_parameters(config)
    head = config["vocab_size"] * config["hidden_size"]
    products = parts["attention"] + parts["feed-forward"] + head
    heads = config["num_attention_heads"] * config["head_dim"]
    return 2 * products + 4 * config["num_hidden_layers"] * heads * context


def dense_row(
    chapter: str, model: str, config: Mapping[str, Any], bits_per_byte: float
) -> LedgerRow:
    """The ledger row of a dense model, computed from its config; a dense token uses all of it.

    Raises ValueError when the config lacks a key.
    """
    try:
        parameters = sum(dense_parameters(config).values())
        cache = 4 * dense_kv_elements(config)
        flops = dense_flops_per_token(config)
    except KeyError as error:
        raise ValueError(f"the config of {model!r} lacks the key {error}") from None
    return LedgerRow(chapter, model, parameters, parameters, cache, flops, bits_per_byte)


def ledger_rows() -> list[LedgerRow]:
    """The rows that ship with the package, in the order of the chapters."""
    return [LedgerRow(**row) for row in json.loads(LEDGER_FILE.read_text(encoding="utf-8"))]
