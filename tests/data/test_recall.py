"""Recall texts are what they say: every answer stands in its text, and nowhere else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data.recall import (
    NOT_ASKED,
    RecallTask,
    measure_recall,
    recall_accuracy,
    recall_batch,
    recall_loss,
)

some = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def tasks(draw) -> RecallTask:
    pairs = draw(st.integers(1, 12))
    queries, distance = draw(st.integers(1, pairs)), draw(st.integers(0, 5))
    return RecallTask(pairs, queries, distance, keys=draw(st.integers(pairs, 15)), values=7)


def batch(task: RecallTask, seed: int = 0, texts: int = 6):
    return recall_batch(task, texts, torch.Generator().manual_seed(seed))


@some
@given(tasks(), st.integers(0, 2**31))
def test_every_query_has_the_answer_of_its_pair(task, seed):
    ids_BT, targets_BT = batch(task, seed)
    assert ids_BT.shape == targets_BT.shape == (6, task.length)
    start = task.pairs + task.distance
    for ids, targets in zip(ids_BT.tolist(), targets_BT.tolist(), strict=True):
        stored = dict(divmod(pair, task.values) for pair in ids[: task.pairs])
        assert len(stored) == task.pairs
        assert all(0 <= key < task.keys for key in stored)
        assert ids[task.pairs : start] == [task.vocab_size - 1] * task.distance
        asked = [token - task.first_key for token in ids[start:]]
        assert len(set(asked)) == task.queries
        assert targets[start:] == [task.first_value + stored[key] for key in asked]
        assert set(targets[:start]) == {NOT_ASKED}


def test_the_seed_decides():
    task = RecallTask(5, 3)
    assert torch.equal(batch(task, 4)[0], batch(task, 4)[0])
    assert not torch.equal(batch(task, 4)[0], batch(task, 5)[0])


def test_the_order_of_queries_is_not_that_of_the_pairs():
    task = RecallTask(8, 8)
    ids_BT, _ = batch(task, texts=20)
    assert (ids_BT[:, :8] // task.values != ids_BT[:, 8:] - task.first_key).any(dim=1).all()


def test_only_answers_count():
    task = RecallTask(4, 2)
    targets_BT = batch(task)[1]
    logits = torch.zeros(6, task.length, task.vocab_size)
    right = logits.clone()
    right.scatter_(-1, targets_BT.clamp(min=0)[..., None], 20.0)
    assert recall_accuracy(right, targets_BT) == 1.0
    assert recall_loss(right, targets_BT) < 1e-4
    half = right.clone()
    half[:, 4] = 0
    half[:, 4, -1] = 20.0  # the first query says "dot"
    assert recall_accuracy(half, targets_BT) == 0.5
    torch.testing.assert_close(
        recall_loss(logits, targets_BT), torch.tensor(float(task.vocab_size)).log()
    )


class Looks(torch.nn.Module):
    """A model that looks the answer up."""

    def __init__(self, task: RecallTask):
        super().__init__()
        self.weight, self.task = torch.nn.Parameter(torch.zeros(1)), task

    def forward(self, ids_BT):
        logits = torch.zeros(*ids_BT.shape, self.task.vocab_size)
        start, values = self.task.pairs + self.task.distance, self.task.values
        for b, ids in enumerate(ids_BT.tolist()):
            stored = dict(divmod(pair, values) for pair in ids[: self.task.pairs])
            for t in range(start, len(ids)):
                answer = stored[ids[t] - self.task.first_key]
                logits[b, t, self.task.first_value + answer] = 1
        return logits


def test_looking_up_is_always_right():
    task = RecallTask(6, 4, 3)
    assert measure_recall(Looks(task), task, texts=70) == 1.0


@pytest.mark.parametrize(
    "values, word",
    [
        ({"pairs": 0, "queries": 1}, "pairs is 0"),
        ({"pairs": 65, "queries": 1}, "65 pairs"),
        ({"pairs": 2, "queries": 0}, "queries is 0"),
        ({"pairs": 2, "queries": 3}, "3 queries"),
        ({"pairs": 2, "queries": 1, "distance": -1}, "distance is -1"),
    ],
)
def test_wrong_values_are_refused(values, word):
    with pytest.raises(ValueError, match=word):
        RecallTask(**values)
