"""Loss against size, at fixed tokens and at fixed compute (chapter 02).

`python -m course_utils.records.scaling [--device cuda]` trains three sizes with seeds 0, 1, 2, once
on the same number of tokens and once with the same number of floating-point operations, and writes
c02_scaling.csv. The sizes differ in width alone. The learning rate goes down as the width goes up,
in inverse proportion; `--sweep` prints what half and twice the rate give, seed 0. On two CPU cores
it takes about three hours, on a GPU some minutes.
"""

import argparse

import torch

from course_utils.data.batches import as_ids
from course_utils.data.corpus import load_corpus
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, ModelConfig
from course_utils.records.recorded import code_hash, save_record
from course_utils.training import TrainingConfig, evaluate, train

RECORD = "c02_scaling"
KEYS = ("budget", "size", "seed")
TOLERANCE = {"bits_per_byte": 0.03, "loss_first_step": 1e-3}
TOKENS = 1500 * 8 * 256
WIDTHS = {"small": 64, "medium": 128, "large": 256}
LEARNING_RATES = {"small": 4e-3, "medium": 2e-3, "large": 1e-3}


def model_config(size: str) -> ModelConfig:
    """The config of one of the three sizes: four layers, one query head per 32 channels."""
    width = WIDTHS[size]
    return ModelConfig(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        head_dim=32,
        max_position_embeddings=512,
    )


def flops_per_token(size: str, length: int = 256) -> int:
    """Operations per trained token: 6 per weight of every matrix product, and attention's own.

    A product with a weight costs 2 forward and 4 backward. Attention adds 12 * L * H * d * T / 2:
    scores and mixing over half of T tokens on average.
    """
    config = model_config(size)
    weights = DecoderLM(config).count_parameters()  # the tied table counts as the head's product
    heads = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    return 6 * weights + 12 * heads * length // 2


def run(budget: str, size: str, seed: int, device: str, rate: float | None = None) -> dict:
    """Train one model and return its row."""
    corpus = load_corpus(tuple(DOMAINS))
    tokens = TOKENS
    if budget == "compute":
        tokens = TOKENS * flops_per_token("medium") // flops_per_token(size)
    rate = rate or LEARNING_RATES[size]
    config = TrainingConfig(
        tokens // (8 * 256), peak_learning_rate=rate, warmup_steps=50, seed=seed
    )
    model = DecoderLM(model_config(size), seed=seed).to(device)
    state = train(model, as_ids(corpus.stream("train")), config, progress=False)
    token_bytes = course_tokenizer().token_bytes()
    results = evaluate(model, corpus, token_bytes, windows=64, device=device)
    row = {
        "budget": budget,
        "size": size,
        "seed": seed,
        "parameters": model.count_parameters(),
        "non_embedding": model.count_parameters(embedding=False),
        "tokens": config.tokens,
        "flops": config.tokens * flops_per_token(size),
        "learning_rate": rate,
        "loss_first_step": round(state.losses[0], 5),
        "bits_per_byte": round(results["all"].bits_per_byte, 5),
    }
    row |= {f"{name}_bits": round(results[name].bits_per_byte, 5) for name in DOMAINS}
    return row | {"code": code_hash(), "corpus": corpus.fingerprint()}


def rows(device: str) -> list[dict]:
    """All rows of the record."""
    grid = [(b, s, n) for b in ("tokens", "compute") for s in WIDTHS for n in (0, 1, 2)]
    return [run(budget, size, seed, device) for budget, size, seed in grid]


def sample() -> dict:
    """The cheapest row, on the CPU: the small model on the fixed tokens, seed 0."""
    return run("tokens", "small", 0, "cpu")


def sweep(device: str) -> None:
    """Print the bits per byte of every size at half, once and twice its learning rate, seed 0."""
    for budget in ("tokens", "compute"):
        for size, rate in LEARNING_RATES.items():
            for factor in (0.5, 1, 2):
                row = run(budget, size, 0, device, rate * factor)
                print(budget, size, rate * factor, row["bits_per_byte"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sweep", action="store_true", help="try other learning rates instead")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    if arguments.sweep:
        sweep(arguments.device)
    else:
        print(save_record(RECORD, rows(arguments.device)))


if __name__ == "__main__":
    main()
