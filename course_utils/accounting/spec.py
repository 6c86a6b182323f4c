"""A model as it is counted: layers, tables, and what stands beside them, read from `config.json`.

    spec = ModelSpec.from_hf_config("config.json")      # or a dict
    spec.count()                                        # parameters, and those one token uses
    spec.by_part()["routed experts"]

Nothing is guessed: a key that changes the count and is missing raises ValueError, a model family
that is not known is refused, and what a config asks for beyond this room is in `not_modelled`.

Left out: vision towers, and everything that has no weights (RoPE, activation functions).
Source of every shape: `transformers` 5.23 where it has the family, else the publisher's own code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from os import PathLike
from typing import Any, Protocol

from course_utils.accounting.attention import Attention
from course_utils.accounting.tensors import (
    EMBEDDING,
    HEAD,
    MTP,
    NORMS,
    PARTS,
    Count,
    Weight,
    matrix,
    vector,
)


class FeedForward(Protocol):
    """What every feed-forward part answers."""

    label: str

    def weights(self, hidden_size: int) -> list[Weight]:
        """The weights of one layer."""
        ...


@dataclass(frozen=True)
class Layer:
    """Attention, a feed-forward part, a norm before each, and whatever else the layer stores."""

    attention: Attention
    feed_forward: FeedForward
    extra: tuple[Weight, ...] = ()

    @property
    def label(self) -> str:
        """Such as "GQA | MoE"."""
        return f"{self.attention.label} | {self.feed_forward.label}"

    def weights(self, hidden_size: int) -> list[Weight]:
        """All weights of the layer."""
        return [
            vector("input_layernorm", NORMS, hidden_size),
            *self.attention.weights(hidden_size),
            vector("post_attention_layernorm", NORMS, hidden_size),
            *self.feed_forward.weights(hidden_size),
            *self.extra,
        ]


@dataclass(frozen=True)
class MultiTokenPrediction:
    """`modules` extra layers that predict later tokens, each with two norms and a projection.

    stores_tables: the checkpoint holds the embedding and the head once more for each module.
    """

    modules: int
    layer: Layer
    stores_tables: bool = True

    def weights(self, hidden_size: int) -> list[Weight]:
        """The weights of one module, its copies of the tables left out."""
        D = hidden_size
        own = [vector("enorm", MTP, D), vector("hnorm", MTP, D), vector("norm", MTP, D)]
        return [*own, matrix("eh_proj", MTP, 2 * D, D), *self.layer.weights(D)]


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only model. Build it with `from_hf_config`.

    fp8_block is (128, 128) when the published weights are FP8 with a scale for each such block.
    """

    model_type: str
    hidden_size: int
    vocab_size: int
    tie_word_embeddings: bool
    layers: tuple[Layer, ...]
    mtp: MultiTokenPrediction | None = None
    extra: tuple[Weight, ...] = ()
    fp8_block: tuple[int, int] | None = None
    not_modelled: tuple[str, ...] = ()

    @classmethod
    def from_hf_config(cls, config: "Mapping[str, Any] | str | PathLike[str]") -> "ModelSpec":
        """Read a `config.json`, given as a dict or as a path.

        Raises ValueError that names the key and its value when the config cannot be read.
        """
        from course_utils.accounting.families import read_config

        return read_config(config)

    @cached_property
    def groups(self) -> tuple[tuple[Layer, int, tuple[Weight, ...]], ...]:
        """Each kind of layer once: the layer, how many there are of it, its weights."""
        found: dict[int, tuple[Layer, int]] = {}
        for layer in self.layers:
            found[id(layer)] = (layer, found.get(id(layer), (layer, 0))[1] + 1)
        D = self.hidden_size
        return tuple((layer, times, tuple(layer.weights(D))) for layer, times in found.values())

    @cached_property
    def tables(self) -> tuple[Weight, ...]:
        """Embedding, final norm, head (a tied head is stored once), and what stands beside them."""
        V, D = self.vocab_size, self.hidden_size
        found = [Weight("embed_tokens", EMBEDDING, (V, D), product=False), vector("norm", NORMS, D)]
        if not self.tie_word_embeddings:
            found.append(matrix("lm_head", HEAD, D, V))
        return (*found, *self.extra)

    @cached_property
    def mtp_weights(self) -> tuple[tuple[Weight, int], ...]:
        """The weights of the MTP modules with their number; empty when there are none."""
        if self.mtp is None:
            return ()
        return tuple((weight, self.mtp.modules) for weight in self.mtp.weights(self.hidden_size))

    def weights(self) -> Iterator[tuple[Weight, int]]:
        """Every weight of the main model, with the number of layers that have it."""
        for weight in self.tables:
            yield weight, 1
        for _, times, weights in self.groups:
            for weight in weights:
                yield weight, times

    def by_part(self) -> dict[str, Count]:
        """Parameters by part, in a fixed order; the MTP module last, parts without any left out."""
        total = dict.fromkeys(PARTS, 0)
        activated = dict.fromkeys(PARTS, 0)
        for weight, times in self.weights():
            size = prod(weight.shape) * times
            total[weight.part] += size * weight.copies
            activated[weight.part] += size * weight.active
        found = {part: Count(total[part], activated[part]) for part in PARTS if total[part]}
        return found | ({MTP: self.mtp_count()} if self.mtp else {})

    def by_name(self, part: str) -> dict[str, Count]:
        """Parameters of one part by the name of the weight: the projections of attention."""
        found: dict[str, Count] = {}
        for weight, times in self.weights():
            if weight.part == part:
                own = Count(weight.total * times, weight.activated * times)
                found[weight.name] = found.get(weight.name, Count()) + own
        return found

    def by_layer_type(self) -> dict[str, tuple[int, Count]]:
        """For each kind of layer: how many there are, and the parameters of one."""
        found: dict[str, tuple[int, Count]] = {}
        for layer, times, weights in self.groups:
            own = sum((Count(w.total, w.activated) for w in weights), Count())
            number = found.get(layer.label, (0, own))[0]
            found[layer.label] = (number + times, own)
        return found

    def count(self) -> Count:
        """All parameters of the main model, a tied table once, MTP left out."""
        return sum((c for part, c in self.by_part().items() if part != MTP), Count())

    def mtp_count(self) -> Count:
        """Parameters of the MTP modules, without the tables that they share with the model."""
        return sum((Count(w.total * n, w.activated * n) for w, n in self.mtp_weights), Count())

    @property
    def table(self) -> int:
        """Parameters of the embedding, which is also the size of the head."""
        return self.vocab_size * self.hidden_size
