"""How the course's tokenizer was made: `python -m course_utils.records.tokenizer`.

Trained on the training split of the four domains, vocabulary 4096. Rewrites data/tokenizer.json,
which every checkpoint and record depends on; without a change to the texts it comes out the same.
"""

from pathlib import Path

import course_utils.data
from course_utils.data.corpus import split_of
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import train_tokenizer

VOCABULARY = 4096


def main() -> None:
    texts = (
        text
        for domain, read in DOMAINS.items()
        for name, text in read().items()
        if split_of(domain, name) == "train"
    )
    tokenizer = train_tokenizer(texts, VOCABULARY)
    path = Path(course_utils.data.__file__).with_name("tokenizer.json")
    tokenizer.inner.save(str(path))
    print(f"{path.name}: {tokenizer.vocab_size} tokens, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
