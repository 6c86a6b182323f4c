"""SmolLM2-135M with layers and heads dropped by importance, healed a little (chapter 12).

`python -m course_utils.records.smollm2_pruning` writes c12_smollm2.csv; a few minutes on two cores,
and SmolLM2 must have been fetched (`course fetch`). Cuts: 3 of 30 layers, by block influence; 3 of
9 query heads, one of each group, by what they add to the stream; and as controls as many layers and
heads drawn at random (seed 0). Parts are judged on 2 x 256 of SmolLM2's tokens of the training
split's English and code. Healing: 12 batches of 2 x 128 tokens of the same text, the whole model as
teacher and no labels, so that what is gained is repair and no new knowledge.

Perplexity is per token of SmolLM2, on passages of the test split (English: the King James Bible;
code: networkx), each read with nothing before it. Left out: more healing, which a GPU can do.
"""

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from course_utils.data.batches import first_windows
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM
from course_utils.models.pretrained import Pretrained, smollm2
from course_utils.pruning import (
    best_heads,
    head_scores,
    keep_best,
    layer_scores,
    prune_heads,
    prune_layers,
)
from course_utils.pruning.heal import heal
from course_utils.records.recorded import CODE, code_hash, save_record
from course_utils.records.small_models import prepared_corpus
from course_utils.records.smollm2 import nats, passages
from course_utils.training import TrainingConfig

RECORD = "c12_smollm2"
KEYS = ("cut", "healed")
TOLERANCE = {"english_perplexity": 0.5, "code_perplexity": 0.5}
DOMAINS = ("english", "code")
WHOLE, LAYERS, HEADS = "whole", "27 of 30 layers", "6 of 9 heads"
CONTROLS = (f"{LAYERS}, random", f"{HEADS}, random")
KEPT_LAYERS, KEPT_EACH = 27, 2
PASSAGES = 4
HEALING = TrainingConfig(12, batch=2, length=128, peak_learning_rate=1e-4, warmup_steps=2)
PARTS = ("weights", "importance", "structured", "rebuild", "heal")
SMOL_CODE = (*CODE, *(f"pruning/{part}.py" for part in PARTS), "records/smollm2.py")


def training_stream(smol: Pretrained, tokens: int = 40_000) -> Tensor:
    """SmolLM2's ids of the beginning of the training split, both domains, (2 * tokens,)."""
    ids = []
    for domain in DOMAINS:
        text = course_tokenizer().decode(prepared_corpus().ids["train"][domain][:tokens])
        ids += smol.tokenizer.encode(text)
    return torch.tensor(ids)


def judging_ids(stream_N: Tensor) -> Tensor:
    """What parts are judged on, (2, 256): from each half of the stream one window."""
    half = len(stream_N) // 2
    return torch.cat([first_windows(part, 1, 256) for part in (stream_N, stream_N[half:])])


def cut(model: DecoderLM, name: str, ids_BT: Tensor) -> DecoderLM:
    """One of the cuts, or the model itself."""
    generator = torch.Generator().manual_seed(0)
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if name == WHOLE:
        return model
    if name in (LAYERS, CONTROLS[0]):
        chance = torch.rand(layers, generator=generator)
        scores: Sequence = layer_scores(model, ids_BT) if name == LAYERS else chance
        return prune_layers(model, keep_best(scores, KEPT_LAYERS))
    chance = torch.rand(layers, heads, generator=generator)
    scores = head_scores(model, ids_BT) if name == HEADS else list(chance)
    kv = config.num_key_value_heads
    return prune_heads(model, [best_heads(own, kv, kv, KEPT_EACH) for own in scores])


def perplexities(smol: Pretrained, model: DecoderLM) -> dict[str, float]:
    """Perplexity by domain on held-out passages."""
    found = {}
    for domain in DOMAINS:
        chosen = passages(prepared_corpus(), domain, 0)[:PASSAGES]
        parts = [nats(model, smol.tokenizer, texts) for texts in chosen]
        loss, tokens = (sum(column) for column in zip(*parts, strict=True))
        found[f"{domain}_perplexity"] = round(math.exp(loss / tokens), 3)
    return found


def run(smol: Pretrained, name: str, healed: bool) -> dict:
    """Cut, heal if asked, and measure."""
    stream_N = training_stream(smol)
    model = cut(smol.model, name, judging_ids(stream_N))
    if healed:
        heal(model, smol.model, stream_N, HEALING, progress=False)
    row = {"cut": name, "healed": "yes" if healed else "no"}
    row |= {"parameters": model.count_parameters()}
    row |= {"healing_tokens": HEALING.tokens if healed else 0}
    row |= perplexities(smol, model)
    return row | {"code": code_hash(SMOL_CODE), "corpus": prepared_corpus().fingerprint()}


def rows(smol: Pretrained) -> list[dict]:
    """All rows of the record."""
    grid = [(name, False) for name in (WHOLE, LAYERS, CONTROLS[0], HEADS, CONTROLS[1])]
    grid += [(LAYERS, True), (HEADS, True)]
    found = []
    for name, healed in grid:
        found.append(run(smol, name, healed))
        print(found[-1], flush=True)
    return found


def sample() -> dict:
    """The row that `course verify-records` makes again: layers by importance, not healed."""
    return run(smollm2(), LAYERS, False)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(save_record(RECORD, rows(smollm2())))
