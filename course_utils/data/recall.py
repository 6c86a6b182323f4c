"""Key-value retrieval: how much of a text can a model look up again?

    k7 v3   k2 v9   k5 v1   . . . .   k5 v1   k7 v3
    pairs, in random order  distance  queries, each followed by its answer

Every text has its own pairs, so that nothing can be learnt by heart: the answer stands in the text
and nowhere else. The number of pairs asks for room, the distance for reach. Only answers count;
they follow their query as in ordinary text, so a model is trained to predict the next token there.
With more queries than pairs every pair is asked once, in random order, before any is asked again:
such texts are easier, as later answers stand nearer, and good to begin training with.

Left out: keys of several tokens, and pairs that change. Source: Arora et al. 2023,
"Zoology" (arXiv 2312.04927), section 4, multi-query associative recall.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOT_ASKED = -100  # what cross-entropy ignores


@dataclass(frozen=True)
class RecallTask:
    """`pairs` of different keys out of `keys`, with any of `values`; then `distance` dots, then
    `queries` of the pairs.

    Token ids: keys from 0, then values, then the dot.
    """

    pairs: int
    queries: int
    distance: int = 0
    keys: int = 64
    values: int = 64

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

    @property
    def vocab_size(self) -> int:
        """Keys, values and the dot."""
        return self.keys + self.values + 1

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return 2 * self.pairs + self.distance + 2 * self.queries


def recall_batch(task: RecallTask, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Texts (B, T) and targets (B, T): at every query its value, everywhere else NOT_ASKED.

    The generator is of the CPU: the same seed gives the same texts on every device.
    """
    shuffled_BK = torch.rand(batch, task.keys, generator=generator).argsort(dim=-1)
    keys_BN = shuffled_BK[:, : task.pairs]
    values_BN = torch.randint(task.values, (batch, task.pairs), generator=generator) + task.keys
    pairs_BN2 = torch.stack([keys_BN, values_BN], dim=-1)
    rounds = -(-task.queries // task.pairs)
    order_BRN = torch.rand(batch, rounds, task.pairs, generator=generator).argsort(dim=-1)
    asked_BQ1 = order_BRN.flatten(1)[:, : task.queries, None]
    asked_BQ2 = pairs_BN2.gather(1, asked_BQ1.expand(-1, -1, 2))
    dots_BS = torch.full((batch, task.distance), task.keys + task.values)
    ids_BT = torch.cat([pairs_BN2.flatten(1), dots_BS, asked_BQ2.flatten(1)], dim=1)
    targets_BT = torch.full_like(ids_BT, NOT_ASKED)
    targets_BT[:, 2 * task.pairs + task.distance :: 2] = asked_BQ2[..., 1]
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
