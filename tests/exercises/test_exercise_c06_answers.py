"""Chapter 06: right answers in other styles pass, and mistakes as learners type them are named."""

import heapq
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_utils.exercises import catalog
from course_utils.exercises.judge import judge, prepare

_tasks: dict = {}


def judged(name: str, answer, seed: int = 0):
    """The verdict on an answer to c06.name."""
    if (name, seed) not in _tasks:
        _tasks[name, seed] = prepare(catalog.find(f"c06.{name}"), seed)
    return judge(_tasks[name, seed], answer)


# ---- right answers in other styles


def copies_by_loops(rank_TK, ranks):
    found = [(r, t) for r in range(ranks) for t, row in enumerate(rank_TK.tolist()) if r in row]
    pairs = torch.tensor(found, dtype=torch.long).view(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def copies_by_unique_keys(rank_TK, ranks):
    T = max(len(rank_TK), 1)
    keys = (rank_TK * T + torch.arange(len(rank_TK))[:, None])[rank_TK >= 0].unique()
    return keys // T, keys % T


def copies_by_one_hot(rank_TK, ranks):
    wanted_TKR = F.one_hot(rank_TK + 1, ranks + 1)[..., 1:]
    return list(torch.where(wanted_TKR.sum(1).T > 0))


def combine_by_loop(y_CD, token_C, num_tokens):
    y_TD = torch.zeros(num_tokens, y_CD.shape[1], dtype=y_CD.dtype)
    for c, t in enumerate(token_C):
        y_TD[t] += y_CD[c]
    return y_TD


def combine_by_product(y_CD, token_C, num_tokens):
    return F.one_hot(token_C, num_tokens).to(y_CD.dtype).T @ y_CD


def combine_by_scatter(y_CD, token_C, num_tokens):
    zeros_TD = y_CD.new_zeros(num_tokens, y_CD.shape[1])
    return zeros_TD.scatter_add(0, token_C[:, None].expand_as(y_CD), y_CD)


def combine_by_masks(y_CD, token_C, num_tokens):
    return torch.stack([y_CD[token_C == t].sum(0) for t in range(num_tokens)])


def bytes_by_trips(copies, width, bytes_per_number):
    forward = 2 * copies * width * bytes_per_number
    return forward + forward


def expected_by_product(num_experts, k, ranks, limit=None):
    m, size = limit or ranks, num_experts // ranks
    missed = math.prod(max(m * size - size - i, 0) / (m * size - i) for i in range(k))
    return (1 - missed) * m - (1 - missed) * m / ranks


def replicate_by_heap(loads_E, slots):
    experts, copies = list(range(len(loads_E))), [1] * len(loads_E)
    heap = [(-load, e) for e, load in enumerate(loads_E)]
    heapq.heapify(heap)
    while len(experts) < slots:
        _, e = heapq.heappop(heap)
        experts.append(e)
        copies[e] += 1
        heapq.heappush(heap, (-loads_E[e] / copies[e], e))
    return experts


def replicate_by_numpy(loads_E, slots):
    loads_E, copies_E = np.array(loads_E, dtype=float), np.ones(len(loads_E))
    experts = list(range(len(loads_E)))
    for _ in range(slots - len(loads_E)):
        e = np.argmax(loads_E / copies_E)
        copies_E[e] += 1
        experts.append(e)
    return experts


def pack_by_sums(weights, boxes):
    room, contents = len(weights) // boxes, [[] for _ in range(boxes)]
    for item in np.argsort(-np.array(weights, dtype=float), kind="stable"):
        sums = [sum(weights[i] for i in c) if len(c) < room else math.inf for c in contents]
        contents[sums.index(min(sums))].append(item)
    return [tuple(box) for box in contents]


RIGHT = {
    "copies_to_send": (copies_by_loops, copies_by_unique_keys, copies_by_one_hot),
    "combine": (combine_by_loop, combine_by_product, combine_by_scatter, combine_by_masks),
    "wire_bytes": (bytes_by_trips,),
    "expected_copies": (expected_by_product,),
    "replicate": (replicate_by_heap, replicate_by_numpy),
    "pack": (pack_by_sums,),
}


@pytest.mark.parametrize("seed", (0, 1, 2))
@pytest.mark.parametrize(
    ("name", "answer"),
    [(name, answer) for name, answers in RIGHT.items() for answer in answers],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_right_answers_in_other_styles_pass(name, answer, seed):
    verdict = judged(name, answer, seed)
    assert verdict.passed, verdict.smallest


# ---- mistakes as they are typed


def duplicates(rank_TK, ranks):
    rank_C, token_C = [], []
    for r in range(ranks):
        token, _ = torch.where(rank_TK == r)
        token_C.append(token)
        rank_C.append(torch.full_like(token, r))
    return torch.cat(rank_C), torch.cat(token_C)


def adds_once(y_CD, token_C, num_tokens):
    y_TD = torch.zeros(num_tokens, y_CD.shape[1])
    y_TD[token_C] += y_CD
    return y_TD


def gradients_count_twice(copies, width, bytes_per_number):
    forward = 2 * copies * width * bytes_per_number
    return forward + 2 * forward


def own_rank_forgotten(num_experts, k, ranks, limit=None):
    m, size = limit or ranks, num_experts // ranks
    return m - m * math.comb((m - 1) * size, k) / math.comb(m * size, k)


def copies_never_counted(loads_E, slots):
    copies = [1] * len(loads_E)
    experts = list(range(len(loads_E)))
    while len(experts) < slots:
        experts.append(max(range(len(loads_E)), key=lambda e: loads_E[e] / copies[e]))
    return experts


def cards_dealt(weights, boxes):
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    return [order[b::boxes] for b in range(boxes)]


@pytest.mark.parametrize("seed", (0, 1, 2))
@pytest.mark.parametrize(
    ("name", "answer", "mistake"),
    [
        ("copies_to_send", duplicates, "one copy for each expert"),
        ("combine", adds_once, "the last copy wins"),
        ("wire_bytes", gradients_count_twice, "six ways"),
        ("expected_copies", own_rank_forgotten, "its own rank counted"),
        ("replicate", copies_never_counted, "the hottest takes all"),
        ("pack", cards_dealt, "in turn"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_mistakes_as_typed_get_their_name(name, answer, mistake, seed):
    verdict = judged(name, answer, seed)
    assert not verdict.passed
    assert verdict.mistake is not None and verdict.mistake.name == mistake
