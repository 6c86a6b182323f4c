"""Training a checkpoint that ships: one recipe, the curve beside it, the lineage in the file.

Every checkpoint sees the same data for the same number of tokens with the same schedule, so what
differs between two of them is the model. A recipe module gives the model's config and what its
training adds.
"""

import argparse
from collections.abc import Callable, Sequence

import torch

from course_utils.data.batches import as_ids
from course_utils.data.corpus import load_corpus
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, ModelConfig, save_checkpoint
from course_utils.models.checkpoints import SHIPPED
from course_utils.records.recorded import CODE, EXPERT_CODE, code_hash, save_record
from course_utils.training import TrainingConfig, TrainingState, evaluate, train

EVALUATE_EVERY = 250


def recipe() -> TrainingConfig:
    """The training configuration of the shipped checkpoints: 49 million tokens."""
    return TrainingConfig(
        steps=3000,
        batch=32,
        length=512,
        peak_learning_rate=3e-3,
        warmup_steps=200,
        weight_decay=1.0,
        seed=0,
    )


def run(
    model: DecoderLM,
    config: TrainingConfig,
    after_step: Sequence[Callable] = (),
    extra_losses: Sequence[Callable] = (),
) -> list[dict]:
    """Train `model` where its weights are; returns the rows of its curve."""
    corpus, device = load_corpus(tuple(DOMAINS)), model.lm_head.weight.device
    state = TrainingState(model, config)
    stream, token_bytes, rows = as_ids(corpus.stream("train")), course_tokenizer().token_bytes(), []
    for until in range(EVALUATE_EVERY, config.steps + 1, EVALUATE_EVERY):
        train(
            model,
            stream,
            config,
            state=state,
            until=until,
            after_step=after_step,
            extra_losses=extra_losses,
            progress=False,
        )
        results = evaluate(model, corpus, token_bytes, windows=64, device=device)
        row = {
            "step": until,
            "tokens": until * config.batch * config.length,
            "train_nats": round(sum(state.losses[-50:]) / 50, 5),
            "bits_per_byte": round(results["all"].bits_per_byte, 5),
        }
        row |= {f"{name}_bits": round(results[name].bits_per_byte, 5) for name in DOMAINS}
        code = code_hash(EXPERT_CODE if model.config.moe else CODE)
        rows.append(row | {"code": code, "corpus": corpus.fingerprint()})
        print(row, flush=True)
    return rows


def checkpoint_command(
    name: str, record: str, description: str, config: ModelConfig, method: str, **training
) -> None:
    """The command line of a recipe: writes models/shipped/`name`.safetensors and its curve.

    `training` (after_step, extra_losses, and dispatch for the model on a GPU) is what the recipe
    adds; `method` says it in words for the lineage.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = parser.parse_args().device
    torch.backends.cuda.matmul.allow_tf32 = False
    on_gpu = training.pop("on_gpu", {})
    parts = on_gpu if device == "cuda" else {}
    model = DecoderLM(config, seed=recipe().seed, **parts).to(device)
    rows = run(model, recipe(), **training)
    lineage = {
        "recipe": f"course_utils.records.{name}",
        "base": None,
        "method": method,
        "data": f"training split of the course's corpus {rows[-1]['corpus']}",
        "tokens": recipe().tokens,
        "seed": recipe().seed,
        "validation_bits_per_byte": rows[-1]["bits_per_byte"],
    }
    SHIPPED.mkdir(exist_ok=True)
    save_checkpoint(model, SHIPPED / f"{name}.safetensors", lineage)
    print(save_record(record, rows))
