"""Evaluation on held-out text, domain by domain, in nats per token and bits per byte.

Nats per token depend on the tokenizer: one that makes longer tokens has fewer, harder predictions.
Bits per byte of text do not, so they compare models with any vocabulary, and they are what the
model would need to compress the text.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from course_utils.data.batches import as_ids, first_windows
from course_utils.data.corpus import Corpus
from course_utils.training.loss import next_token_loss


def bits_per_byte(nats_per_token: float, tokens: int, text_bytes: int) -> float:
    """Loss per token as bits per byte of text: nats * tokens / (bytes * ln 2).

    `tokens` predicted tokens stand for `text_bytes` bytes. Raises ValueError where either is not
    positive. Source: Gao et al. 2020, "The Pile", section 3.1.
    """
    if tokens <= 0 or text_bytes <= 0:
        raise ValueError(f"{tokens} tokens and {text_bytes} bytes: both must be positive")
    return nats_per_token * tokens / (text_bytes * math.log(2))


@dataclass(frozen=True)
class Evaluation:
    """The result for one domain, or for all of them weighted by their bytes."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    text_bytes: int


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor], Tensor],
    corpus: Corpus,
    token_bytes_V: np.ndarray,
    *,
    split: str = "validation",
    windows: int = 32,
    length: int = 256,
    batch: int = 8,
    device: torch.device | str = "cpu",
) -> dict[str, Evaluation]:
    """The loss of `model` (ids (B, T) to logits (B, T, V)) on the first windows of each domain.

    The same windows for every model. The key "all" holds the domains together.
    """
    results = {}
    bytes_V = torch.from_numpy(token_bytes_V)
    for domain, ids in corpus.ids[split].items():
        windows_BT = first_windows(as_ids(ids), windows, length)
        nats = sum(
            float(next_token_loss(model(part.to(device)), part.to(device))) * len(part)
            for part in windows_BT.split(batch)
        ) / len(windows_BT)
        targets = windows_BT[:, 1:]
        tokens, text_bytes = targets.numel(), int(bytes_V[targets].sum())
        bits = bits_per_byte(nats, tokens, text_bytes)
        results[domain] = Evaluation(nats, bits, tokens, text_bytes)
    return results | {"all": together(results)}


def together(results: dict[str, Evaluation]) -> Evaluation:
    """Several domains as one text."""
    tokens = sum(part.tokens for part in results.values())
    text_bytes = sum(part.text_bytes for part in results.values())
    nats = sum(part.nats_per_token * part.tokens for part in results.values()) / tokens
    return Evaluation(nats, bits_per_byte(nats, tokens, text_bytes), tokens, text_bytes)
