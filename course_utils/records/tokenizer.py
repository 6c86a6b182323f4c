"""How the course's tokenizer was made: `python -m course_utils.records.tokenizer`.

Trained on the training split of the four domains, vocabulary 4096. Rewrites data/tokenizer.json,
which every checkpoint and record depends on; without a change to the texts it comes out the same.
"""

from course_utils.data.corpus import split_of
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import TOKENIZER_FILE, train_tokenizer

VOCABULARY = 4096


def main() -> None:
    texts = (
        text
        for domain, read in DOMAINS.items()
        for name, text in read().items()
        if split_of(domain, name) == "train"
    )
    tokenizer = train_tokenizer(texts, VOCABULARY)
    tokenizer.inner.save(str(TOKENIZER_FILE))
    size = TOKENIZER_FILE.stat().st_size
    print(f"{TOKENIZER_FILE.name}: {tokenizer.vocab_size} tokens, {size:,} bytes")


if __name__ == "__main__":
    main()
