"""Asking a chat model: pieces come whole, the end is found, an empty question is refused."""

import pytest
import torch

from course_utils.generation import answer
from course_utils.models import DecoderLM, ModelConfig
from course_utils.models.pretrained import Pretrained


class Script:
    """A model that says what it is told to, one id after the other, and counts its calls."""

    config = ModelConfig(300, 8, 8, 1, 1, 1, 8, max_position_embeddings=64)

    def __init__(self, ids):
        self.ids, self.calls = list(ids), 0

    def new_cache(self, batch, capacity):
        return None

    def __call__(self, ids_BT, cache, attention_mask, last_only):
        logits = torch.zeros(1, 1, 300)
        logits[0, 0, self.ids[self.calls]] = 1.0
        self.calls += 1
        return logits


class Bytes:
    """A tokenizer of bytes; 299 ends an answer."""

    def encode(self, text):
        return list(text.encode())[:8]

    def decode(self, ids):
        return bytes(number for number in ids if number < 256).decode(errors="replace")


def test_characters_of_several_tokens_come_whole():
    text = "a曹!"
    script = Script([*text.encode(), 299])
    pieces = list(answer(Pretrained(script, Bytes(), (299,)), "who?", new_tokens=20))
    assert [piece for piece in pieces if piece] == ["a", "曹", "!"]
    assert script.calls == len(text.encode()) + 1


def test_no_more_tokens_than_asked_for():
    script = Script([65] * 50)
    assert "".join(answer(Pretrained(script, Bytes(), (299,)), "go on", new_tokens=5)) == "AAAAA"


@pytest.mark.parametrize("question", ["", "  \n"])
def test_empty_question(question):
    with pytest.raises(ValueError, match="ask something"):
        list(answer(Pretrained(Script([]), Bytes(), (299,)), question))


def test_too_long_for_the_context():
    model = DecoderLM(ModelConfig(300, 8, 8, 1, 1, 1, 8, max_position_embeddings=16))
    with pytest.raises(ValueError, match="exceed the context of 16"):
        list(answer(Pretrained(model, Bytes(), (299,)), "hello", new_tokens=40))
