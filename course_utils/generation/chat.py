"""Asking a chat model a question, and reading its answer as it is written."""

from collections.abc import Iterator

from course_utils.generation.generate import stream
from course_utils.models.pretrained import Pretrained


def answer(
    pretrained: Pretrained,
    question: str,
    new_tokens: int = 80,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[str]:
    """Yield the answer to a question piece by piece, up to `new_tokens` tokens.

    A character of several tokens comes whole. Raises ValueError for an empty question, or one that
    exceeds the model's context.
    """
    if not question.strip():
        raise ValueError("the question is empty: ask something")
    ids, said = [], ""
    options = {"temperature": temperature, "top_p": top_p, "seed": seed}
    prompt = pretrained.chat_ids(question)
    for next_B in stream(
        pretrained.model, prompt, new_tokens, stop_ids=pretrained.stop_ids, **options
    ):
        ids.append(int(next_B))
        text = pretrained.tokenizer.decode(ids)
        if not text.endswith("\ufffd"):
            yield text.removeprefix(said)
            said = text
