"""What the mock model says: plain words, drawn by the seed and the prompt, so always the same.

    any prompt                12 to 48 words
    a tool's result comes last  the result, repeated
    an open JSON text         a word of the user's: a capitalised one, or the last
    only some ids allowed     those that the user's words have, else the first allowed one

Texts are alike for equal prompts, at temperature 0 whatever the seed of the request. What it leaves
out: sense. Each token counts as equally likely among the mock's words (`likelihoods`).
"""

import math
import random
import re
import zlib

from course_utils.data.tokenizer import Tokenizer
from course_utils.serving.params import SamplingParams

WORDS = (
    "river stone light garden window morning paper bridge winter island table forest letter "
    "market silver harbour music kitchen summer village road cloud engine mountain field "
    "station candle orange valley ship bread tower meadow lantern ocean street"
).split()
SHORTEST, LONGEST = 12, 48  # words
TURN = re.compile(r"(?:^|\n)(System|User|Assistant|Tool): ?")


def answer(
    tokenizer: Tokenizer, prompt: list[int], params: SamplingParams, seed: int = 0
) -> list[int]:
    """Ids of the answer, `max_tokens` of them or fewer; ends with a stop id if it is complete."""
    text = tokenizer.decode(prompt)
    if params.allowed_ids:
        return _among_allowed(tokenizer, text, params)
    if text.endswith('": "'):
        return tokenizer.encode(_word_for_json(text) + '"')[: params.max_tokens]
    turns = TURN.split(text)
    if len(turns) > 4 and turns[-2:] == ["Assistant", ""] and turns[-4] == "Tool":
        ids = tokenizer.encode(turns[-3].strip())
    else:
        key = f"{seed} {zlib.crc32(repr(prompt).encode())}"
        draw = random.Random(f"{key} {params.seed if params.temperature else 'greedy'}")
        ids = _drawn(tokenizer, draw, params, "" if text.endswith("Assistant:") else " ")
    return [*ids, *params.stop_ids[:1]][: params.max_tokens]


def _drawn(
    tokenizer: Tokenizer, draw: random.Random, params: SamplingParams, space: str
) -> list[int]:
    """Words, the first one behind `space`; without a stop id they go on to the limit."""
    count, ids = draw.randint(SHORTEST, LONGEST), []
    while count > 0 or (not params.stop_ids and len(ids) < params.max_tokens):
        ids += tokenizer.encode((" " if ids else space) + draw.choice(WORDS))
        count -= 1
    return ids


def last_words(text: str) -> str:
    """What the user said last, or all of a text without turns."""
    turns = TURN.split(text)
    said = [words for role, words in zip(turns[1::2], turns[2::2], strict=True) if role == "User"]
    return said[-1].strip() if said else text


def _word_for_json(text: str) -> str:
    words = re.findall(r"\w+", last_words(text)) or ["word"]
    names = [word for word in words[1:] if word[0].isupper()]
    return (names or words)[-1]


def _among_allowed(tokenizer: Tokenizer, text: str, params: SamplingParams) -> list[int]:
    said = last_words(text)
    number, written = (re.findall(r"\d+", said) or ["1"])[0], re.search(r"\d*$", text)[0]
    ids = tokenizer.encode(number.removeprefix(written))
    if set(ids) <= set(params.allowed_ids) and (ids or params.stop_ids):
        return [*ids, *params.stop_ids[:1]][: params.max_tokens]
    heard = set(tokenizer.encode(said) + tokenizer.encode(" ".join(re.findall(r"\w+", said))))
    heard |= {number for word in said.split() for number in tokenizer.encode(word)}
    return [next((one for one in params.allowed_ids if one in heard), params.allowed_ids[0])]


def likelihoods(tokenizer: Tokenizer, token: int, count: int) -> dict[int, float]:
    """Log-probabilities of the chosen token and of `count` others, all alike."""
    others = [tokenizer.encode(" " + word)[0] for word in WORDS[:count]]
    return dict.fromkeys([token, *others], -math.log(len(WORDS)))
