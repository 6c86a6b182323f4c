"""The loop: the teacher untouched, micro-batches as one batch, caches, features, vocabularies."""

import copy
from functools import partial

import pytest
import torch

from course_utils.data.tokenizer import course_tokenizer, train_tokenizer
from course_utils.distillation import (
    CacheSource,
    add_gradient,
    build_cache,
    check_same_vocabulary,
    distill,
    distillation_loss,
    mean_of_teachers,
    next_labels,
    packed_kl,
)
from course_utils.distillation.features import FeatureLoss, attention_map_loss, hidden_loss
from course_utils.models import DecoderLM, ModelConfig
from course_utils.training import TrainingConfig

V = 40
CONFIG = TrainingConfig(12, batch=4, length=16, peak_learning_rate=1e-2, warmup_steps=2)
STREAM = torch.randint(V, (400,), generator=torch.Generator().manual_seed(0))


def model(width=16, seed=0, vocabulary=V, scale=1.0):
    made = DecoderLM(ModelConfig(vocabulary, width, 24, 2, 2, 1, 8, 32), seed=seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(scale)
    return made


def run(student, teacher, stream=STREAM, config=CONFIG, **options):
    return distill(student, teacher, stream, config, progress=False, **options)


def test_the_student_learns_and_the_teacher_stays():
    teacher = model(24, 1, scale=4.0).train()
    before, student = copy.deepcopy(teacher.state_dict()), model()
    losses = run(student, teacher, config=TrainingConfig(60, 4, 16, 1e-2, 2)).losses
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert not teacher.training and not student.training


def test_micro_batches_are_one_batch():
    teacher, one, other = model(24, 1, scale=4.0), model(), model()
    whole = run(one, teacher).losses
    for parts in (2, 4):
        other = model()
        assert run(other, teacher, micro_batches=parts).losses == pytest.approx(whole, abs=1e-4)


def test_a_part_adds_its_gradient():
    student, teacher = model(), model(24, 1)
    ids = STREAM[:48].view(4, 12)
    labels = next_labels(ids)
    labels[0, 3:] = -100
    count = (labels != -100).sum()
    whole = add_gradient(student, teacher, ids, labels, count)
    expected = student.lm_head.weight.grad.clone()
    student.zero_grad()
    parts = [
        add_gradient(student, teacher, ids[part], labels[part], count)
        for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(student.lm_head.weight.grad, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(sum(parts), whole)
    assert teacher.lm_head.weight.grad is None and not whole.requires_grad


def test_a_cache_takes_the_teachers_place():
    teacher = model(24, 1, scale=4.0)
    cache = build_cache(teacher, STREAM.view(25, 16), V - 1, CacheSource("a", "b", "c"))
    student = model()
    loss = partial(distillation_loss, divergence=packed_kl)
    state = run(student, cache, None, loss=loss, micro_batches=2)
    assert state.losses[-1] < state.losses[0]
    again = run(model(), cache, None, loss=loss)
    assert again.losses == pytest.approx(state.losses, abs=1e-4)


def test_teachers_are_averaged_in_probabilities():
    one, other = model(seed=1, scale=4.0), model(24, 2, scale=4.0)
    ids = STREAM[:8][None]
    expected = (one(ids).softmax(-1) + other(ids).softmax(-1)) / 2
    torch.testing.assert_close(mean_of_teachers([one, other])(ids).softmax(-1), expected)
    assert run(model(), [one, other]).losses != run(model(), one).losses


def test_a_born_again_student_that_equals_its_teacher_has_nothing_to_learn():
    teacher = model(scale=4.0)
    state = run(copy.deepcopy(teacher), teacher, config=TrainingConfig(1, 4, 16))
    assert state.losses[0] == pytest.approx(0, abs=1e-6)


def test_features_are_matched_through_a_projection_that_learns():
    student, teacher = model(), model(24, 1)
    loss = FeatureLoss(student, teacher, [(0, 0), (1, 1)], weight=2.0)
    start = loss.projections_PDS.detach().clone()
    logits, ids = student(STREAM[:16][None]), STREAM[:16][None]
    targets = teacher(ids)
    plain = distillation_loss(logits, targets, next_labels(ids))
    h_s, h_t = student.model.layers, teacher.model.layers
    assert len(h_s) == len(h_t) == 2
    pairs = [(loss.caught["student", n], loss.caught["teacher", n]) for n in (0, 1)]
    each = [hidden_loss(*pair, start[n])[:, :-1].mean() for n, pair in enumerate(pairs)]
    torch.testing.assert_close(loss(logits, targets, next_labels(ids)), plain + sum(each))
    run(student, teacher, loss=loss)
    assert not torch.equal(loss.projections_PDS, start)
    loss.close()
    loss.caught.clear()
    student(ids)
    assert not loss.caught


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="the teacher has no layer 2: there are 0 to 1"):
        FeatureLoss(model(), model(24), [(0, 2)])


def test_attention_maps_by_definition():
    weights = torch.randn(3, 5, 6, 6).softmax(-1)
    p, q = weights[:1].mean(1), weights[1:2, :4].mean(1)
    expected = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(attention_map_loss(weights[1:2, :4], weights[:1]), expected)
    causal = torch.eye(6).expand(1, 2, 6, 6)
    assert attention_map_loss(causal, causal).abs().max() == 0


def test_another_vocabulary_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"40 tokens, the teacher 50.*Distil by text"):
        run(model(), model(vocabulary=50))
    ours = course_tokenizer()
    theirs = train_tokenizer(["a b c d" * 50], 300)
    check_same_vocabulary(model(), model(24), ours, ours)
    with pytest.raises(ValueError, match="but not the same ones"):
        check_same_vocabulary(model(), model(24), ours, theirs)


def test_a_teacher_without_a_text():
    with pytest.raises(ValueError, match="give stream_N and a teacher"):
        run(model(), model(24), None)


def test_a_loss_that_is_no_number_names_its_step():
    def broken(*_, normalizer, student=None):
        return torch.tensor(float("nan"), requires_grad=True)

    with pytest.raises(ValueError, match="the loss at step 0 is nan"):
        run(model(), model(24), loss=broken)
