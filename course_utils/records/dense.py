"""The shipped dense checkpoint: how it was trained, and its learning curve (chapter 02).

`python -m course_utils.records.dense [--device cuda]` trains 3.9 million parameters on about
12 passes over the training split, keeps the weights in models/shipped/dense.safetensors (bfloat16)
and the curve of the validation split in c02_dense.csv. Minutes on a GPU, most of a day on two
cores.
"""

import argparse

import torch

from course_utils.data.batches import as_ids
from course_utils.data.corpus import load_corpus
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, ModelConfig, save_checkpoint
from course_utils.models.checkpoints import SHIPPED
from course_utils.records.recorded import code_hash, save_record
from course_utils.training import TrainingConfig, TrainingState, evaluate, train

RECORD = "c02_dense"
EVALUATE_EVERY = 250


def dense_config() -> ModelConfig:
    """3.9 million parameters: narrow and deep, six query heads on two key-value heads."""
    return ModelConfig(
        vocab_size=4096,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
    )


def recipe() -> TrainingConfig:
    """The training configuration of the shipped checkpoint."""
    return TrainingConfig(
        steps=3000,
        batch=32,
        length=512,
        peak_learning_rate=3e-3,
        warmup_steps=200,
        weight_decay=1.0,
        seed=0,
    )


def run(config: TrainingConfig, device: str) -> tuple[DecoderLM, list[dict]]:
    """Train; returns the model and the rows of its curve."""
    corpus = load_corpus(tuple(DOMAINS))
    model = DecoderLM(dense_config(), seed=config.seed).to(device)
    state = TrainingState(model, config)
    stream, token_bytes, rows = as_ids(corpus.stream("train")), course_tokenizer().token_bytes(), []
    for until in range(EVALUATE_EVERY, config.steps + 1, EVALUATE_EVERY):
        train(model, stream, config, state=state, until=until, progress=False)
        results = evaluate(model, corpus, token_bytes, windows=64, device=device)
        row = {
            "step": until,
            "tokens": until * config.batch * config.length,
            "train_nats": round(sum(state.losses[-50:]) / 50, 5),
            "bits_per_byte": round(results["all"].bits_per_byte, 5),
        }
        row |= {f"{name}_bits": round(results[name].bits_per_byte, 5) for name in DOMAINS}
        rows.append(row | {"code": code_hash(), "corpus": corpus.fingerprint()})
        print(row, flush=True)
    return model, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    config = recipe()
    model, rows = run(config, parser.parse_args().device)
    lineage = {
        "recipe": "course_utils.records.dense",
        "base": None,
        "method": "next-token prediction from random weights",
        "data": f"training split of the course's corpus {rows[-1]['corpus']}",
        "tokens": config.tokens,
        "seed": config.seed,
        "validation_bits_per_byte": rows[-1]["bits_per_byte"],
    }
    SHIPPED.mkdir(exist_ok=True)
    save_checkpoint(model, SHIPPED / "dense.safetensors", lineage)
    print(save_record(RECORD, rows))


if __name__ == "__main__":
    main()
