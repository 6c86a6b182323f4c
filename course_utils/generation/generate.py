"""Generating text: one prefill over the prompt, then one token at a time from the cache.

Without a cache every new token runs the whole text through the model again: n tokens after a prompt
of P cost about n * P + n * n / 2 token passes. With the cache they cost P + n - 1.

`generate_greedy` is the bare idea, for one sequence. `stream` adds sampling, batches, padding and
stop tokens, and yields the ids as they come; `generate` collects them.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from course_utils.generation.sampling import sample
from course_utils.models.decoder import DecoderLM


def generate_greedy(model: DecoderLM, prompt_T: Tensor, new_tokens: int) -> Tensor:
    """The `new_tokens` most likely ids after the prompt, one by one, through the model's cache.

    prompt (T,) of ids; the result is (new_tokens,). The model processes T + new_tokens - 1 tokens
    in all: the prompt once, then each new token but the last.
    """
    cache = model.new_cache(capacity=len(prompt_T) + new_tokens)
    ids_BT = prompt_T[None]
    chosen = []
    with torch.no_grad():
        for _ in range(new_tokens):
            logits_BTV = model(ids_BT, cache)
            ids_BT = logits_BTV[:, -1:].argmax(dim=-1)
            chosen.append(ids_BT[0])
    return torch.cat(chosen)


def stream(
    model: DecoderLM,
    ids_BT: Tensor,
    new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    attention_mask: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the next ids (B,) of every sequence, up to `new_tokens` times.

    Prompts of different length are padded on the LEFT and told by attention_mask (B, T), 1 for real
    tokens. A sequence that has produced one of `stop_ids` goes on producing that id; when all have,
    the stream ends. Raises ValueError when prompt and new tokens exceed the context.
    """
    _check(model, ids_BT, new_tokens, attention_mask)
    batch, length = ids_BT.shape
    capacity = length + new_tokens
    cache = model.new_cache(batch, capacity)
    generator = torch.Generator(ids_BT.device).manual_seed(seed)
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=ids_BT.device)
    done_B = torch.zeros(batch, dtype=torch.bool, device=ids_BT.device)
    step_ids, last_B = ids_BT, ids_BT[:, -1]
    for _ in range(new_tokens):
        with torch.no_grad():
            logits_BV = model(step_ids, cache, attention_mask, last_only=True)[:, -1]
        next_B = torch.where(done_B, last_B, sample(logits_BV, temperature, top_p, generator))
        yield next_B
        done_B |= torch.isin(next_B, stops)
        if bool(done_B.all()):
            return
        step_ids, last_B = next_B[:, None], next_B
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask, torch.ones_like(step_ids)], dim=1)


def generate(model: DecoderLM, ids_BT: Tensor, new_tokens: int, **options) -> Tensor:
    """The new ids of `stream` as one tensor (B, n), n at most `new_tokens`."""
    return torch.stack(list(stream(model, ids_BT, new_tokens, **options)), dim=1)


def _check(model: DecoderLM, ids_BT: Tensor, new_tokens: int, mask: Tensor | None) -> None:
    if ids_BT.dim() != 2 or 0 in ids_BT.shape:
        raise ValueError(
            f"the prompt has shape {tuple(ids_BT.shape)}: expected (batch, tokens), neither empty"
        )
    if new_tokens < 1:
        raise ValueError(f"new_tokens is {new_tokens}: ask for at least 1")
    limit = model.config.max_position_embeddings
    if ids_BT.shape[1] + new_tokens > limit:
        raise ValueError(
            f"a prompt of {ids_BT.shape[1]} tokens and {new_tokens} new ones exceed the context of "
            f"{limit} (max_position_embeddings): shorten the prompt or ask for fewer tokens"
        )
    if mask is not None and not bool(mask[:, -1].all()):
        raise ValueError("attention_mask ends with padding: pad prompts on the left to generate")
