"""The shipped dense checkpoint against SmolLM2-135M on the same bytes (chapter 02).

`python -m course_utils.records.smollm2` writes c02_smollm2.csv; on one CPU core it takes about four
minutes, and SmolLM2 must have been fetched (`course fetch`).

24 passages of 448 of the course's tokens stand at equal distances in each domain's test text. They
are dealt out to three samples in turn, so that each sample has eight passages from all over the
text and no two samples share one. A passage is turned back into text, and each model reads it in
its own tokens, with the token <|endoftext|> (which both know) before it and between documents. That
token is read and not judged: what is judged are the same bytes for both.

Left out: longer contexts, which help a model that can use them; ours ends at 512 tokens.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from course_utils.data.corpus import Corpus, load_corpus
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import END, Tokenizer, course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.models.pretrained import smollm2
from course_utils.records.recorded import code_hash, save_record

RECORD = "c02_smollm2"
KEYS = ("model", "domain", "sample")
TOLERANCE = {"bits_per_byte": 0.005, "nats_per_token": 0.01}
SAMPLES, PASSAGES, LENGTH = 3, 8, 448
LOADED_CODE = (
    code_hash()
)  # of the files as they were loaded, also if they are edited during the run


def passages(corpus: Corpus, domain: str, sample: int) -> list[list[str]]:
    """The passages of a sample, each as the texts of the documents that it cuts through.

    A character that a passage's edge cuts in two is left out. ValueError for too short a text.
    """
    tokenizer, ids = course_tokenizer(), corpus.ids["test"][domain]
    count = SAMPLES * PASSAGES
    if len(ids) < count * LENGTH:
        raise ValueError(f"{domain}: {len(ids)} test tokens, {count * LENGTH} are needed")
    starts = np.linspace(0, len(ids) - LENGTH, count).astype(int)[sample::SAMPLES]
    found = []
    for start in starts:
        part = ids[start : start + LENGTH]
        pieces = np.split(part, np.flatnonzero(part == tokenizer.end_id))
        texts = [tokenizer.decode(piece).strip("\ufffd") for piece in pieces]
        found.append([text for text in texts if text])
    return found


@torch.no_grad()
def nats(model: DecoderLM, tokenizer: Tokenizer, texts: list[str]) -> tuple[float, int]:
    """The loss of a passage in nats, summed over its text's tokens, and their number."""
    end, ids = tokenizer.inner.token_to_id(END), []
    for text in texts:
        ids += [end, *tokenizer.encode(text)]
    ids_T = torch.tensor(ids)
    losses = F.cross_entropy(model(ids_T[None])[0, :-1], ids_T[1:], reduction="none")
    judged = ids_T[1:] != end
    return float(losses[judged].double().sum()), int(judged.sum())


def row(name: str, model: DecoderLM, tokenizer: Tokenizer, domain: str, sample: int) -> dict:
    """One model on one sample of a domain."""
    corpus = load_corpus(tuple(DOMAINS))
    chosen = passages(corpus, domain, sample)
    parts = [nats(model, tokenizer, texts) for texts in chosen]
    total, tokens = sum(loss for loss, _ in parts), sum(count for _, count in parts)
    text_bytes = sum(len(text.encode()) for texts in chosen for text in texts)
    return {
        "model": name,
        "domain": domain,
        "sample": sample,
        "passages": len(chosen),
        "tokens": tokens,
        "text_bytes": text_bytes,
        "nats_per_token": round(total / tokens, 5),
        "bits_per_byte": round(total / (text_bytes * math.log(2)), 5),
        "code": LOADED_CODE,
        "corpus": corpus.fingerprint(),
    }


def rows() -> list[dict]:
    """All rows of the record."""
    smol = smollm2()
    both = {"ours": (shipped("dense"), course_tokenizer()), "SmolLM2": (smol.model, smol.tokenizer)}
    grid = [(n, d, s) for n in both for d in DOMAINS for s in range(SAMPLES)]
    return [row(name, *both[name], domain, sample) for name, domain, sample in grid]


def sample() -> dict:
    """The row that `course verify-records` makes again: SmolLM2 on English, sample 0."""
    smol = smollm2()
    return row("SmolLM2", smol.model, smol.tokenizer, "english", 0)


if __name__ == "__main__":
    print(save_record(RECORD, rows()))
