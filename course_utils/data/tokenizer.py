"""Text to token ids and back: byte-level byte-pair encoding (BPE) through the `tokenizers` library.

Every text can be written (its bytes are tokens), so there is no unknown token. Frequent neighbours
are merged, so that a token stands for about three bytes. Digits are never merged: the model sees
numbers digit by digit, which arithmetic needs; Llama, SmolLM2 and DeepSeek do the like.

The course's tokenizer has 4096 tokens and was trained on the training split of the corpus by
`course_utils.records.tokenizer`. It ships as `tokenizer.json`, readable by `transformers`.

Source: Sennrich et al. 2016, section 3.2; byte-level: Radford et al. 2019, section 2.2.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
TOKENIZER_FILE = Path(__file__).with_name("tokenizer.json")


class Tokenizer:
    """A byte-level BPE tokenizer whose ids, byte lengths and end token the course needs."""

    def __init__(self, inner: tokenizers.Tokenizer, end: str = END):
        self.inner = inner
        self.end_id = inner.token_to_id(end)
        if self.end_id is None:
            raise ValueError(f"the tokenizer has no token {end!r}: not one of the course's")
        self.vocab_size = inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of a text; no end token is added."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, end tokens left out; bytes that form no character become U+FFFD."""
        return self.inner.decode(list(map(int, ids)), skip_special_tokens=True)

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text, each as readable text."""
        return [self.inner.decode([number]) for number in self.encode(text)]

    def token_bytes(self) -> np.ndarray:
        """(V,) bytes of text that each token stands for; 0 for special tokens."""
        special = set(self.inner.get_added_tokens_decoder())
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, number in self.inner.get_vocab().items():
            lengths[number] = 0 if number in special else len(token)  # one character per byte
        return lengths


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn the merges from texts; the result depends on the texts and their order alone."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)


@cache
def course_tokenizer() -> Tokenizer:
    """The course's tokenizer: 4096 tokens, shipped with the package."""
    return Tokenizer(tokenizers.Tokenizer.from_file(str(TOKENIZER_FILE)))
