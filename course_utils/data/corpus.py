"""The corpus as token ids: split by document, deduplicated, cached on disk.

1. Every document goes whole into train (90%), validation (5%) or test (5%), by a hash of its name.
2. Documents still quote one another: psalms recur in the Chronicles, modules share their preambles.
   Whatever a held-out split shares with an earlier one over a window of 64 tokens is cut out of it,
   and what is left counts as documents of its own.
3. The ids of a split and domain are one array, documents separated by the end token.

The result is the same on every machine; `fingerprint` is its hash. Left out: near-duplicates that
differ within every 64 tokens, which at this size would need a judgement per pair.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np

from course_utils.data.texts import DOMAINS, present_domains
from course_utils.data.tokenizer import TOKENIZER_FILE, Tokenizer, course_tokenizer
from course_utils.paths import cache_dir

WINDOW = 64
SPLITS = ("train", "validation", "test")
VERSION = 1


@dataclass(frozen=True)
class Corpus:
    """Token ids by split and domain: `ids["train"]["english"]` is a (T,) array of uint16."""

    ids: dict[str, dict[str, np.ndarray]]

    @property
    def domains(self) -> list[str]:
        return list(self.ids["train"])

    def stream(self, split: str) -> np.ndarray:
        """All domains of a split in one array."""
        return np.concatenate(list(self.ids[split].values()))

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that tell this corpus from any other."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for domain, ids in self.ids[split].items():
                digest.update(f"{split}/{domain}/{len(ids)}".encode() + ids.tobytes())
        return digest.hexdigest()[:12]


def split_of(domain: str, document: str) -> str:
    """The split of a document: by the hash of its name, so that it never changes sides."""
    digest = hashlib.sha256(f"{domain}/{document}".encode()).digest()
    part = int.from_bytes(digest[:8], "big") % 100
    return "test" if part < 5 else "validation" if part < 10 else "train"


def window_hashes(ids: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """A 64-bit hash of every run of `window` ids; fewer ids give none."""
    count = len(ids) - window + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(window):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += ids[offset : offset + count].astype(np.uint64) + np.uint64(1)
    return hashes


def cut_shared(ids: np.ndarray, seen: np.ndarray, end: int, window: int = WINDOW) -> np.ndarray:
    """Remove from ids all that lies in a window whose hash is in `seen` (sorted).

    Runs that are left and are shorter than a window go too; each run ends with the token `end`.
    """
    while True:
        hashes = window_hashes(ids, window)
        places = np.searchsorted(seen, hashes).clip(max=max(len(seen) - 1, 0))
        shared = seen[places] == hashes if len(seen) else np.zeros(len(hashes), dtype=bool)
        if not shared.any():
            return ids
        edges = np.zeros(len(ids) + 1, dtype=np.int64)
        starts = np.flatnonzero(shared)
        np.add.at(edges, starts, 1)
        np.add.at(edges, starts + window, -1)
        kept = np.flatnonzero(np.cumsum(edges)[:-1] == 0)
        runs = np.split(ids[kept], np.flatnonzero(np.diff(kept) > 1) + 1)
        long_enough = [run for run in runs if len(run) >= window]
        ended = [run if run[-1] == end else np.append(run, end) for run in long_enough]
        ids = np.concatenate(ended).astype(ids.dtype) if ended else ids[:0]


def build(tokenizer: Tokenizer, domains: list[str]) -> Corpus:
    """Read, tokenise, split and deduplicate the texts of `domains`; takes some seconds."""
    ids: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
    for domain in domains:
        parts: dict[str, list[int]] = {split: [] for split in SPLITS}
        documents = DOMAINS[domain]()
        encoded = tokenizer.inner.encode_batch(list(documents.values()))
        for name, encoding in zip(documents, encoded, strict=True):
            parts[split_of(domain, name)] += [*encoding.ids, tokenizer.end_id]
        for split, tokens in parts.items():
            ids[split][domain] = np.array(tokens, dtype=np.uint16)
    seen = np.empty(0, dtype=np.uint64)
    for split in SPLITS:
        if split != "train":
            for domain, tokens in ids[split].items():
                ids[split][domain] = cut_shared(tokens, seen, tokenizer.end_id)
        new = [window_hashes(tokens) for tokens in ids[split].values()]
        seen = np.sort(np.concatenate([seen, *new]))
    return Corpus(ids)


@cache
def load_corpus(domains: tuple[str, ...] | None = None) -> Corpus:
    """The course's corpus; the first call builds it and keeps it in the cache folder.

    `domains` chooses among english, chinese, code, arithmetic; without it, all whose texts are on
    this machine. Raises ValueError for an unknown domain and AssetMissing (run `course fetch`) for
    one whose text has not been fetched. A cache folder that cannot be written is no error.
    """
    chosen = list(domains or present_domains())
    if unknown := [name for name in chosen if name not in DOMAINS]:
        raise ValueError(f"unknown domain {unknown[0]!r}: there are {', '.join(DOMAINS)}")
    tokenizer = course_tokenizer()
    merges = hashlib.sha256(TOKENIZER_FILE.read_bytes()).hexdigest()
    key = hashlib.sha256(f"{VERSION} {chosen} {merges}".encode()).hexdigest()[:12]
    path = cache_dir() / f"corpus-{key}.npz"
    if path.exists():
        return _read(path, chosen)
    corpus = build(tokenizer, chosen)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{np.random.default_rng().integers(1 << 40)}.npz")
        np.savez(partial, **{f"{s}/{d}": a for s in SPLITS for d, a in corpus.ids[s].items()})
        partial.replace(path)
    except OSError:
        pass  # read-only or full: the corpus is built anew each time
    return corpus


def _read(path, domains: list[str]) -> Corpus:
    with np.load(path) as stored:
        return Corpus({s: {d: stored[f"{s}/{d}"] for d in domains} for s in SPLITS})
