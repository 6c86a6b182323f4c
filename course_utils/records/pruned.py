"""The shipped pruned checkpoint: the dense model cut to half of its parameters, and healed.

`python -m course_utils.records.pruned --device cuda --steps 1500` made what ships, in minutes: it
cuts heads and channels as the cut "width" of `records.pruning` does, and heals by distillation with
the uncut model as teacher, on batches of 16 x 256 tokens of the training split. Writes
models/shipped/pruned.safetensors (bfloat16, 3.9 MB); its header says on how many tokens.

Without `--steps` it heals on 12 batches, a minute of one core.
"""

import argparse

import torch

from course_utils.data.batches import as_ids
from course_utils.models import save_checkpoint
from course_utils.models.checkpoints import SHIPPED
from course_utils.pruning.heal import heal
from course_utils.records.pruning import base, bits, prepared_corpus, pruned
from course_utils.training import TrainingConfig

CUT = "width"


def recipe(steps: int = 12) -> TrainingConfig:
    """The training configuration of the healing: 4,096 tokens a step."""
    return TrainingConfig(
        steps, batch=16, peak_learning_rate=1.5e-3, warmup_steps=max(1, steps // 20)
    )


def run(device: str, config: TrainingConfig) -> dict:
    """Cut, heal, save; returns the lineage."""
    model, whole = pruned(CUT, device), base(CUT, device)
    before = bits(model, "test", device)["all"]
    corpus = prepared_corpus()
    heal(model, whole, as_ids(corpus.stream("train")), config, progress=False)
    lineage = {
        "recipe": "course_utils.records.pruned",
        "base": "dense",
        "method": "3 of 6 heads and 168 of 512 channels kept by what they add to the stream; "
        "healed by forward KL with the base as teacher",
        "data": f"training split of the course's corpus {corpus.fingerprint()}",
        "tokens": config.tokens,
        "seed": config.seed,
        "test_bits_per_byte_before_healing": before,
        "test_bits_per_byte": bits(model, "test", device)["all"],
        "validation_bits_per_byte": bits(model, "validation", device)["all"],
    }
    save_checkpoint(model, SHIPPED / "pruned.safetensors", lineage)
    return lineage


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=recipe().steps)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    print(run(given.device, recipe(given.steps)))
