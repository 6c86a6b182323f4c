"""The perplexity protocol: what is read, what is judged, and calibration text that is disjoint."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_utils.data.corpus import WINDOW, load_corpus, window_hashes
from course_utils.data.fetch import asset_path, available
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.formats import read_gguf
from course_utils.models import shipped
from course_utils.models.pretrained import tokenizer_from_gguf
from course_utils.quantization.perplexity import (
    COURSE,
    SMOLLM2,
    Protocol,
    calibration_windows,
    end_of_text,
    evaluation_windows,
    perplexity,
    stream,
)

if not all(available(name) for name in ("kjv", "three_kingdoms")):
    pytest.skip("the texts are not fetched", allow_module_level=True)

TOKENIZER = course_tokenizer()


def _with_protocol(name):
    if name == "course":
        return TOKENIZER, COURSE
    if not available("smollm2"):
        pytest.skip("SmolLM2 is not fetched")
    return tokenizer_from_gguf(read_gguf(asset_path("smollm2"))), SMOLLM2


def test_the_stream_is_the_corpus_itself_for_the_courses_tokens():
    corpus = load_corpus(tuple(DOMAINS))
    for domain in DOMAINS:
        ids = corpus.ids["test"][domain].astype(np.int64)
        assert np.array_equal(stream(TOKENIZER, domain).numpy(), ids)


def test_windows_do_not_overlap_and_span_the_text():
    ids_T = stream(TOKENIZER, "english")
    windows_NT = evaluation_windows(TOKENIZER, Protocol(("english",), 5, 64))
    all_NT = ids_T[: len(ids_T) // 64 * 64].view(-1, 64)
    places = [next(n for n, row in enumerate(all_NT) if torch.equal(row, w)) for w in windows_NT]
    assert places[0] == 0 and places[-1] == len(all_NT) - 1
    assert places == sorted(set(places))


@pytest.mark.parametrize("name", ["course", "smollm2"])
def test_calibration_text_shares_no_run_of_tokens_with_the_evaluation(name):
    tokenizer, protocol = _with_protocol(name)
    read = evaluation_windows(tokenizer, protocol).numpy()
    drawn = calibration_windows(tokenizer, protocol, samples=32).numpy()
    seen = np.concatenate([window_hashes(row) for row in read])
    used = np.concatenate([window_hashes(row) for row in drawn])
    assert len(used) == 32 * (512 - WINDOW + 1)
    assert not np.isin(used, seen).any()
    control = window_hashes(read[3])  # the check sees what is shared
    assert np.isin(control, seen).all()


def test_calibration_is_drawn_by_seed_and_mixed():
    protocol = Protocol(("english", "arithmetic"), 2, 64)
    first = calibration_windows(TOKENIZER, protocol, samples=7, seed=0)
    assert first.shape == (7, 64)
    assert torch.equal(first, calibration_windows(TOKENIZER, protocol, samples=7, seed=0))
    assert not torch.equal(first, calibration_windows(TOKENIZER, protocol, samples=7, seed=1))
    texts = [TOKENIZER.decode(row) for row in first]
    assert ["Check" in text or "=" in text for text in texts] == [False, True] * 3 + [False]


def test_a_model_that_guesses_has_the_vocabulary_as_perplexity():
    def guess(ids_BT):
        return torch.zeros(*ids_BT.shape, TOKENIZER.vocab_size)

    found = perplexity(guess, TOKENIZER, Protocol(("english",), 2, 64))
    assert found.perplexity == pytest.approx(TOKENIZER.vocab_size, rel=1e-5)
    expected = math.log2(TOKENIZER.vocab_size) * found.tokens / found.text_bytes
    assert found.bits_per_byte == pytest.approx(expected, rel=1e-5)


def test_end_tokens_are_read_and_not_judged():
    protocol = Protocol(("arithmetic",), 3, 128)
    windows_NT = evaluation_windows(TOKENIZER, protocol)
    ends = int((windows_NT[:, 1:] == end_of_text(TOKENIZER)).sum())
    assert ends > 0

    def never_end(ids_BT):  # infinitely surprised by an end token, and by nothing else
        logits = torch.zeros(*ids_BT.shape, TOKENIZER.vocab_size)
        logits[..., end_of_text(TOKENIZER)] = -1e9
        return logits

    found = perplexity(never_end, TOKENIZER, protocol)
    assert found.tokens == 3 * 127 - ends
    assert found.perplexity == pytest.approx(TOKENIZER.vocab_size - 1, rel=1e-5)


def test_the_loss_is_that_of_each_window_alone():
    model, protocol = shipped("dense"), Protocol(("english", "code"), 2, 96)
    losses = []
    for ids_T in evaluation_windows(TOKENIZER, protocol):
        with torch.no_grad():
            losses.append(F.cross_entropy(model(ids_T[None])[0, :-1], ids_T[1:], reduction="none"))
    judged = evaluation_windows(TOKENIZER, protocol)[:, 1:].flatten() != end_of_text(TOKENIZER)
    expected = float(torch.cat(losses)[judged].mean())
    for batch in (1, 3):
        found = perplexity(model, TOKENIZER, protocol, batch=batch)
        assert found.nats_per_token == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"unknown domain 'french': there are english"):
        Protocol(("french",))
    with pytest.raises(ValueError, match="two tokens"):
        Protocol(("english",), length=1)
    with pytest.raises(ValueError, match=r"arithmetic has .* tokens to calibrate on, 2048000 are"):
        calibration_windows(TOKENIZER, Protocol(("arithmetic",)), samples=4000)
    with pytest.raises(ValueError, match="code has 69 windows of 512 tokens"):
        evaluation_windows(TOKENIZER, Protocol(("code",), windows=1000))
