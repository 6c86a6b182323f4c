"""Drafts: cheap guesses at the next tokens, behind one interface.

Speculative decoding asks its draft two things: `begin`, before a text starts, and `propose`, once a
round. `propose` is told the whole text so far and the target's token vectors that came since the
last call, so that each draft takes what it needs:

- `NgramDraft`: where the last tokens occurred before in the text, it continues as there (prompt
  lookup). It costs nothing and helps on text that repeats itself.
- `ModelDraft`: a smaller model with the same tokenizer, with its own cache.
- `MTPDraft`: an MTP module, which continues from the target's own vectors.

A draft may be wrong at no cost but time, and must say truly from which distribution it drew. One
draft object serves one text at a time. Left out: batches, and trees of proposals.

Source: Leviathan et al. 2023, section 2.1 (models); Saxena 2023, "Prompt Lookup Decoding"
(n-grams); DeepSeek-V3 technical report, section 2.2 (MTP as a draft).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.attention import KVCache
from course_utils.generation.mtp import MTPModule
from course_utils.models.decoder import DecoderLM

Choose = Callable[[Tensor], tuple[int, Tensor]]


@dataclass(frozen=True)
class Proposal:
    """Draft tokens ids (K,), and the distributions q (K, V) that they were drawn from."""

    ids_K: Tensor
    q_KV: Tensor

    @classmethod
    def of(cls, ids: list[int], rows: list[Tensor], vocabulary: int) -> "Proposal":
        """From one id and one row (V,) a place; an empty proposal has shapes (0,) and (0, V)."""
        q_KV = torch.stack(rows) if rows else torch.zeros(0, vocabulary)
        return cls(torch.tensor(ids, dtype=torch.long), q_KV)


class Draft(Protocol):
    """What speculative decoding needs of a draft."""

    def begin(self, capacity: int) -> None:
        """Forget the last text; the next has at most `capacity` tokens, drafts included."""

    def propose(self, text_T: Tensor, hidden_ND: Tensor, k: int, choose: Choose) -> Proposal:
        """At most k tokens after text (T,). `choose(logits_V)` gives an id and its distribution.

        hidden (N, D): the target's vectors of the N tokens before the newest that it computed since
        the last call.
        """


class NgramDraft:
    """What followed the latest earlier occurrence of the text's last `longest` tokens, or of fewer.

    It gives its token probability 1. Proposes nothing when the last token is new to the text.
    """

    def __init__(self, vocabulary: int, longest: int = 3):
        self.vocabulary, self.longest = vocabulary, longest

    def begin(self, capacity: int) -> None:
        pass

    def propose(self, text_T: Tensor, hidden_ND: Tensor, k: int, choose: Choose) -> Proposal:
        ids = continuation(text_T.tolist(), self.longest)[:k]
        rows = F.one_hot(torch.tensor(ids, dtype=torch.long), self.vocabulary).float()
        return Proposal.of(ids, list(rows), self.vocabulary)


def continuation(text: list[int], longest: int) -> list[int]:
    """All that followed the latest earlier occurrence of the longest repeated end of the text."""
    for size in range(min(longest, len(text) - 1), 0, -1):
        end = text[-size:]
        for start in range(len(text) - size - 1, -1, -1):
            if text[start : start + size] == end:
                return text[start + size :]
    return []


class ModelDraft:
    """A smaller model of the same vocabulary, one pass for each proposed token."""

    def __init__(self, model: DecoderLM):
        self.model = model

    def begin(self, capacity: int) -> None:
        self.cache, self.seen = self.model.new_cache(capacity=capacity), []

    def propose(self, text_T: Tensor, hidden_ND: Tensor, k: int, choose: Choose) -> Proposal:
        text = text_T.tolist()
        kept = common_length(self.seen, text[:-1])
        self.cache.truncate(kept)
        new, ids, rows = text[kept:], [], []
        for _ in range(k):
            logits_V = self.model(torch.tensor([new]), self.cache, last_only=True)[0, -1]
            token, q_V = choose(logits_V)
            ids.append(token)
            rows.append(q_V)
            new = [token]
        self.seen = (text + ids)[: self.cache.length]
        return Proposal.of(ids, rows, self.model.config.vocab_size)


def common_length(one: list[int], other: list[int]) -> int:
    """How many ids two lists share from their beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


class MTPDraft:
    """An MTP module on the target's own vectors; from the second token on it chains its own.

    Its cache holds one entry for each pair (vector of a token, next token). Entries made from its
    own vectors are forgotten in the next call and made again from the target's.
    """

    def __init__(self, trunk: DecoderLM, mtp: MTPModule):
        self.trunk, self.mtp = trunk, mtp

    def begin(self, capacity: int) -> None:
        self.cache: KVCache = self.mtp.new_cache(capacity=capacity)
        self.pairs = 0  # how many of the cache's entries come from the target's vectors

    def propose(self, text_T: Tensor, hidden_ND: Tensor, k: int, choose: Choose) -> Proposal:
        ids, rows, vectors_TD = [], [], hidden_ND
        self.cache.truncate(self.pairs)
        for step in range(k):
            own_BTD = self.mtp(
                self.trunk, vectors_TD[None], text_T[None, -len(vectors_TD) - 1 :], self.cache
            )
            if step == 0:
                self.pairs = self.cache.length
            vectors_TD = own_BTD[0, -1:]
            token, q_V = choose(self.mtp.logits(self.trunk, vectors_TD)[-1])
            ids.append(token)
            rows.append(q_V)
            text_T = torch.cat([text_T, text_T.new_tensor([token])])
        return Proposal.of(ids, rows, self.trunk.config.vocab_size)
