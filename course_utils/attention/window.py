"""Sliding windows: which tokens a layer of grouped-query attention sees if it sees the last W only.

    query t sees the keys t - W + 1, ..., t        W keys, its own included

So a layer keeps W keys and values, however long the text. What is further away arrives through the
layers: with L of them a token can be reached from up to L (W - 1) tokens ahead.

Left out: attention sinks (gpt-oss has one learned number a head, which takes part in the softmax
and carries no value), and a form for long prompts that skips the blocks outside the band. Here all
T x S scores are computed and a mask covers those outside, so that in training and on a prompt a
window saves no arithmetic. Generating token by token it saves both work and memory.

Source: Beltagy et al. 2020, "Longformer", section 3.1; config keys `sliding_window` and
`layer_types`.
"""

import torch
from torch import Tensor

from course_utils.attention.cache import Cache


def window_mask(query_T: Tensor, key_S: Tensor, window: int) -> Tensor:
    """(T, S) of booleans, from the positions of queries and keys: True where 0 <= t - s < W."""
    distance_TS = query_T[:, None] - key_S[None, :]
    return (distance_TS >= 0) & (distance_TS < window)


def narrow(
    mask: Tensor | None, x_BTD: Tensor, window: int, cache: Cache | None, layer: int
) -> Tensor | None:
    """The mask of a layer with a window, over the tokens that it reads: its cache has no others.

    mask (T, S) or (B, 1, T, S) is over all tokens seen so far, those of x the last; None: no
    padding. The result is None where causality says it all: the text is short, or the cache has
    dropped what lies outside.
    """
    T, past = x_BTD.shape[1], cache.length if cache is not None else 0
    if mask is None and (past + T <= window or (T == 1 and cache is not None)):
        return None
    query_T = torch.arange(past, past + T, device=x_BTD.device)
    key_S = query_T if cache is None else cache.positions(layer, T)
    band_TS = window_mask(query_T, key_S, window)
    return band_TS if mask is None else mask[..., key_S] & band_TS
