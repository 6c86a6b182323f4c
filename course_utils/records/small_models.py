"""Small models for recorded comparisons: one recipe, so that rows of different records compare.

Width 128, four layers, the size called medium in chapter 02, trained on 1,500 batches of 8 x 256
tokens, less than one pass over the corpus. A variant changes the feed-forward part and how its
router is balanced, nothing else. The grids of chapters 03 to 05 are lists of variants.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.accounting.flops import training_flops_per_token
from course_utils.accounting.ledger import course_spec
from course_utils.data.batches import as_ids
from course_utils.data.corpus import Corpus, load_corpus
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, ModelConfig
from course_utils.moe import (
    MoEConfig,
    experts_dense,
    load_entropy,
    max_violation,
)
from course_utils.records.recorded import EXPERT_CODE, code_hash, save_record
from course_utils.training import (
    AuxiliaryLoss,
    BiasUpdate,
    TrainingConfig,
    evaluate,
    layer_counts,
    train,
)

WIDTH, LAYERS = 128, 4
EVALUATION_WINDOWS = 64  # per domain, of 256 tokens
SWEEP = (1e-3, 2e-3, 4e-3)
BALANCE = ("max_violation_batch", "max_violation", "load_entropy")  # empty for a dense model


@dataclass(frozen=True)
class Variant:
    """What a row tries: a feed-forward part, and how its router is kept in balance."""

    name: str
    moe: MoEConfig | None = None
    intermediate_size: int = 3 * WIDTH
    auxiliary: float = 0.0  # coefficient of the auxiliary loss
    bias_speed: float = 0.0  # u of the loss-free update
    rate: float = 2e-3  # the peak learning rate: the best of SWEEP with seed 0


def model_config(variant: Variant) -> ModelConfig:
    """The model of a variant; an expert bias is there if it is going to move."""
    moe = variant.moe and replace(variant.moe, use_routing_bias=variant.bias_speed > 0)
    return ModelConfig(
        vocab_size=4096,
        hidden_size=WIDTH,
        intermediate_size=variant.intermediate_size,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 32,
        num_key_value_heads=WIDTH // 64,
        head_dim=32,
        max_position_embeddings=512,
        moe=moe,
    )


def training_config(seed: int, rate: float) -> TrainingConfig:
    """1,500 batches of 8 windows of 256 tokens."""
    return TrainingConfig(1500, peak_learning_rate=rate, warmup_steps=50, seed=seed)


@dataclass
class LastLoads:
    """After each of a run's last `window` steps, keeps the tokens per layer and expert."""

    steps: int
    window: int = 100
    seen: int = 0
    counts: list[Tensor] = field(default_factory=list)

    def __call__(self, model: nn.Module) -> None:
        self.seen += 1
        if self.seen > self.steps - self.window:
            self.counts.append(layer_counts(model))

    def summary(self) -> dict[str, float]:
        """Means over the layers: MaxVio of a batch, MaxVio and entropy of all batches together."""
        counts_SLE = torch.stack(self.counts).cpu()
        batches = [max_violation(counts_E) for counts_E in counts_SLE.flatten(0, 1)]
        together = counts_SLE.sum(0)
        return {
            "max_violation_batch": round(float(np.mean(batches)), 5),
            "max_violation": round(float(np.mean([max_violation(c) for c in together])), 5),
            "load_entropy": round(float(np.mean([load_entropy(c) for c in together])), 5),
        }


def run(variant: Variant, seed: int, device: str) -> dict:
    """Train one model and return its row. Balance is that of the last 100 training batches."""
    corpus, config = prepared_corpus(), training_config(seed, variant.rate)
    # All experts on all tokens gives the same numbers, and on a GPU small ones need no counting.
    dispatch = {"dispatch": experts_dense} if device == "cuda" and variant.moe else {}
    model = DecoderLM(model_config(variant), seed=seed, **dispatch).to(device)
    loads = LastLoads(config.steps)
    hooks = [BiasUpdate(variant.bias_speed)] if variant.bias_speed else []
    state = train(
        model,
        as_ids(corpus.stream("train")),
        config,
        extra_losses=[AuxiliaryLoss(variant.auxiliary)] if variant.auxiliary else [],
        after_step=[*hooks, loads] if variant.moe else [],
        progress=False,
    )
    spec = course_spec(model.config.to_dict())
    count = spec.count()
    results = evaluate(
        model, corpus, course_tokenizer().token_bytes(), windows=EVALUATION_WINDOWS, device=device
    )
    row = {
        "variant": variant.name,
        "seed": seed,
        "parameters": count.total,
        "active_parameters": count.activated,
        "tokens": config.tokens,
        "flops": int(config.tokens * training_flops_per_token(spec, config.length)),
        "learning_rate": variant.rate,
        "loss_first_step": round(state.losses[0], 5),
        "bits_per_byte": round(results["all"].bits_per_byte, 5),
    }
    row |= {f"{name}_bits": round(results[name].bits_per_byte, 5) for name in DOMAINS}
    row |= loads.summary() if variant.moe else dict.fromkeys(BALANCE, "")
    return row | {"code": code_hash(EXPERT_CODE), "corpus": corpus.fingerprint()}


@cache
def prepared_corpus() -> Corpus:
    """The whole corpus, loaded once in each process."""
    return load_corpus(tuple(DOMAINS))


def run_grid(function: Callable[..., dict], grid: Sequence[tuple], jobs: int) -> list[dict]:
    """`function(*arguments)` for each entry of the grid, `jobs` at a time, in the grid's order.

    Small models leave a GPU idle between kernels, so several processes share it.
    """
    if jobs == 1:
        return [function(*arguments) for arguments in grid]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        return list(pool.map(function, *zip(*grid, strict=True)))


def grid_command(description: str, record: str, variants: Sequence[Variant]) -> None:
    """The command line of a grid's module: all rows to the record, or `--sweep` learning rates."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    parser.add_argument("--sweep", action="store_true", help="try other learning rates instead")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    if arguments.sweep:
        grid = [(replace(v, rate=rate), 0, arguments.device) for v in variants for rate in SWEEP]
        for row in run_grid(run, grid, arguments.jobs):
            print(row["variant"], row["learning_rate"], row["bits_per_byte"], row["max_violation"])
    else:
        grid = [(v, seed, arguments.device) for v in variants for seed in (0, 1, 2)]
        print(save_record(record, run_grid(run, grid, arguments.jobs)))
