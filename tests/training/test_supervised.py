"""Fine-tuning judges answers alone: prompts and padding count for nothing."""

import pytest
import torch
import torch.nn.functional as F

from course_utils.models import DecoderLM, ModelConfig
from course_utils.training import TrainingConfig
from course_utils.training.supervised import (
    IGNORED,
    draw_batches,
    encode_examples,
    fine_tune,
    supervised_loss,
)

PAIRS = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 10, 11])]


def tiny() -> DecoderLM:
    return DecoderLM(ModelConfig(20, 16, 32, 1, 2, 1, 8), seed=0)


def test_labels_stand_on_answers_only():
    examples = encode_examples(list, PAIRS)
    assert examples.ids_NT.tolist() == [[1, 2, 3, 4, 5, 0], [6, 7, 8, 9, 10, 11]]
    x = IGNORED
    assert examples.labels_NT.tolist() == [[x, x, x, 4, 5, x], [x, 7, 8, 9, 10, 11]]


def test_loss_is_the_mean_over_answer_tokens_whatever_the_padding():
    model, examples = tiny(), encode_examples(list, PAIRS)
    loss = supervised_loss(model(examples.ids_NT), examples.labels_NT)
    each = []
    for prompt, answer in PAIRS:
        logits_TV = model(torch.tensor([prompt + answer]))[0]
        rows = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        each.append(F.cross_entropy(logits_TV[rows], torch.tensor(answer), reduction="none"))
    torch.testing.assert_close(loss, torch.cat(each).mean())
    padded = F.pad(examples.ids_NT, (0, 3)), F.pad(examples.labels_NT, (0, 3), value=IGNORED)
    torch.testing.assert_close(supervised_loss(model(padded[0]), padded[1]), loss)


def test_the_answers_are_learned_and_a_seed_repeats():
    runs = []
    for _ in range(2):
        model = tiny()
        runs.append(
            fine_tune(
                model,
                encode_examples(list, PAIRS),
                TrainingConfig(100, 2, 6, 1e-2),
                progress=False,
            )
        )
    assert runs[0] == runs[1] and runs[0][-1] < 0.2 < runs[0][0]
    answer = model(torch.tensor([[1, 2, 3, 4]]))[0, 2:].argmax(-1)
    assert answer.tolist() == [4, 5]


@pytest.mark.parametrize("pairs", [[], [([], [1])], [([1], [])]])
def test_empty_examples_are_refused(pairs):
    with pytest.raises(ValueError, match=r"no examples|empty prompt or answer"):
        encode_examples(list, pairs)


def test_batches_of_like_length_take_every_example_equally_often():
    lengths_N = torch.tensor([5] * 10 + [9] * 20 + [30] * 10)
    generator, drawn, spread = torch.Generator().manual_seed(0), [], []
    for _ in range(200):
        for rows in draw_batches(lengths_N, 4, 8, generator):
            drawn.append(rows)
            spread.append(int(lengths_N[rows].max() - lengths_N[rows].min()))
    counts = torch.bincount(torch.cat(drawn), minlength=40)
    assert counts.sum() == 200 * 8 * 4 and counts.min() > 100 and counts.max() < 230
    assert sum(width == 0 for width in spread) > 0.7 * len(spread)


def test_cutting_padding_off_changes_no_loss():
    examples, lengths = encode_examples(list, [([1, 2], [3]), ([4], [5, 6, 7, 8, 9, 10])]), set()

    def loss(logits_BTV, labels_BT):
        lengths.add(labels_BT.shape[1])
        return supervised_loss(logits_BTV, labels_BT)

    for seed in range(6):
        config = TrainingConfig(1, 1, seed=seed)
        (row,) = draw_batches(examples.lengths(), 1, 1, torch.Generator().manual_seed(seed))
        whole = supervised_loss(tiny()(examples.ids_NT[row]), examples.labels_NT[row])
        found = fine_tune(tiny(), examples, config, loss_function=loss, progress=False)
        assert found == pytest.approx([float(whole)], rel=1e-5)
    assert lengths == {3, 7}
