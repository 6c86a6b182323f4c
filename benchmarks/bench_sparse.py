"""Sparse beside dense latent attention: one more token, at growing context, index cost included.

One layer, float32, 2 threads, the same weights on both sides. The dense side is absorbed MLA over
the whole cache; the sparse side scores every token with 4 index heads of 32, takes the best 1024,
and reads those. Both keep the same rows. Caches are filled with the rows of random inputs; how they
came there costs both sides the same and is not measured. The last row is the break-even: the
shortest context of those measured where sparse is faster (ours), beside k (peer).
"""

from dataclasses import replace

import torch
from bench_attention import HEADS, MLA, WIDTH, shake
from bench_decode import row
from bench_moe import in_turns

from course_utils.attention import IndexerConfig, LatentAttention, LayeredCache
from course_utils.layers import rope_tables

INDEX = IndexerConfig(index_n_heads=4, index_head_dim=32, index_topk=1024)
CONTEXTS, TARGET_AT = (2048, 4096, 8192, 16384, 32768), 16384
ROUNDS = 41


def full_cache(layer: LatentAttention, tokens: int) -> LayeredCache:
    """A cache of so many tokens, without the attention that would have read them."""
    cache = LayeredCache([layer.cache_layout()], 1, tokens + 1)
    x_BTD = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    tables = rope_tables(torch.arange(tokens), MLA.qk_rope_head_dim)
    kept = [layer.rows(x_BTD, *tables)]
    if layer.indexer is not None:
        kept.append(layer.indexer.keys(x_BTD, *tables))
    cache.update(0, *kept)
    cache.advance(tokens)
    return cache


def decoding(layer: LatentAttention, context: int):
    """A step that adds the last of `context` tokens, again and again at the same place."""
    cache = full_cache(layer, context - 1)
    x_BTD = torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(2))
    tables = rope_tables(torch.tensor([context - 1]), MLA.qk_rope_head_dim)
    return lambda: layer(x_BTD, *tables, cache=cache, absorbed=True)


def layers() -> tuple[LatentAttention, LatentAttention]:
    """Sparse and dense, with the same weights."""
    sparse = shake(LatentAttention(WIDTH, HEADS, replace(MLA, index=INDEX)))
    dense = LatentAttention(WIDTH, HEADS, MLA).eval()
    dense.load_state_dict(sparse.state_dict(), strict=False)
    return sparse, dense


def check(sparse: LatentAttention, dense: LatentAttention) -> None:
    """With as many tokens as are chosen both sides must agree."""
    a, b = (decoding(layer, INDEX.index_topk)() for layer in (sparse, dense))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@torch.no_grad()
def run() -> list[dict]:
    """Rows for `course bench sparse`."""
    torch.set_num_threads(2)
    sparse, dense = layers()
    check(sparse, dense)
    rows, faster = [], []
    for context in CONTEXTS:
        sides = {"sparse": decoding(sparse, context), "dense": decoding(dense, context)}
        times = in_turns(sides, ROUNDS, lambda: None)
        rate = {name: 1 / seconds for name, seconds in times.items()}
        label = f"decode at {context}, tokens/s: sparse, dense absorbed MLA"
        target = 3.0 if context == TARGET_AT else None
        rows.append(row(label, rate["sparse"], rate["dense"], target))
        if rate["sparse"] > rate["dense"]:
            faster.append(context)
    if faster:
        label = f"break-even: shortest context where sparse is faster, k {INDEX.index_topk}"
        rows.append(row(label, float(min(faster)), float(INDEX.index_topk), None))
    return rows
