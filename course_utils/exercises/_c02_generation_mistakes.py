"""Wrong answers to the exercise on generation in chapter 02."""

import torch

from course_utils.exercises.spec import WrongAnswer


def _loop(model, prompt, new_tokens, *, with_cache=True, everything=False, extra=0, first=False):
    """Greedy generation with one mistake at a time."""
    cache = model.new_cache() if with_cache else None
    text, step, chosen = list(prompt.tolist()), prompt[None], []
    for _ in range(new_tokens + extra):
        logits = model(step, cache)
        number = int(logits[0, 0 if first else -1].argmax())
        chosen.append(number)
        text.append(number)
        step = torch.tensor([text if everything else [number]])
    return torch.tensor(chosen[: new_tokens if not extra else None])


def _last_token_twice(model, prompt, new_tokens):
    """The prompt goes through, its logits are dropped, and its last token goes through again."""
    cache = model.new_cache()
    model(prompt[None], cache)
    ids, chosen = prompt[None, -1:], []
    for _ in range(new_tokens):
        ids = model(ids, cache)[:, -1:].argmax(-1)
        chosen.append(ids[0])
    return torch.cat(chosen)


def _without_batch(model, prompt, new_tokens, *, later=False):
    """Ids without a batch dimension, from the start or from the second call."""
    cache, ids, chosen = model.new_cache(), prompt[None] if later else prompt, []
    for _ in range(new_tokens):
        ids = model(ids, cache)[0, -1:].argmax(-1)
        chosen.append(ids)
    return torch.cat(chosen)


def _small_cache(model, prompt, new_tokens, **size):
    cache, ids, chosen = model.new_cache(**size), prompt[None], []
    for _ in range(new_tokens):
        ids = model(ids, cache)[:, -1:].argmax(-1)
        chosen.append(ids[0])
    return torch.cat(chosen)


GENERATE_GREEDY = (
    WrongAnswer(
        "no cache",
        lambda model, prompt, new: _loop(model, prompt, new, with_cache=False, everything=True),
        "The text is right and the work is not: every step runs the whole text again. Make one "
        "cache, give the model the prompt once, then only the newest token.",
    ),
    WrongAnswer(
        "whole text into the cache",
        lambda model, prompt, new: _loop(model, prompt, new, everything=True),
        "You use the cache and still pass the whole text each time, so the model sees "
        "everything again and again, at the wrong positions. Pass only the newest token.",
    ),
    WrongAnswer(
        "cache forgotten after the prompt",
        lambda model, prompt, new: _loop(model, prompt, new, with_cache=False),
        "After the prompt you pass one token without the cache: the model has forgotten the "
        "rest. Hand the same cache to every call.",
    ),
    WrongAnswer(
        "last token fed twice",
        _last_token_twice,
        "The last token of the prompt goes through the model twice: the second time it stands one "
        "position too far. The pass over the prompt gives the first new token already.",
    ),
    WrongAnswer(
        "one token too many",
        lambda model, prompt, new: _loop(model, prompt, new, extra=1),
        "There is one token too many: the prompt's own pass gives the first new token already.",
    ),
    WrongAnswer(
        "prompt returned too",
        lambda model, prompt, new: torch.cat([prompt, _loop(model, prompt, new)]),
        "The result begins with the prompt. Return the new ids alone.",
    ),
    WrongAnswer(
        "first position read",
        lambda model, prompt, new: _loop(model, prompt, new, first=True),
        "The next token is predicted at the LAST position of the prompt; you read the first.",
    ),
    WrongAnswer(
        "ids without a batch",
        _without_batch,
        "The model takes ids of shape (batch, tokens), and yours have one dimension: "
        "prompt_T[None] is a batch of one.",
        also=(lambda model, prompt, new: _without_batch(model, prompt, new, later=True),),
    ),
    WrongAnswer(
        "cache too small",
        lambda model, prompt, new: _small_cache(model, prompt, new, capacity=len(prompt)),
        "The cache is too small. The prompt and every new token but the last go into it: "
        "capacity=len(prompt_T) + new_tokens is enough.",
        also=(lambda model, prompt, new: _small_cache(model, prompt, new, capacity=new),),
    ),
    WrongAnswer(
        "capacity given as the batch",
        lambda model, prompt, new: _small_cache(model, prompt, new, batch=len(prompt) + new),
        "The first argument of new_cache is the batch. Name the other one: new_cache(capacity=n).",
    ),
)
