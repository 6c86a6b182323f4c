"""What a model keeps of a text while it generates: the key-value cache, in numbers and bytes.

    grouped queries    2 G d a token and layer, up to the window if there is one
    latents            rank + rope a token and layer, for all heads together
    shared layers      nothing: an earlier layer keeps it
    linear attention   a state of fixed size, however long the text

Bytes are numbers times bits: 16 for bf16, 8 for FP8 or int8, 6 for what DeepSeek-V2 deployed. The
keys of an indexer are part of the cache.
Left out: scales of quantized caches (give a fraction, such as 4.5 bits), and pages partly filled.
Sources: arXiv 2405.04434, Table 1, for MHA, GQA, MQA and MLA; the figures of three models in
arXiv 2505.09343, Table 1, are met to the byte.
"""

from math import ceil

from course_utils.accounting.spec import ModelSpec


def cache_elements(spec: ModelSpec, tokens: int) -> int:
    """Numbers kept after `tokens` tokens, in all layers."""
    if tokens < 0:
        raise ValueError(f"tokens is {tokens}: give 0 or more")
    return sum(
        times * sum(span.at(tokens) for span in layer.attention.keeps())
        for layer, times, _ in spec.groups
    )


def cache_bytes(spec: ModelSpec, tokens: int, bits: float = 16, sequences: int = 1) -> int:
    """Bytes of the cache of `sequences` texts of `tokens` tokens each, rounded up."""
    if bits <= 0:
        raise ValueError(f"bits is {bits}: give a number above 0, such as 16")
    return ceil(sequences * cache_elements(spec, tokens) * bits / 8)


def cache_elements_per_token(spec: ModelSpec, beyond_windows: bool = False) -> int:
    """Numbers that one more token adds; states of fixed size add none.

    At first all layers grow; beyond their windows only those without one do. Compressed caches add
    an entry for every few tokens, so their share is rounded down.
    """
    total = 0
    for layer, times, _ in spec.groups:
        for span in layer.attention.keeps():
            fixed = span.limit is not None and (span.limit == 1 or beyond_windows)
            total += 0 if fixed else times * span.amount // span.stride
    return total


def cache_bytes_per_token(spec: ModelSpec, bits: float = 16) -> int:
    """Bytes that one more token adds while all layers grow, rounded up."""
    return ceil(cache_elements_per_token(spec) * bits / 8)


def state_elements(spec: ModelSpec) -> int:
    """Numbers kept in states of fixed size, whatever the length of the text."""
    return sum(
        times * span.amount
        for layer, times, _ in spec.groups
        for span in layer.attention.keeps()
        if span.limit == 1
    )
