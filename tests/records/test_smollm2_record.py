"""The comparison with SmolLM2: the same bytes for both, samples apart, and rerunnable."""

import math

import numpy as np
import pytest
import torch

from course_utils.data.corpus import Corpus, load_corpus
from course_utils.data.fetch import available
from course_utils.data.texts import DOMAINS, NEEDS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import shipped
from course_utils.records import load_record, recorded, smollm2

ROWS = load_record("c02_smollm2").rows
MODELS = ("ours", "SmolLM2")
needs_texts = pytest.mark.skipif(
    not all(available(asset) for asset in NEEDS.values()), reason="texts not fetched"
)


@pytest.fixture(scope="module")
def small() -> Corpus:
    """A made-up test split of arithmetic alone, just long enough."""
    ids = load_corpus(("arithmetic",)).ids["test"]["arithmetic"]
    wanted = smollm2.SAMPLES * smollm2.PASSAGES * smollm2.LENGTH
    return Corpus({"test": {"arithmetic": ids[:wanted]}})


def test_every_model_domain_and_sample_once():
    found = [(row["model"], row["domain"], row["sample"]) for row in ROWS]
    assert found == [(m, d, s) for m in MODELS for d in DOMAINS for s in range(3)]
    assert {row["passages"] for row in ROWS} == {smollm2.PASSAGES}


@pytest.mark.parametrize("domain", DOMAINS)
def test_both_models_are_judged_on_the_same_bytes(domain):
    ours, theirs = (
        [row["text_bytes"] for row in ROWS if (row["model"], row["domain"]) == (model, domain)]
        for model in MODELS
    )
    assert ours == theirs and min(ours) > 4000


def test_bits_follow_from_nats():
    for row in ROWS:
        bits = row["nats_per_token"] * row["tokens"] / (row["text_bytes"] * math.log(2))
        assert row["bits_per_byte"] == pytest.approx(bits, abs=1e-4)


def test_all_rows_are_of_one_code_and_one_corpus():
    assert len({(row["code"], row["corpus"]) for row in ROWS}) == 1
    assert ROWS[0]["corpus"] == load_record("c02_scaling").rows[0]["corpus"]


def test_samples_share_nothing_and_together_are_the_text(small):
    """Side by side, the passages of all samples in turn are the whole made-up split."""
    tokenizer = course_tokenizer()
    samples = [smollm2.passages(small, "arithmetic", number) for number in range(3)]
    turns = ["".join(passage) for turn in zip(*samples, strict=True) for passage in turn]
    assert len(turns) == 24
    assert "".join(turns) == tokenizer.decode(small.ids["test"]["arithmetic"])


def test_a_cut_character_is_left_out_and_documents_stay_apart(small, monkeypatch):
    tokenizer = course_tokenizer()
    cut = tokenizer.encode("曌")  # no token of its own: single bytes
    assert len(cut) > 1
    text = [*cut[1:], *tokenizer.encode("first"), tokenizer.end_id, *tokenizer.encode("second")]
    monkeypatch.setattr(smollm2, "LENGTH", len(text) + 1)
    ids = np.array((text + cut[:1]) * 24, dtype=np.uint16)
    for number in range(3):
        found = smollm2.passages(Corpus({"test": {"arithmetic": ids}}), "arithmetic", number)
        assert found == [["first", "second"]] * 8


def test_a_text_that_is_too_short(small):
    ids = small.ids["test"]["arithmetic"][:-1]
    with pytest.raises(ValueError, match="arithmetic: 10751 test tokens, 10752 are needed"):
        smollm2.passages(Corpus({"test": {"arithmetic": ids}}), "arithmetic", 0)


def test_the_loss_counts_text_and_no_end_tokens():
    tokenizer, seen = course_tokenizer(), []

    def knows_nothing(ids_BT):
        seen.append(ids_BT[0].tolist())
        return torch.zeros(*ids_BT.shape, tokenizer.vocab_size)

    texts = ["two words", "Q: 1 + 1\n"]
    loss, tokens = smollm2.nats(knows_nothing, tokenizer, texts)
    assert tokens == sum(len(tokenizer.encode(text)) for text in texts)
    assert loss == pytest.approx(tokens * math.log(4096), rel=1e-5)
    assert seen[0].count(tokenizer.end_id) == 2 and seen[0][0] == tokenizer.end_id


def test_the_loss_is_of_the_next_token():
    """A model that always expects its last token again is right where text repeats itself."""
    tokenizer = course_tokenizer()

    def repeats(ids_BT):
        return 50.0 * torch.nn.functional.one_hot(ids_BT, tokenizer.vocab_size).float()

    ids = tokenizer.encode("7777")
    assert len(ids) == 4
    loss, _ = smollm2.nats(repeats, tokenizer, ["7777"])
    assert loss == pytest.approx(50.0, abs=0.1)  # the first 7 after the end token, and no other


@needs_texts
def test_our_model_comes_to_the_recorded_row_again():
    again = smollm2.row("ours", shipped("dense"), course_tokenizer(), "arithmetic", 1)
    (row,) = [
        row
        for row in ROWS
        if (row["model"], row["domain"], row["sample"]) == ("ours", "arithmetic", 1)
    ]
    assert (again["tokens"], again["text_bytes"]) == (row["tokens"], row["text_bytes"])
    for column, tolerance in smollm2.TOLERANCE.items():
        assert again[column] == pytest.approx(row[column], abs=tolerance)


def test_the_tolerance_tells_the_models_apart():
    for domain in DOMAINS:
        bits = {row["model"]: row["bits_per_byte"] for row in ROWS if row["domain"] == domain}
        assert abs(bits["ours"] - bits["SmolLM2"]) > smollm2.TOLERANCE["bits_per_byte"]


def test_it_can_be_verified():
    assert recorded.RECIPES["c02_smollm2"] == smollm2.__name__
    assert load_record("c02_smollm2").command == "python -m course_utils.records.smollm2"
