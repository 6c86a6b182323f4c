"""Recall of key-value pairs by kind of attention (chapter 08).

`python -m course_utils.records.recall [--devices cpu --jobs 2]` trains small models on
`data.recall`, seeds 0, 1, 2, one short recipe for all, and writes c08_recall.csv: the share of
right answers for 4 to 32 pairs. A variant changes which attention the two layers have, nothing
else. Minutes on two cores.

160 batches are few: full attention finds the task, linear layers have hardly begun. A low share
says that a variant did not learn it in this time, not that it could not hold the pairs.

`--variants latent` measures latent attention as well, and then sparse: with an indexer that chooses
8 tokens before it was trained, after it was trained for `INDEXER_STEPS` batches to imitate the
attention, the model staying as it is, and after both were trained on, the model on its own loss and
the indexer on its own. The record does not hold it: latent attention needs more batches than these
to find the task at all.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

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
TOLERANCE = {"accuracy": 0.08}
RECALL_CODE = (
    *("attention", "layers", "models/blocks.py", "models/config.py", "models/decoder.py"),
    "data/recall.py",
)
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
WIDTH, LAYERS, DISTANCE, BATCH = 64, 2, 8, 64
PAIRS = (4, 8, 16, 32)
TRAINED = (2, *PAIRS)  # two pairs show soonest that the key decides
STEPS, INDEXER_STEPS, SPARSE_STEPS = 160, 80, 40
RATE, INDEXER_RATE = 3e-3, 5e-3
DELTA = LinearAttentionConfig("gated_deltanet", 2, 2, 16, 16)
LATENT = MLAConfig(32, 16, 16, 16, index=IndexerConfig(2, 16, 8))


@dataclass(frozen=True)
class Variant:
    """A name, and what its config adds to full grouped-query attention."""

    name: str
    attention: dict = field(default_factory=dict)


VARIANTS = (
    Variant("full"),
    Variant("window", {"layer_types": (SLIDING,) * LAYERS, "sliding_window": 8}),
    Variant("linear", {"layer_types": (LINEAR,) * LAYERS, "linear": DELTA}),
    Variant("window + full", {"layer_types": (SLIDING, FULL), "sliding_window": 8}),
    Variant("linear + full", {"layer_types": (LINEAR, FULL), "linear": DELTA}),
    Variant("latent", {"mla": LATENT}),
)


RECORDED = ["full", "window", "linear", "linear + full"]


def task(pairs: int) -> RecallTask:
    """So many pairs of 32 keys and 8 values, 8 dots, and up to 16 queries."""
    return RecallTask(pairs, min(pairs, 16), DISTANCE, keys=32, values=8)


def model_config(variant: Variant) -> ModelConfig:
    """Two layers of width 64 and two heads."""
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
    """So many batches of 64 texts, with little weight decay."""
    return TrainingConfig(
        steps, BATCH, peak_learning_rate=rate, warmup_steps=20, weight_decay=0.01, seed=seed
    )


def texts(step: int) -> RecallTask:
    """The texts of a batch: every number of pairs in turn."""
    return task(TRAINED[step % len(TRAINED)])


def descend(
    weights: nn.Module | list[nn.Parameter],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    config: TrainingConfig,
    device: str,
) -> float:
    """Train `weights` on `loss(ids, targets)` for the config's steps; the last loss."""
    if isinstance(weights, nn.Module):
        optimizer, weights = make_optimizer(weights, config), list(weights.parameters())
    else:
        optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = recall_batch(texts(step), config.batch, generator)
        found = loss(*(x.to(device) for x in batch))
        optimizer.zero_grad(set_to_none=True)
        found.backward()
        nn.utils.clip_grad_norm_(weights, config.clip_norm)
        optimizer.step()
    return float(found.detach())


def run(variant: Variant, seed: int, device: str, steps: int = STEPS) -> list[dict]:
    """Train one model and measure it; latent attention also with its indexer, in stages."""
    torch.set_num_threads(1)
    model = DecoderLM(model_config(variant), seed=seed).to(device)
    config = training_config(steps, RATE, seed)
    set_index_topk(model, None)

    def answer_loss(ids_BT, targets_BT):
        return recall_loss(model(ids_BT), targets_BT)

    descend(model, answer_loss, config, device)
    rows = measure(model, variant.name, seed)
    if "mla" in variant.attention:
        rows += sparse_stages(model, answer_loss, seed, device)
    return rows


def sparse_stages(model: DecoderLM, answer_loss: Callable, seed: int, device: str) -> list[dict]:
    """Rows of the untrained indexer, of the trained one, and of both trained together."""
    k = model.config.mla.index.index_topk

    def imitate(ids_BT, targets_BT):
        return indexer_loss(model, ids_BT)

    def both(ids_BT, targets_BT):  # of separate weights, so that a sum trains each on its own
        return answer_loss(ids_BT, targets_BT) + indexer_loss(model, ids_BT)

    set_index_topk(model, k)
    rows = measure(model, "sparse, untrained indexer", seed)
    set_index_topk(model, None)
    first = training_config(INDEXER_STEPS, INDEXER_RATE, seed + 10)
    descend(indexer_parameters(model), imitate, first, device)
    set_index_topk(model, k)
    rows += measure(model, "sparse, indexer trained", seed)
    then = training_config(SPARSE_STEPS, RATE / 10, seed + 20)
    descend(model, both, then, device)
    return rows + measure(model, "sparse, both trained", seed)


@torch.no_grad()
def measure(model: DecoderLM, name: str, seed: int) -> list[dict]:
    """A row for each number of pairs: the share of right answers in 128 new texts."""
    config = model.config.to_dict()
    if name == "latent":  # nobody asks its indexer
        config["mla"] = config["mla"] | {"index": None}
    spec = course_spec(config)
    model.eval()
    rows = [
        {
            "variant": name,
            "seed": seed,
            "pairs": pairs,
            "accuracy": round(measure_recall(model, task(pairs), texts=128), 5),
            "parameters": spec.count().total,
            "cache_elements": cache_elements(spec, task(pairs).length),
            "steps": STEPS,
            "learning_rate": RATE,
            "code": code_hash(RECALL_CODE),
            "corpus": "generated",
        }
        for pairs in PAIRS
    ]
    model.train()
    return rows


def grid(names: list[str], devices: list[str]) -> list[tuple[Variant, int, str]]:
    """The named variants with every seed, devices in turn."""
    runs = [(variant, seed) for variant in VARIANTS if variant.name in names for seed in (0, 1, 2)]
    return [(*pair, devices[n % len(devices)]) for n, pair in enumerate(runs)]


def sample() -> dict:
    """The window with seed 0 and 32 pairs, trained on this machine: the cheapest model."""
    return run(VARIANTS[1], 0, "cpu")[-1]


def main() -> None:
    """Run the grid and write the record."""
    parser = argparse.ArgumentParser(description="Recall by kind of attention, recorded.")
    parser.add_argument("--devices", nargs="+", default=["cpu"], help="such as cuda:0")
    parser.add_argument("--variants", nargs="+", default=RECORDED)
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    chosen = grid(arguments.variants, arguments.devices)
    rows = [row for found in run_grid(run, chosen, arguments.jobs) for row in found]
    if arguments.variants == RECORDED:
        print(save_record(RECORD, rows))
    else:  # shown, and not mixed with the record
        for row in rows:
            print(row["variant"], row["seed"], row["pairs"], row["accuracy"])


if __name__ == "__main__":
    main()
