"""Perplexity by one fixed protocol, and calibration text that shares nothing with it.

The protocol, the same for every model and every format:

1. Text: the test split of the course's corpus, domain by domain. Documents stand in the corpus's
   order, each followed by the token <|endoftext|>.
2. Tokens: the model's own. Perplexities compare only models with one tokenizer (a model and its
   quantized forms have); bits per byte are given beside them.
3. Windows: the stream of a domain is cut into windows of 512 tokens that do not overlap (a stride
   of 512); `windows` of them are read, at equal distances from the first to the last. A window
   begins with nothing before it, and its tokens 2 to 512 are predicted.
4. Judged are all of these tokens but <|endoftext|>. Perplexity is exp of their mean loss in nats.

Calibration text comes from the training split. No document is in both splits, and no run of 64
tokens of the course's is: the corpus was cut so, and a test looks again in the model's own tokens.

Left out: overlapping windows, which give each token more context and cost a pass per stride. A
perplexity without text, tokens, length and stride beside it compares with nothing.
Source: the windows are those of Frantar et al. 2023, "GPTQ", section 4, with 512 for 2048 tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.data.corpus import load_corpus
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import END, Tokenizer, course_tokenizer


@dataclass(frozen=True)
class Protocol:
    """What is read: domains, windows of each, tokens in a window. The stride is the length."""

    domains: tuple[str, ...]
    windows: int = 16
    length: int = 512

    def __post_init__(self) -> None:
        if unknown := [name for name in self.domains if name not in DOMAINS]:
            raise ValueError(f"unknown domain {unknown[0]!r}: there are {', '.join(DOMAINS)}")
        if not self.domains or self.windows < 1 or self.length < 2:
            raise ValueError(
                f"{len(self.domains)} domains, {self.windows} windows of {self.length} tokens: at "
                "least one domain, one window and two tokens are needed"
            )


COURSE = Protocol(tuple(DOMAINS))  # the course's own models: all four domains
SMOLLM2 = Protocol(("english", "code"))  # it has read neither Chinese nor our arithmetic


@dataclass(frozen=True)
class Perplexity:
    """The result: over `tokens` judged tokens that stand for `text_bytes` bytes."""

    nats_per_token: float
    tokens: int
    text_bytes: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        return self.nats_per_token * self.tokens / (self.text_bytes * math.log(2))


def documents(domain: str, split: str) -> list[np.ndarray]:
    """The documents of a split as ids of the course's tokenizer, each with its end token.

    AssetMissing says what must be fetched.
    """
    ids = load_corpus(tuple(DOMAINS)).ids[split][domain]
    ends = np.flatnonzero(ids == course_tokenizer().end_id)
    return [document for document in np.split(ids, ends + 1) if len(document)]


def stream(tokenizer: Tokenizer, domain: str) -> Tensor:
    """(T,) ids of a domain's test split in the tokens of `tokenizer`, <|endoftext|> after each."""
    texts = [course_tokenizer().decode(document) for document in documents(domain, "test")]
    end, ids = end_of_text(tokenizer), []
    for encoding in tokenizer.inner.encode_batch(texts):
        ids += [*encoding.ids, end]
    return torch.tensor(ids)


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of <|endoftext|>, which parts documents (and is not every model's end of answer)."""
    return tokenizer.inner.token_to_id(END)


def evaluation_windows(tokenizer: Tokenizer, protocol: Protocol) -> Tensor:
    """(N, length) ids: the windows of the protocol, domain after domain. ValueError if too few."""
    chosen = []
    for domain in protocol.domains:
        windows_NT = _windows(stream(tokenizer, domain), protocol.length)
        if len(windows_NT) < protocol.windows:
            raise ValueError(
                f"{domain} has {len(windows_NT)} windows of {protocol.length} tokens, the protocol "
                f"asks for {protocol.windows}: ask for fewer or shorter ones"
            )
        places = np.linspace(0, len(windows_NT) - 1, protocol.windows).round().astype(int)
        chosen.append(windows_NT[torch.from_numpy(places)])
    return torch.cat(chosen)


def calibration_windows(
    tokenizer: Tokenizer, protocol: Protocol, samples: int = 32, seed: int = 0
) -> Tensor:
    """(samples, length) ids of the TRAINING split: as many windows of each domain, drawn by seed.

    Documents are drawn without repetition, and a long one gives `length` tokens from a random
    place. The domains' windows are mixed, so that any first few of them hold every domain.
    """
    generator, rounds = np.random.default_rng(seed), -(-samples // len(protocol.domains))
    drawn = [
        _drawn(tokenizer, domain, rounds * protocol.length, protocol.length, generator)
        for domain in protocol.domains
    ]
    windows_NDT = torch.stack([_windows(ids_T, protocol.length) for ids_T in drawn], dim=1)
    return windows_NDT.flatten(0, 1)[:samples]


def _drawn(
    tokenizer: Tokenizer, domain: str, tokens: int, longest: int, generator: np.random.Generator
) -> Tensor:
    """(tokens,) ids of documents of the training split in random order."""
    found, ids = documents(domain, "train"), []
    for number in generator.permutation(len(found)):
        text = tokenizer.encode(course_tokenizer().decode(found[number]))
        start = generator.integers(max(1, len(text) - longest + 1))
        ids += [*text[start : start + longest], end_of_text(tokenizer)]
        if len(ids) >= tokens:
            return torch.tensor(ids[:tokens])
    raise ValueError(f"{domain} has {len(ids)} tokens to calibrate on, {tokens} are asked for")


def _windows(ids_T: Tensor, length: int) -> Tensor:
    return ids_T[: len(ids_T) // length * length].view(-1, length)


@torch.no_grad()
def perplexity(
    model: Callable[[Tensor], Tensor],
    tokenizer: Tokenizer,
    protocol: Protocol,
    *,
    batch: int = 4,
    device: torch.device | str = "cpu",
) -> Perplexity:
    """Perplexity of `model` (ids (B, T) to logits (B, T, V)) by the protocol of this module."""
    windows_NT = evaluation_windows(tokenizer, protocol)
    end, token_bytes_V = end_of_text(tokenizer), torch.from_numpy(tokenizer.token_bytes())
    nats, tokens, text_bytes = 0.0, 0, 0
    for ids_BT in windows_NT.split(batch):
        targets_N = ids_BT[:, 1:].flatten()
        logits_NV = model(ids_BT.to(device))[:, :-1].flatten(0, 1)
        losses_N = F.cross_entropy(
            logits_NV.float(), targets_N.to(device), ignore_index=end, reduction="none"
        )
        nats += float(losses_N.double().sum())
        tokens += int((targets_N != end).sum())
        text_bytes += int(token_bytes_V[targets_N].sum())
    return Perplexity(nats / tokens, tokens, text_bytes)
