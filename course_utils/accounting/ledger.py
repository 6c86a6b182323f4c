"""The ledger of the course's model: what it costs after each chapter, and what it scores.

A row says how many parameters a model has, how many of them a token uses, what a token leaves in
the cache, what it costs to compute, and how well the model predicts held-out text. Rows of all
chapters ship in `ledger.json`; a notebook computes its own from the config and appends it in
memory. The functions named `dense_...` take the config of the course's own decoder.

A quantized model (chapters 13 and 15) keeps the columns of the model that it was made from, since
they count parameters, numbers in the cache and operations, whatever format the weights have. Its
row differs in the score alone; `weight_bytes(bits)` says what its weights take.

Left out: the publishers' counting conventions (a row counts every parameter, a tied table once).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from course_utils.accounting.cache import cache_bytes_per_token, cache_elements_per_token
from course_utils.accounting.families.course import read_course
from course_utils.accounting.flops import decode_flops
from course_utils.accounting.reading import Keys
from course_utils.accounting.spec import ModelSpec
from course_utils.accounting.tensors import ATTENTION, DENSE, EMBEDDING, HEAD, NORMS
from course_utils.accounting.weights import weight_bytes

LEDGER_FILE = Path(__file__).with_name("ledger.json")
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
SIZES += ("num_attention_heads", "num_key_value_heads")
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

    def weight_bytes(self, bits_per_weight: float = 32) -> int:
        """Bytes of the weights at so many bits each, scales included, such as 4.5 (chapter 13)."""
        return weight_bytes(self.parameters, bits_per_weight)


def course_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The course's own decoder as a ModelSpec. Raises KeyError when the config lacks a key."""
    for key in ("head_dim", "use_qk_norm", "tie_word_embeddings", *SIZES):
        config[key]
    return read_course(Keys(config))


def dense_parameters(config: Mapping[str, Any]) -> dict[str, int]:
    """Parameters of a dense decoder by part, from its config with Hugging Face's keys."""
    parts = course_spec(config).by_part()
    named = {"attention": ATTENTION, "feed-forward": DENSE, "norms": NORMS, "head": HEAD}
    own = {name: parts[part].total if part in parts else 0 for name, part in named.items()}
    return {"embedding": parts[EMBEDDING].total} | own


def dense_kv_elements(config: Mapping[str, Any]) -> int:
    """Numbers that a token leaves in the cache: a key and a value per layer and key-value head."""
    return cache_elements_per_token(course_spec(config))


def dense_flops_per_token(config: Mapping[str, Any], context: int = CONTEXT) -> int:
    """Operations to compute one more token after `context` tokens.

    Two per weight of every matrix product (the embedding is looked up, the head is a product), and
    four per context token, query head and channel for attention's scores and sums.
    """
    return decode_flops(course_spec(config), context)


def dense_row(
    chapter: str, model: str, config: Mapping[str, Any], bits_per_byte: float
) -> LedgerRow:
    """The ledger row of a dense model, computed from its config; a dense token uses all of it.

    Raises ValueError when the config lacks a key.
    """
    try:
        spec = course_spec(config)
    except KeyError as error:
        raise ValueError(f"the config of {model!r} lacks the key {error}") from None
    return ledger_row(chapter, model, spec, bits_per_byte)


def ledger_row(
    chapter: str,
    model: str,
    config: "ModelSpec | Mapping[str, Any] | str | PathLike[str]",
    bits_per_byte: float,
    cache_bits: float = 32,
) -> LedgerRow:
    """The ledger row of any model: a ModelSpec, the course's config, or a `config.json`.

    The cache is counted at `cache_bits` a number, 32 as in the course's experiments.
    """
    spec = config if isinstance(config, ModelSpec) else ModelSpec.from_hf_config(config)
    count = spec.count()
    cache = cache_bytes_per_token(spec, cache_bits)
    flops = decode_flops(spec, CONTEXT)
    return LedgerRow(chapter, model, count.total, count.activated, cache, flops, bits_per_byte)


def ledger_rows() -> list[LedgerRow]:
    """The rows that ship with the package, in the order of the chapters."""
    return [LedgerRow(**row) for row in json.loads(LEDGER_FILE.read_text(encoding="utf-8"))]
