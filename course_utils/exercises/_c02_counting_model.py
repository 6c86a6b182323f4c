"""A stand-in for a language model that counts the tokens that it processes (chapter 02)."""

import torch
from torch import Tensor

from course_utils.models import ModelConfig


class CountingModel:
    """A model of no weights that counts the tokens that it processes, in `work`.

    The next id depends on all ids seen and on their positions, so that a wrong cache shows.
    """

    def __init__(self, vocabulary: int, salt: int):
        self.vocabulary, self.salt, self.work = vocabulary, salt, 0
        self.config = ModelConfig(vocabulary, 8, 8, 1, 1, 1, 8, max_position_embeddings=1000)

    def eval(self) -> "CountingModel":
        return self

    def new_cache(self, batch: int = 1, capacity: int | None = None) -> "CountingCache":
        return CountingCache(capacity or 1000, batch)

    def __call__(
        self,
        ids_BT: Tensor,
        cache: "CountingCache | None" = None,
        attention_mask: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        if ids_BT.dim() != 2 or 0 in ids_BT.shape:
            raise ValueError(f"ids have shape {tuple(ids_BT.shape)}: expected (batch, tokens)")
        if cache is not None and cache.batch != ids_BT.shape[0]:
            raise ValueError(
                f"the cache was made for {cache.batch} sequences, the ids are {ids_BT.shape[0]}: "
                "new_cache(capacity=n) makes room for n tokens"
            )
        seen = cache.seen if cache is not None else []
        logits = torch.zeros(*ids_BT.shape, self.vocabulary)
        for place, number in enumerate(ids_BT[0].tolist()):
            seen.append(number)
            self.work += 1
            mixed = sum((i + 1) * (value + self.salt) for i, value in enumerate(seen))
            logits[0, place, mixed % self.vocabulary] = 1.0
        if cache is not None and len(seen) > cache.capacity:
            raise ValueError(f"{len(seen)} tokens do not fit a cache of {cache.capacity}")
        return logits[:, -1:] if last_only else logits


class CountingCache:
    """The ids that a CountingModel has seen."""

    def __init__(self, capacity: int, batch: int = 1):
        self.capacity, self.batch, self.seen = capacity, batch, []

    @property
    def length(self) -> int:
        return len(self.seen)
