"""May these two models be compared token by token? Only with one vocabulary.

Logits are compared by position: column 17 of the student with column 17 of the teacher. If the two
tokenizers number their tokens differently, the result is a number without meaning, and nothing
fails. So the sizes are compared, and the tokenizers themselves where they are given.

With another vocabulary there remains the way by text: the teacher writes, the student's tokenizer
reads, and the student is trained on what was written (`distillation.sequence`). Left out: mapping
one vocabulary onto another (Boizard et al. 2024, universal logit distillation).
"""

import hashlib

from torch import nn

from course_utils.data.tokenizer import Tokenizer

REMEDY = (
    "Logits are compared by position, so this would be meaningless. Distil by text instead: let "
    "the teacher write, and train the student on what it wrote (distillation.sequence)"
)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Twelve hexadecimal digits that tell a tokenizer from any other: its ids and its tokens."""
    pairs = sorted((number, token) for token, number in tokenizer.inner.get_vocab().items())
    return hashlib.sha256(repr(pairs).encode()).hexdigest()[:12]


def check_same_vocabulary(
    student: nn.Module,
    teacher: nn.Module,
    student_tokenizer: Tokenizer | None = None,
    teacher_tokenizer: Tokenizer | None = None,
) -> None:
    """ValueError, with the remedy, unless both models mean the same tokens by the same ids.

    Models have a `config.vocab_size`. Without tokenizers only the sizes can be compared.
    """
    sizes = student.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(f"the student has {sizes[0]} tokens, the teacher {sizes[1]}. {REMEDY}")
    if student_tokenizer is None or teacher_tokenizer is None:
        return
    hashes = tokenizer_hash(student_tokenizer), tokenizer_hash(teacher_tokenizer)
    if hashes[0] != hashes[1]:
        raise ValueError(
            f"both vocabularies have {sizes[0]} tokens, but not the same ones: tokenizer "
            f"{hashes[0]} of the student, {hashes[1]} of the teacher. {REMEDY}"
        )
