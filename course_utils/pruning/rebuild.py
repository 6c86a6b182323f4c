"""A smaller model from weights that were cut: a new config, an ordinary `DecoderLM`, copies alone.

Copies, because a slice of a tensor keeps all of the tensor's memory alive.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_utils.models import DecoderLM, ModelConfig
from course_utils.models.checkpoints import install


def rebuilt(
    model: DecoderLM, config: ModelConfig, weights: dict[str, Tensor], **parts
) -> DecoderLM:
    """A DecoderLM of this config with these weights; `parts` (norm, attend, ...) go to it."""
    with torch.device("meta"):
        smaller = DecoderLM(config, **parts)
    own = {name: weight.detach().clone() for name, weight in weights.items()}
    install(smaller, own, "the pruned model")
    return smaller.train(model.training)


def check_lists(what: str, kept: Sequence[Sequence[int]], lists: int, among: int) -> None:
    """Raise ValueError unless there are so many lists, alike in length, of places below `among`."""
    if len(kept) != lists or len({len(own) for own in kept}) != 1 or not len(kept[0]):
        raise ValueError(
            f"{len(kept)} lists of {what} with {sorted({len(own) for own in kept})} entries: "
            f"expected {lists}, of one length, not empty"
        )
    for own in kept:
        if len(set(own)) != len(own) or not all(0 <= place < among for place in own):
            raise ValueError(f"{what} {list(own)}: each once, from 0 to {among - 1}")
