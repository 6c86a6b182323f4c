"""Recall of key-value pairs by kind of attention (chapter 08).

`python -m course_utils.records.recall [--devices cuda:0 --jobs 16] [--keep FOLDER]` trains models
of four layers on `data.recall`, seeds 0, 1, 2, one recipe for all, and writes c08_recall.csv: the
share of right answers for 4 to 64 pairs. A variant changes which attention the layers have, and for
linear layers the rate; hybrids have three layers of the cheap kind, then one of full attention.
Five minutes on one large GPU, hours on two cores; with `--keep`, finished runs lie in that folder,
and a grid that was cut goes on from them.

The rates are the better of 0.003 and 0.01 with seed 0, tried before: 0.01 with linear layers (where
0.02 did as well), 0.003 without.

Training begins with 2 and 4 pairs and takes in more until half of it is done: with many pairs at
once linear layers do not find the task. `accuracy_early` is measured after the first `EARLY`
batches, which have 2 or 4 pairs; that is what is run again on a laptop.

The model with latent attention is measured three times more, with an indexer that chooses 8 tokens:
before it was trained, after it was trained for `INDEXER_STEPS` batches to imitate the attention,
the model staying as it is, and after both were trained on, the model on its own loss and the
indexer on its own.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils.accounting.cache import cache_elements
from course_utils.accounting.ledger import course_spec
from course_utils.attention import (
    IndexerConfig,
    LinearAttentionConfig,
    MLAConfig,
    indexer_loss,
    indexer_parameters,
    set_index_topk,
)
from course_utils.data.recall import RecallTask, measure_recall, recall_batch, recall_loss
from course_utils.models import DecoderLM, ModelConfig
from course_utils.records.recorded import code_hash, save_record
from course_utils.records.small_models import run_grid
from course_utils.training import TrainingConfig, learning_rate
from course_utils.training.loop import make_optimizer

RECORD = "c08_recall"
KEYS = ("variant", "seed", "pairs")
TOLERANCE = {"accuracy_early": 0.08}
RECALL_CODE = (
    *("attention", "layers", "models/blocks.py", "models/config.py", "models/decoder.py"),
    "data/recall.py",
)
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
WIDTH, LAYERS, DISTANCE, BATCH = 64, 4, 16, 256
PAIRS = (4, 8, 16, 32, 64)
TRAINED = (2, *PAIRS)  # two pairs show soonest that the key decides
STEPS, EARLY, INDEXER_STEPS, SPARSE_STEPS = 2000, 250, 400, 200
RATE, LINEAR_RATE, INDEXER_RATE = 3e-3, 1e-2, 5e-3
TEXTS = 512
LATENT = MLAConfig(32, 16, 16, 16, index=IndexerConfig(2, 16, 8))


@dataclass(frozen=True)
class Variant:
    """A name, and what its config adds to full grouped-query attention."""

    name: str
    attention: dict = field(default_factory=dict)
    rate: float = RATE


def linear(name: str, width: int, last: str = LINEAR) -> Variant:
    """Three linear layers, with a state of width x width in each of two heads, and a last layer."""
    delta = LinearAttentionConfig("gated_deltanet", 2, 2, width, width)
    types = (*(LINEAR,) * (LAYERS - 1), last)
    return Variant(name, {"layer_types": types, "linear": delta}, LINEAR_RATE)


VARIANTS = (
    Variant("full"),
    Variant("window", {"layer_types": (SLIDING,) * LAYERS, "sliding_window": 8}),
    linear("linear 16 x 16", 16),
    linear("linear 8 x 8", 8),
    linear("linear 4 x 4", 4),
    Variant("window + full", {"layer_types": (SLIDING,) * 3 + (FULL,), "sliding_window": 8}),
    linear("linear 4 x 4 + full", 4, last=FULL),
    Variant("latent", {"mla": LATENT}),
)


def task(pairs: int) -> RecallTask:
    """So many pairs of 64 keys and 8 values, 16 dots, and up to 16 queries."""
    return RecallTask(pairs, min(pairs, 16), DISTANCE, keys=64, values=8)


def model_config(variant: Variant) -> ModelConfig:
    """Four layers of width 64 and two heads."""
    return ModelConfig(
        vocab_size=task(4).vocab_size,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        **variant.attention,
    )


def training_config(steps: int, rate: float, seed: int) -> TrainingConfig:
    """So many batches of 256 texts, with little weight decay."""
    return TrainingConfig(
        steps, BATCH, peak_learning_rate=rate, warmup_steps=20, weight_decay=0.01, seed=seed
    )


def growing(steps: int) -> Callable[[int], RecallTask]:
    """The texts of batch `step`: in turn each number of pairs that has been taken in by then."""

    def texts(step: int) -> RecallTask:
        share = min(1.0, 2 * step / steps)
        known = TRAINED[: 2 + int(share * (len(TRAINED) - 2))]
        return task(known[step % len(known)])

    return texts


def all_lengths(step: int) -> RecallTask:
    """The texts of batch `step`: every number of pairs in turn."""
    return task(TRAINED[step % len(TRAINED)])


class Descent:
    """Training of a model, or of some weights, on `loss(ids, targets)`, that can be interrupted."""

    def __init__(
        self,
        weights: nn.Module | list[nn.Parameter],
        loss: Callable[[Tensor, Tensor], Tensor],
        texts: Callable[[int], RecallTask],
        config: TrainingConfig,
    ):
        self.loss, self.texts, self.config, self.step = loss, texts, config, 0
        if isinstance(weights, nn.Module):
            self.optimizer = make_optimizer(weights, config)
            weights = list(weights.parameters())
        else:
            self.optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.0)
        self.weights, self.generator = weights, torch.Generator().manual_seed(config.seed)

    def go_to(self, until: int) -> None:
        """Take the batches up to number `until`."""
        device = self.weights[0].device
        for step in range(self.step, until):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(step, self.config)
            batch = recall_batch(self.texts(step), self.config.batch, self.generator)
            found = self.loss(*(x.to(device) for x in batch))
            self.optimizer.zero_grad(set_to_none=True)
            found.backward()
            nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
            self.optimizer.step()
        self.step = until


def begin(variant: Variant, seed: int, device: str, steps: int) -> tuple[DecoderLM, Descent]:
    """A new model that reads everything, and its training."""
    model = DecoderLM(model_config(variant), seed=seed).to(device)
    set_index_topk(model, None)
    config = training_config(steps, variant.rate, seed)
    return model, Descent(model, answers(model), growing(steps), config)


def answers(model: DecoderLM) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of the model's answers, of ids and targets."""
    return lambda ids_BT, targets_BT: recall_loss(model(ids_BT), targets_BT)


def run(variant: Variant, seed: int, device: str, steps: int = STEPS) -> list[dict]:
    """Train one model and measure it; latent attention also with its indexer, in stages."""
    torch.set_num_threads(1)
    model, descent = begin(variant, seed, device, steps)
    descent.go_to(min(EARLY, steps))
    early = accuracies(model)
    descent.go_to(steps)
    rows = measure(model, variant, variant.name, seed, early)
    if "mla" in variant.attention:
        rows += sparse_stages(model, variant, seed)
    return rows


def sparse_stages(model: DecoderLM, variant: Variant, seed: int) -> list[dict]:
    """Rows of the untrained indexer, of the trained one, and of both trained together."""
    k, answer_loss = model.config.mla.index.index_topk, answers(model)

    def imitate(ids_BT, targets_BT):
        return indexer_loss(model, ids_BT)

    def both(ids_BT, targets_BT):  # of separate weights, so that a sum trains each on its own
        return answer_loss(ids_BT, targets_BT) + indexer_loss(model, ids_BT)

    set_index_topk(model, k)
    rows = measure(model, variant, "sparse, untrained indexer", seed)
    set_index_topk(model, None)
    first = training_config(INDEXER_STEPS, INDEXER_RATE, seed + 10)
    Descent(indexer_parameters(model), imitate, all_lengths, first).go_to(INDEXER_STEPS)
    set_index_topk(model, k)
    rows += measure(model, variant, "sparse, indexer trained", seed)
    then = training_config(SPARSE_STEPS, variant.rate / 10, seed + 20)
    Descent(model, both, all_lengths, then).go_to(SPARSE_STEPS)
    return rows + measure(model, variant, "sparse, both trained", seed)


@torch.no_grad()
def accuracies(model: DecoderLM) -> dict[int, float]:
    """For each number of pairs, the share of right answers in 512 new texts."""
    model.eval()
    found = {n: round(measure_recall(model, task(n), texts=TEXTS), 5) for n in PAIRS}
    model.train()
    return found


def measure(
    model: DecoderLM, variant: Variant, name: str, seed: int, early: dict[int, float] | None = None
) -> list[dict]:
    """A row for each number of pairs; without `early`, that column stays empty."""
    config = model.config.to_dict()
    if name == "latent":  # nobody asks its indexer
        config["mla"] = config["mla"] | {"index": None}
    spec = course_spec(config)
    return [
        {
            "variant": name,
            "seed": seed,
            "pairs": pairs,
            "accuracy": accuracy,
            "accuracy_early": early[pairs] if early else "",
            "parameters": spec.count().total,
            "cache_elements": cache_elements(spec, task(pairs).length),
            "steps": STEPS,
            "texts": STEPS * BATCH,
            "learning_rate": variant.rate,
            "code": code_hash(RECALL_CODE),
            "corpus": "generated",
        }
        for pairs, accuracy in accuracies(model).items()
    ]


def grid(devices: list[str], keep: Path | None = None) -> list[tuple]:
    """Arguments of `kept`: for each seed every variant, the slowest first; devices in turn."""
    runs = [(variant, seed) for seed in (0, 1, 2) for variant in reversed(VARIANTS)]
    return [(*pair, devices[n % len(devices)], keep) for n, pair in enumerate(runs)]


def kept(variant: Variant, seed: int, device: str, keep: Path | None) -> list[dict]:
    """The rows of `run`; from the folder `keep`, if it has them from this code and length."""
    if keep is None:
        return run(variant, seed, device)
    path = keep / f"{variant.name} {seed}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    if not rows or (rows[0]["code"], rows[0]["steps"]) != (code_hash(RECALL_CODE), STEPS):
        rows = run(variant, seed, device)
        keep.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    return rows


def sample() -> dict:
    """The early measurement of full attention with seed 0 and 4 pairs, made on this machine."""
    model, descent = begin(VARIANTS[0], 0, "cpu", STEPS)
    descent.go_to(EARLY)
    return measure(model, VARIANTS[0], VARIANTS[0].name, 0, accuracies(model))[0]


def main() -> None:
    """Run the grid and write the record."""
    parser = argparse.ArgumentParser(description="Recall by kind of attention, recorded.")
    parser.add_argument("--devices", nargs="+", default=["cpu"], help="such as cuda:0 cuda:1")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    parser.add_argument("--keep", type=Path, help="a folder for finished runs, to go on from")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    found = run_grid(kept, grid(arguments.devices, arguments.keep), arguments.jobs)
    order = [variant.name for variant in VARIANTS]
    rows = [row for rows in found for row in rows]
    order += [row["variant"] for row in rows if row["variant"] not in order]  # the sparse stages
    rows.sort(key=lambda row: (order.index(row["variant"]), row["seed"]))
    print(save_record(RECORD, rows))


if __name__ == "__main__":
    main()
