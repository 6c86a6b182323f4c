"""Keys and values in few bits, per channel or per token: two models (chapter 15).

`python -m course_utils.records.kv_quantization` reads the test windows of the perplexity protocol
(4 of 512 tokens a domain) through a packed cache, with every choice of who shares a range, at 4 and
2 bits in groups of 32 tokens. One forward pass a batch: every token attends to rounded keys and
values, but for the last tokens that fill no group. Writes c15_kv_cache.csv: nats per token. Without
SmolLM2's file its rows cannot be made. Three minutes on two cores; nothing is drawn at random.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from course_utils.data.tokenizer import Tokenizer, course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.models.pretrained import smollm2
from course_utils.quantization.kv_cache import QuantizedKVCache
from course_utils.quantization.perplexity import COURSE, SMOLLM2, Protocol, perplexity
from course_utils.records.recorded import CODE, code_hash, save_record
from course_utils.records.small_models import prepared_corpus

RECORD = "c15_kv_cache"
KEYS = ("model", "bits", "keys", "values")
TOLERANCE = {"nats_per_token": 0.01}
WINDOWS = 4
HASHED = (*CODE, "quantization/kv_cache.py", "quantization/perplexity.py")
CHOICES = [
    (bits, keys, values)
    for bits in (4, 2)
    for keys in ("token", "channel")
    for values in ("token", "channel")
]


def with_cache(model: DecoderLM, bits: int, keys: str, values: str) -> Callable[[Tensor], Tensor]:
    """The model, run with a packed cache that begins empty."""
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_key_value_heads

    def logits(ids_BT: Tensor) -> Tensor:
        B, T = ids_BT.shape
        cache = QuantizedKVCache(layers, B, heads, T, config.head_dim, bits, keys, values)
        return model(ids_BT, cache)

    return logits


def models() -> dict[str, tuple[DecoderLM, Tokenizer, Protocol]]:
    """Both models with their tokenizers and protocols."""
    real = smollm2()
    return {
        "course": (shipped("dense"), course_tokenizer(), replace(COURSE, windows=WINDOWS)),
        "SmolLM2": (real.model, real.tokenizer, replace(SMOLLM2, windows=WINDOWS)),
    }


def row(name: str, model: DecoderLM, tokenizer: Tokenizer, protocol: Protocol, choice) -> dict:
    """One row; `choice` is (bits, keys, values), or None for the cache in full precision."""
    run = model if choice is None else with_cache(model, *choice)
    result = perplexity(run, tokenizer, protocol)
    given = dict(zip(KEYS, (name, *(choice or (32, "full", "full"))), strict=True))
    given |= {"tokens": result.tokens, "nats_per_token": round(result.nats_per_token, 5)}
    return given | {"code": code_hash(HASHED), "corpus": prepared_corpus().fingerprint()}


def sample() -> dict:
    """One row: the course's model, 2 bits, keys per channel, values per token."""
    protocol = replace(COURSE, windows=WINDOWS)
    choice = (2, "channel", "token")
    return row("course", shipped("dense"), course_tokenizer(), protocol, choice)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = []
    with torch.no_grad():
        for name, parts in models().items():
            for choice in (None, *CHOICES):
                found.append(row(name, *parts, choice))
                print(list(found[-1].values()), flush=True)
    print(save_record(RECORD, found))
