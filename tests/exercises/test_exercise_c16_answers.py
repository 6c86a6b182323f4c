"""Chapter 16: right answers in other styles pass, and mistakes as learners type them are named."""

import pytest
import torch

from course_utils.exercises import catalog
from course_utils.exercises.judge import judge, prepare
from course_utils.scheduling.block_pool import ROOT

_tasks: dict = {}


def judged(name: str, answer):
    """The verdict on an answer to c16.name."""
    if name not in _tasks:
        _tasks[name] = prepare(catalog.find(f"c16.{name}"), 0)
    return judge(_tasks[name], answer)


# ---- right answers in other styles


def slots_by_list(table, tokens, block_size):
    return torch.tensor(
        [table[t // block_size] * block_size + t % block_size for t in range(tokens)]
    )


def slots_by_blocks(table, tokens, block_size):
    starts = torch.tensor(table) * block_size
    return (starts[:, None] + torch.arange(block_size)).flatten()[:tokens]


def keys_by_counting(tokens, block_size, known=(), hasher=hash):
    keys = [*known]
    before = keys[-1][0] if keys else ROOT
    for block in range(len(keys), len(tokens) // block_size):
        content = tuple(tokens[block * block_size : (block + 1) * block_size])
        before = hasher((before, content))
        keys.append((before, content))
    return keys


def release_by_index(table, blocks, free, cached):
    for place in range(len(table) - 1, -1, -1):
        number = table[place]
        if not blocks[number].references:
            raise ValueError("nobody uses it")
        blocks[number].references -= 1
        if blocks[number].references:
            continue
        if blocks[number].hash is not None:
            cached.update({number: None})
        else:
            free.extend([number])


def share_by_two_loops(running, waiting, max_tokens, max_requests, max_chunk=None):
    limit = max_tokens if max_chunk is None else max_chunk
    counts, seats = [], max_requests
    for left in running:
        counts.append(min(left, limit, max_tokens - sum(counts)))
        seats -= 1
    for left in waiting:
        counts.append(min(left, limit, max_tokens - sum(counts)) if seats > 0 else 0)
        seats -= 1
    return counts


def held_by_generator(text, stops):
    sizes = (n for stop in stops for n in range(1, len(stop)) if text[-n:] == stop[:n])
    return max(sizes, default=0)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("slot_numbers", slots_by_list),
        ("slot_numbers", slots_by_blocks),
        ("block_keys", keys_by_counting),
        ("release_blocks", release_by_index),
        ("share_budget", share_by_two_loops),
        ("held_back", held_by_generator),
    ],
)
def test_a_right_answer_passes_in_any_style(name, answer):
    verdict = judged(name, answer)
    assert verdict.passed, verdict.smallest


# ---- mistakes as learners type them


def keys_from_text_alone(tokens, block_size, known=(), hasher=hash):
    blocks = [tuple(tokens[i : i + block_size]) for i in range(0, len(tokens), block_size)]
    return [(hasher((ROOT, b)), b) for b in blocks if len(b) == block_size]


def release_forward(table, blocks, free, cached):
    for number in table:
        if blocks[number].references < 1:
            raise ValueError
        blocks[number].references -= 1
        if blocks[number].references == 0:
            if blocks[number].hash is None:
                free.append(number)
            else:
                cached[number] = None


def share_prompts_first(running, waiting, max_tokens, max_requests, max_chunk=None):
    prompts = []
    for left in waiting[: max(0, max_requests - len(running))]:
        prompts.append(min(left, max_tokens, max_chunk or max_tokens))
        max_tokens -= prompts[-1]
    others = []
    for left in running:
        others.append(min(left, max_tokens, max_chunk or max_tokens))
        max_tokens -= others[-1]
    return others + prompts + [0] * (len(waiting) - len(prompts))


def held_by_one_character(text, stops):
    return 1 if text and any(text.endswith(stop[0]) for stop in stops) else 0


@pytest.mark.parametrize(
    ("name", "answer", "mistake"),
    [
        (
            "slot_numbers",
            lambda table, tokens, size: torch.arange(tokens),
            "the table is not asked",
        ),
        ("release_blocks", release_forward, "heads before tails"),
        ("share_budget", share_prompts_first, "prompts first"),
        ("held_back", held_by_one_character, "only the last character"),
    ],
)
def test_a_mistake_is_named(name, answer, mistake):
    verdict = judged(name, answer)
    assert not verdict.passed
    assert verdict.mistake is not None and verdict.mistake.name == mistake, verdict.smallest


def test_two_mistakes_at_once_do_not_pass():
    assert not judged("block_keys", keys_from_text_alone).passed
