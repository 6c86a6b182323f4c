"""What kind of thing a token is: digit, Chinese, space, word, part of a word, sign.

The type is read from the token's own text, without its neighbours. A type is therefore the same in
every domain, which lets routing by type be told from routing by domain. Left out: parts of speech,
and whether a word is an identifier of a program: both need the context.
"""

from course_utils.data.tokenizer import Tokenizer

TYPES = ("digit", "Chinese", "space", "word", "rest of a word", "sign", "bytes")


def token_type(piece: str) -> str:
    """The type of one token's text, one of TYPES.

    A "word" begins with a space or a capital letter, the "rest of a word" with a small letter;
    "bytes" are parts of a character, which decode to U+FFFD.
    """
    text = piece.strip()
    if "\ufffd" in text:
        return "bytes"
    if not text:
        return "space"
    if text[0].isdigit():
        return "digit"
    if "\u3400" <= text[0] <= "\u9fff":
        return "Chinese"
    if text[0].isalpha():
        return "word" if piece[0].isspace() or text[0].isupper() else "rest of a word"
    return "sign"


def token_types(tokenizer: Tokenizer) -> list[int]:
    """For each id of the vocabulary the index of its type in TYPES; the end token is a sign."""
    pieces = [tokenizer.inner.decode([number]) for number in range(tokenizer.vocab_size)]
    types = [TYPES.index(token_type(piece)) for piece in pieces]
    types[tokenizer.end_id] = TYPES.index("sign")
    return types
