"""Tokenizers: any text comes back, digits stand alone, bytes are counted, training repeats."""

import hashlib
import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from course_utils.data.tokenizer import (
    END,
    TOKENIZER_FILE,
    Tokenizer,
    course_tokenizer,
    train_tokenizer,
)

some = settings(max_examples=150, deadline=None, derandomize=True)
plain = st.text().filter(lambda text: END not in text)
TEXTS = [
    "In the beginning 1945 was the word, the word.",
    "却说曹操引兵",
    "def f(x):\n    return x\n",
]


@some
@given(plain)
def test_any_text_comes_back(text):
    tokenizer = course_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= number < 4096 and number != tokenizer.end_id for number in ids)
    assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode())


@some
@given(st.lists(st.one_of(st.integers(0, 10**12).map(str), st.text(max_size=5)), max_size=6))
def test_digits_stand_alone(parts):
    tokenizer, text = course_tokenizer(), " ".join(parts)
    for piece in tokenizer.pieces(text):
        assert len(piece) == 1 or not any(sign in "0123456789" for sign in piece)


def test_no_token_of_the_vocabulary_holds_a_digit_and_more():
    vocabulary = course_tokenizer().inner.get_vocab()
    merged = [
        token for token in vocabulary if len(token) > 1 and any("0" <= c <= "9" for c in token)
    ]
    assert merged == []
    assert all(digit in vocabulary for digit in "0123456789")


def test_shipped_vocabulary():
    tokenizer = course_tokenizer()
    assert tokenizer.vocab_size == 4096
    assert sorted(tokenizer.inner.get_vocab().values()) == list(range(4096))
    assert tokenizer.inner.id_to_token(tokenizer.end_id) == END
    sizes = tokenizer.token_bytes()
    assert sizes.shape == (4096,) and sizes[tokenizer.end_id] == 0
    assert (sizes == 0).sum() == 1 and (sizes == 1).sum() == 256
    assert course_tokenizer() is tokenizer


def test_end_tokens_are_left_out_of_the_text():
    tokenizer = course_tokenizer()
    ids = [*tokenizer.encode("one"), tokenizer.end_id, *tokenizer.encode(" two")]
    assert tokenizer.decode(ids) == "one two"


def test_part_of_a_character_is_shown_as_unknown():
    tokenizer = course_tokenizer()
    ids = tokenizer.encode("🙂")
    assert len(ids) > 1 and "\ufffd" in tokenizer.decode(ids[:-1])


def test_texts_of_each_domain_are_compressed():
    tokenizer = course_tokenizer()
    for text in TEXTS:
        assert len(tokenizer.encode(text)) < 0.6 * len(text.encode())


def test_transformers_reads_the_same_file():
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER_FILE))
    for text in TEXTS:
        assert theirs.encode(text) == course_tokenizer().encode(text)


def test_training_again_gives_the_same_tokenizer():
    first, second = (train_tokenizer(TEXTS * 3, 300) for _ in range(2))
    assert first.inner.to_str() == second.inner.to_str()
    assert first.vocab_size == 300
    assert first.decode(first.encode("unseen ç 字")) == "unseen ç 字"
    learned = set(first.inner.get_vocab()) - set(
        train_tokenizer(["xyz " * 9], 300).inner.get_vocab()
    )
    assert {"the", "Ġthe"} & learned


def test_a_tokenizer_without_the_end_token():
    data = json.loads(TOKENIZER_FILE.read_text(encoding="utf-8"))
    inner = tokenizers.Tokenizer.from_str(json.dumps(data))
    with pytest.raises(ValueError, match=r"no token '<\|no such end\|>'"):
        Tokenizer(inner, end="<|no such end|>")


def test_the_shipped_file_is_the_one_that_checkpoints_were_trained_with():
    digest = hashlib.sha256(TOKENIZER_FILE.read_bytes()).hexdigest()
    assert digest.startswith("0f31701f25fde3e3")
