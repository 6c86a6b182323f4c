"""The corpus: every document on one side, no window on two, the same on every machine.

Tests on the real texts use the domains that are on this machine; those that need all four skip
without them. What is shared between splits is looked for in another way than the corpus does: with
the bytes of every window in a set, not with hashes of its own.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data import corpus as corpus_module
from course_utils.data import texts
from course_utils.data.assets import AssetMissing
from course_utils.data.corpus import (
    SPLITS,
    WINDOW,
    Corpus,
    build,
    cut_shared,
    load_corpus,
    split_of,
    window_hashes,
)
from course_utils.data.texts import DOMAINS, present_domains
from course_utils.data.tokenizer import course_tokenizer
from course_utils.records import load_record

some = settings(max_examples=200, deadline=None, derandomize=True)
END = 9


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """What is on this machine: at least code and arithmetic, which need no fetching."""
    return load_corpus()


def windows_of(ids: np.ndarray, window: int = WINDOW) -> set[bytes]:
    data, width = ids.tobytes(), ids.itemsize
    starts = range(0, (len(ids) - window + 1) * width, width)
    return {data[start : start + window * width] for start in starts}


def test_no_window_of_64_tokens_is_shared_between_splits(corpus):
    sides = {}
    for split in ("validation", "test"):
        sides[split] = set().union(*map(windows_of, corpus.ids[split].values()))
        assert len(sides[split]) > 10_000
    assert not sides["validation"] & sides["test"]
    held_out = sides["validation"] | sides["test"]
    for domain, ids in corpus.ids["train"].items():
        data, size = ids.tobytes(), WINDOW * ids.itemsize
        starts = range(0, len(data) - size + 1, ids.itemsize)
        shared = [start for start in starts if data[start : start + size] in held_out]
        assert not shared, f"{domain}: {len(shared)} windows of the training split are held out"


def test_a_split_by_document_alone_would_share_windows():
    """The cut is needed: modules of code quote one another."""
    sides = {"train": set(), "test": set()}
    for name, text in DOMAINS["code"]().items():
        if (split := split_of("code", name)) in sides:
            ids = np.array(course_tokenizer().encode(text), dtype=np.uint16)
            sides[split] |= windows_of(ids)
    assert len(sides["train"] & sides["test"]) > 100


def test_every_document_is_in_one_split():
    for domain in present_domains():
        names = list(DOMAINS[domain]())
        assert len(set(names)) == len(names) > 50
        sides = [split_of(domain, name) for name in names]
        assert set(sides) == set(SPLITS)
        assert 0.84 < sides.count("train") / len(sides) < 0.96


def test_a_document_keeps_its_side():
    sides = {name: split_of("code", name) for name in map(str, range(60))}
    assert [name for name, side in sides.items() if side == "validation"] == ["8", "26", "54"]
    assert [name for name, side in sides.items() if side == "test"] == ["4", "23", "35", "37"]
    assert any(split_of("english", name) != side for name, side in sides.items())


def test_the_training_documents_are_all_there(corpus):
    """The training split is cut nowhere: its texts come back whole, and in order."""
    for domain in corpus.domains:
        documents = {n: t for n, t in DOMAINS[domain]().items() if split_of(domain, n) == "train"}
        text = course_tokenizer().inner.decode(
            corpus.ids["train"][domain].tolist(), skip_special_tokens=False
        )
        assert text == "".join(f"{document}<|endoftext|>" for document in documents.values())


def test_held_out_text_stems_from_held_out_documents(corpus):
    tokenizer = course_tokenizer()
    for domain in corpus.domains:
        documents = DOMAINS[domain]()
        for split in ("validation", "test"):
            own = "\0".join(t for n, t in documents.items() if split_of(domain, n) == split)
            ids = corpus.ids[split][domain]
            runs = np.split(ids, np.flatnonzero(ids == tokenizer.end_id) + 1)
            for run in runs[:40]:
                text = tokenizer.decode(run.tolist()).strip("\ufffd")
                assert text in own


def test_every_split_and_domain_ends_with_the_end_token(corpus):
    end = course_tokenizer().end_id
    for split in SPLITS:
        for ids in corpus.ids[split].values():
            assert ids.dtype == np.uint16 and ids[-1] == end and int(ids.max()) < 4096
            assert len(ids) > 1000


def test_the_stream_is_all_domains_in_order(corpus):
    stream = corpus.stream("validation")
    assert len(stream) == sum(map(len, corpus.ids["validation"].values()))
    assert np.array_equal(
        stream[: len(first := corpus.ids["validation"][corpus.domains[0]])], first
    )
    assert list(corpus.domains) == [name for name in DOMAINS if name in corpus.domains]


def test_the_records_were_made_with_this_corpus():
    try:
        fingerprint = load_corpus(tuple(DOMAINS)).fingerprint()
    except AssetMissing as missing:
        pytest.skip(f"the corpus is not whole: {missing}")
    for name in ("c02_dense", "c02_scaling"):
        assert {row["corpus"] for row in load_record(name).rows} == {fingerprint}


def test_the_domains_that_need_no_fetching_have_a_fixed_fingerprint():
    assert load_corpus(("arithmetic",)).fingerprint() == "4225a2928031"


def test_the_fingerprint_sees_every_id_and_where_it_is():
    def make(**changes):
        ids = {
            s: {"a": np.arange(5, dtype=np.uint16), "b": np.arange(3, dtype=np.uint16)}
            for s in SPLITS
        }
        for key, value in changes.items():
            split, domain = key.split("_")
            ids[split][domain] = np.array(value, dtype=np.uint16)
        return Corpus(ids).fingerprint()

    prints = [
        make(),
        make(train_a=[0, 1, 2, 3, 5]),
        make(test_b=[0, 1]),
        make(train_a=[0, 1, 2, 3], train_b=[4, 0, 1, 2]),
    ]
    assert len(set(prints)) == 4 and make() == prints[0]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two small domains, an empty cache, and nothing remembered."""
    domains = {
        "code": lambda: {f"m{n}.py": f"def f{n}(x):\n    return x * {n}\n" * 9 for n in range(60)},
        "arithmetic": lambda: {f"q{n}": f"Q: {n} + 1\nA: {n + 1}\n" * 12 for n in range(60)},
    }
    monkeypatch.setattr(corpus_module, "DOMAINS", domains)
    monkeypatch.setattr(corpus_module, "present_domains", lambda: list(domains))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    load_corpus.cache_clear()
    yield tmp_path / "cache"
    load_corpus.cache_clear()


def test_built_once_then_read_from_the_cache(small, monkeypatch):
    first = load_corpus()
    assert len(list(small.iterdir())) == 1  # one file, no partial ones
    load_corpus.cache_clear()
    monkeypatch.setattr(corpus_module, "build", lambda *_: pytest.fail("built a second time"))
    again = load_corpus()
    assert again.fingerprint() == first.fingerprint()
    assert again.ids.keys() == first.ids.keys() and again.domains == first.domains
    assert load_corpus() is again


def test_other_domains_are_another_file(small):
    load_corpus()
    assert load_corpus(("code",)).domains == ["code"]
    assert len(list(small.iterdir())) == 2


def test_a_read_only_cache_is_no_error(small, monkeypatch):
    expected = build(course_tokenizer(), ["code", "arithmetic"]).fingerprint()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # the superuser may write anywhere: refuse by hand
        patch.setattr(Path, "mkdir", refuse)
        assert load_corpus().fingerprint() == expected
    load_corpus.cache_clear()
    monkeypatch.setattr(np, "savez", refuse)
    assert load_corpus().fingerprint() == expected
    assert not list(small.iterdir())


def test_a_cache_that_is_a_file_is_no_error(small, monkeypatch):
    small.write_text("not a folder")
    assert load_corpus(("code",)).domains == ["code"]


def test_unknown_domain_lists_the_known_ones(small):
    with pytest.raises(ValueError, match="unknown domain 'poems': there are code, arithmetic"):
        load_corpus(("code", "poems"))


@pytest.mark.parametrize(("domain", "title"), [("english", "Bible"), ("chinese", "Kingdoms")])
def test_a_text_that_has_not_been_fetched(tmp_path, monkeypatch, domain, title):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    with pytest.raises(AssetMissing, match=rf"{title}.*course fetch"):
        load_corpus((domain, "arithmetic"))
    assert present_domains() == ["code", "arithmetic"]


def test_another_networkx_would_be_another_corpus(monkeypatch):
    import importlib.metadata

    monkeypatch.setattr(importlib.metadata, "version", lambda _: "3.5")
    with pytest.raises(ValueError, match=r"networkx 3\.5 is installed.*pip install .*3\.6\.1"):
        texts.code()


@some
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 6))
def test_hashes_are_equal_where_windows_are(numbers, window):
    ids = np.array(numbers, dtype=np.uint16)
    hashes = window_hashes(ids, window)
    runs = [tuple(numbers[n : n + window]) for n in range(len(numbers) - window + 1)]
    assert len(hashes) == len(runs)
    assert len(set(hashes.tolist())) == len(set(runs))


streams = st.lists(st.integers(0, 3) | st.just(END), max_size=40)


@some
@given(streams, streams, st.integers(2, 5))
def test_what_is_cut_shares_nothing_and_loses_nothing_else(numbers, earlier, window):
    ids = np.array([*numbers, END], dtype=np.uint16)
    seen = np.array(earlier, dtype=np.uint16)
    left = cut_shared(ids, np.sort(window_hashes(seen, window)), END, window)
    assert left.dtype == ids.dtype
    assert not windows_of(left, window) & windows_of(seen, window)
    runs = [run for run in _runs(left) if run]
    for run in runs:  # what is left is, run by run, a part of what there was
        assert _contains([*numbers, END], run[:-1])
    if not windows_of(ids, window) & windows_of(seen, window):
        assert np.array_equal(left, ids)
    again = cut_shared(left, np.sort(window_hashes(seen, window)), END, window)
    assert np.array_equal(again, left)
    assert len(left) == 0 or left[-1] == END


def _runs(ids: np.ndarray) -> list[list[int]]:
    cuts = np.flatnonzero(ids == END) + 1
    return [run.tolist() for run in np.split(ids, cuts)]


def _contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[n : n + len(part)] == part for n in range(len(whole) - len(part) + 1))


def test_a_worked_cut():
    """Windows of 3; 4 5 6 was seen: what stands on both sides becomes two documents."""
    ids = np.array([1, 2, 3, 4, 5, 6, 7, 8, 2, END], dtype=np.uint16)
    seen = np.sort(window_hashes(np.array([4, 5, 6]), 3))
    assert cut_shared(ids, seen, END, 3).tolist() == [1, 2, 3, END, 7, 8, 2, END]
    short = np.array([1, 2, 4, 5, 6, 7, 8, END], dtype=np.uint16)
    assert cut_shared(short, seen, END, 3).tolist() == [7, 8, END]
    assert cut_shared(ids, np.empty(0, dtype=np.uint64), END, 3).tolist() == ids.tolist()
    assert cut_shared(ids, np.sort(window_hashes(ids, 3)), END, 3).tolist() == []
