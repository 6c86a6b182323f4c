"""Key-value retrieval: how much of a text can a model look up again?

    k7=v3   k2=v9   k5=v1   . . . .   k5   k7
    pairs, in random order  distance  queries; at each, the value of its pair is to be predicted

Every text has its own pairs, so that nothing can be learnt by heart: the answer stands in the text
and nowhere else. The number of pairs asks for room, the distance for reach. Only answers count, and
they are not shown, so that no query helps another.

A pair is one token. Written as two, "k7 v3", it would ask for two steps, of which the first is that
every value learns what stands before it: linear layers get that from their convolution, attention
finds it suddenly and late, and the comparison would be one of starting points.

Left out: pairs of several tokens, and pairs that change. Source: Arora et al. 2023, "Zoology"
(arXiv 2312.04927), section 4, multi-query associative recall, which has two tokens a pair.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOT_ASKED = -100  # what cross-entropy ignores


@dataclass(frozen=True)
class RecallTask:
    """`pairs` of different keys out of `keys`, with any of `values`; then `distance` dots, then
    `queries` of the pairs, each asked once.

    Token ids: key k with value v is k * values + v; then come the keys, the values, and the dot.
    """

    pairs: int
    queries: int
    distance: int = 0
    keys: int = 64
    values: int = 8

    def __post_init__(self) -> None:
        for name in ("pairs", "queries", "keys", "values"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.distance < 0:
            raise ValueError(f"distance is {self.distance}: it must be 0 or more")
        if self.pairs > self.keys:
            raise ValueError(
                f"{self.pairs} pairs need as many different keys: there are {self.keys}"
            )
        if self.queries > self.pairs:
            raise ValueError(
                f"{self.queries} queries of {self.pairs} pairs: each pair is asked for once"
            )

    @property
    def first_key(self) -> int:
        """The id of key 0 as a query."""
        return self.keys * self.values

    @property
    def first_value(self) -> int:
        """The id of value 0 as an answer."""
        return self.first_key + self.keys

    @property
    def vocab_size(self) -> int:
        """Pairs, keys, values and the dot."""
        return self.first_value + self.values + 1

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return self.pairs + self.distance + self.queries


def recall_batch(task: RecallTask, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Texts (B, T) and targets (B, T): at every query its value, everywhere else NOT_ASKED.

    The generator is of the CPU: the same seed gives the same texts on every device.
    """
    shuffled_BK = torch.rand(batch, task.keys, generator=generator).argsort(dim=-1)
    keys_BN = shuffled_BK[:, : task.pairs]
    values_BN = torch.randint(task.values, (batch, task.pairs), generator=generator)
    order_BN = torch.rand(batch, task.pairs, generator=generator).argsort(dim=-1)
    asked_BQ = order_BN[:, : task.queries]
    dots_BS = torch.full((batch, task.distance), task.vocab_size - 1)
    queries_BQ = task.first_key + keys_BN.gather(1, asked_BQ)
    ids_BT = torch.cat([keys_BN * task.values + values_BN, dots_BS, queries_BQ], dim=1)
    targets_BT = torch.full_like(ids_BT, NOT_ASKED)
    targets_BT[:, task.pairs + task.distance :] = task.first_value + values_BN.gather(1, asked_BQ)
    return ids_BT, targets_BT


def recall_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross-entropy in nats, averaged over the answers."""
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=NOT_ASKED)


def recall_accuracy(logits_BTV: Tensor, targets_BT: Tensor) -> float:
    """The share of answers whose most likely token is right."""
    asked_BT = targets_BT != NOT_ASKED
    return (logits_BTV.argmax(dim=-1) == targets_BT)[asked_BT].float().mean().item()


@torch.no_grad()
def measure_recall(model: nn.Module, task: RecallTask, texts: int = 256, seed: int = 1000) -> float:
    """`recall_accuracy` of a model on new texts, 64 at a time."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    found = []
    for start in range(0, texts, 64):
        batch = recall_batch(task, min(64, texts - start), generator)
        ids_BT, targets_BT = (x.to(device) for x in batch)
        found.append(recall_accuracy(model(ids_BT), targets_BT) * len(ids_BT))
    return sum(found) / texts
