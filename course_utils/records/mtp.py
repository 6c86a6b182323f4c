"""The shipped MTP module: how it was trained, and its learning curve (chapter 09).

`python -m course_utils.records.mtp [--device cuda]` trains one module of depth 1 on the shipped
dense checkpoint, which stays as it is: 4,000 batches of 32 x 256 tokens, 33 million. It keeps the
weights in models/shipped/mtp.safetensors (bfloat16) and the curve on the validation split in
c09_mtp.csv. A minute or two on a GPU, hours on two cores.

The curve counts, of the tokens of held-out text, how often the module's likeliest token is right,
and how often it is the one that the trunk itself finds likeliest once it has seen one token more:
the second is what a greedy draft is judged by.
"""

import argparse

import torch
import torch.nn.functional as F

from course_utils.data.batches import as_ids, first_windows
from course_utils.data.corpus import Corpus, load_corpus
from course_utils.data.texts import DOMAINS
from course_utils.generation.mtp import MTPModule, mtp_loss, save_mtp
from course_utils.generation.mtp_training import FrozenTrunk
from course_utils.models import shipped
from course_utils.models.checkpoints import SHIPPED
from course_utils.records.recorded import CODE, code_hash, save_record
from course_utils.training import TrainingConfig, TrainingState, train

RECORD = "c09_mtp"
EVALUATE_EVERY = 250
WINDOWS, LENGTH = 16, 256  # held-out windows per domain
MTP_CODE = (*CODE, "generation/mtp.py", "generation/mtp_training.py")


def recipe() -> TrainingConfig:
    """33 million tokens, about 8 passes over the training split."""
    return TrainingConfig(
        steps=4000,
        batch=32,
        length=256,
        peak_learning_rate=3e-3,
        warmup_steps=200,
        weight_decay=0.1,
        seed=0,
    )


@torch.no_grad()
def agreement(model: FrozenTrunk, corpus: Corpus, domain: str) -> tuple[float, float, float]:
    """Loss in nats, share of right tokens, share of the trunk's own choices, on held-out text."""
    device = model.mtp.eh_proj.weight.device
    ids_BT = first_windows(as_ids(corpus.ids["validation"][domain]), WINDOWS, LENGTH).to(device)
    logits_BTV = model(ids_BT)[:, :-1]
    guessed, trunks = logits_BTV.argmax(-1), model.trunk(ids_BT)[:, 1:-1].argmax(-1)
    nats = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 2:].flatten())
    right, same = (guessed == ids_BT[:, 2:]), (guessed == trunks)
    return float(nats), float(right.float().mean()), float(same.float().mean())


def run(device: str, config: TrainingConfig) -> tuple[MTPModule, list[dict]]:
    """Train a module on `device`; returns it, and the rows of its curve."""
    trunk = shipped("dense").to(device)
    model = FrozenTrunk(trunk, MTPModule(trunk.config, seed=config.seed).to(device))
    corpus, state = load_corpus(tuple(DOMAINS)), TrainingState(model, config)
    stream, rows = as_ids(corpus.stream("train")), []
    for until in range(EVALUATE_EVERY, config.steps + 1, EVALUATE_EVERY):
        train(
            model,
            stream,
            config,
            state=state,
            until=until,
            loss_function=mtp_loss,
            progress=False,
        )
        row = {"step": until, "tokens": until * config.batch * config.length}
        row["train_nats"] = round(sum(state.losses[-50:]) / 50, 5)
        for domain in DOMAINS:
            names = (f"{domain}_nats", f"{domain}_right", f"{domain}_as_trunk")
            values = agreement(model, corpus, domain)
            row |= {name: round(x, 5) for name, x in zip(names, values, strict=True)}
        rows.append(row | {"code": code_hash(MTP_CODE), "corpus": corpus.fingerprint()})
        print(rows[-1], flush=True)
    return model.mtp, rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    mtp, rows = run(parser.parse_args().device, recipe())
    lineage = {
        "recipe": "course_utils.records.mtp",
        "base": "dense",
        "method": "depth-1 multi-token prediction, the trunk frozen",
        "data": f"training split of the course's corpus {rows[-1]['corpus']}",
        "tokens": recipe().tokens,
        "seed": recipe().seed,
        "train_nats": rows[-1]["train_nats"],
    }
    save_mtp(mtp, SHIPPED / "mtp.safetensors", lineage)
    print(save_record(RECORD, rows))
