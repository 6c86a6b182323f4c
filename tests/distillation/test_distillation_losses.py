"""Divergences by definition, their limits, and means that padding and splitting do not change."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.distillation import (
    distillation_loss,
    forward_kl,
    generalized_jsd,
    next_labels,
    reverse_kl,
    token_mean,
)

some = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
DIVERGENCES = (forward_kl, reverse_kl, generalized_jsd)


def logits(seed, *shape, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64) * scale


@some
@given(seeds, st.floats(0.5, 8), st.floats(0.05, 0.95))
def test_divergences_are_their_definitions(seed, T, beta):
    q, p = (z.div(T).softmax(-1) for z in logits(seed, 3, 5))
    student, teacher = logits(seed, 3, 5)
    m = beta * p + (1 - beta) * q
    kl = lambda a, b: (a * (a / b).log()).sum(-1)  # noqa: E731
    torch.testing.assert_close(forward_kl(student, teacher, T), kl(p, q))
    torch.testing.assert_close(reverse_kl(student, teacher, T), kl(q, p))
    expected = beta * kl(p, m) + (1 - beta) * kl(q, m)
    torch.testing.assert_close(generalized_jsd(student, teacher, beta, T), expected)


@some
@given(seeds, st.floats(0.5, 8))
def test_forward_kl_is_torchs_kl_div_with_its_gradient(seed, T):
    student, teacher = logits(seed, 4, 6)
    student.requires_grad_()
    theirs = F.kl_div(
        (student / T).log_softmax(-1), (teacher / T).log_softmax(-1), None, None, "sum", True
    )
    (expected,) = torch.autograd.grad(theirs, student)
    (found,) = torch.autograd.grad(forward_kl(student, teacher, T).sum(), student)
    torch.testing.assert_close(found, expected)


@some
@given(seeds)
def test_nothing_to_learn_from_an_identical_teacher(seed):
    student, _ = logits(seed, 3, 5)
    student.requires_grad_()
    for divergence in DIVERGENCES:
        value = divergence(student, student.detach() + 3.0)  # a shift changes no probability
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert value.abs().max() < 1e-12 and gradient.abs().max() < 1e-12


@some
@given(seeds)
def test_divided_by_beta_the_jsd_tends_to_forward_kl(seed):
    student, teacher = logits(seed, 3, 5)
    small = generalized_jsd(student, teacher, 1e-7) / 1e-7
    torch.testing.assert_close(small, forward_kl(student, teacher), rtol=1e-4, atol=1e-6)
    large = generalized_jsd(student, teacher, 1 - 1e-7) / 1e-7
    torch.testing.assert_close(large, reverse_kl(student, teacher), rtol=1e-4, atol=1e-6)
    assert torch.equal(generalized_jsd(student, teacher, 0), forward_kl(student, teacher))
    assert torch.equal(generalized_jsd(student, teacher, 1), reverse_kl(student, teacher))


@some
@given(seeds)
def test_at_high_temperature_it_is_the_distance_of_centred_logits(seed):
    student, teacher = logits(seed, 3, 5)
    centred = (student - student.mean(-1, True)) - (teacher - teacher.mean(-1, True))
    expected = centred.pow(2).mean(-1) / 2  # Hinton et al. 2015, section 2.1
    for divergence in (forward_kl, reverse_kl):
        value = divergence(student, teacher, 1e3) * 1e6
        torch.testing.assert_close(value, expected, rtol=0.05, atol=1e-4)


@some
@given(seeds)
def test_a_teacher_that_is_certain_is_a_label(seed):
    student, _ = logits(seed, 3, 5)
    labels = torch.arange(3)
    certain = F.one_hot(labels, 5).double() * 1e4
    torch.testing.assert_close(
        forward_kl(student, certain), F.cross_entropy(student, labels, reduction="none")
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_large_logits_stay_finite(divergence):
    student = torch.tensor([[200.0, -200, 0]], requires_grad=True)
    value = divergence(student, torch.tensor([[-200.0, 200, 0]]))
    value.sum().backward()
    assert value.isfinite().all() and student.grad.isfinite().all()


@some
@given(seeds, st.floats(1, 6), st.floats(0, 1), st.integers(1, 4))
def test_parts_and_padding_equal_one_large_batch(seed, T, alpha, size):
    student, teacher = logits(seed, 4, 5, 7)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(7, (4, 5), generator=generator)
    labels[torch.rand(4, 5, generator=generator) < 0.4] = -100
    labels[0, 0] = 1
    loss = partial(distillation_loss, temperature=T, alpha=alpha)
    student.requires_grad_()
    whole = loss(student, teacher, labels)
    (expected,) = torch.autograd.grad(whole, student)
    count = (labels != -100).sum()
    trio = zip(student.split(size), teacher.split(size), labels.split(size), strict=True)
    summed = sum(loss(*part, normalizer=count) for part in trio)
    (found,) = torch.autograd.grad(summed, student)
    torch.testing.assert_close(summed, whole)
    torch.testing.assert_close(found, expected)
    assert (expected[labels == -100] == 0).all()
    spoiled = torch.where((labels == -100)[..., None], 99.0, teacher)
    torch.testing.assert_close(loss(student, spoiled, labels), whole)


def test_the_square_keeps_the_gradient_and_alpha_mixes():
    student, teacher = logits(0, 2, 3, 5)
    student.requires_grad_()
    labels = torch.tensor([[1, 2, -100], [0, 4, 3]])
    hard = F.cross_entropy(student.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert distillation_loss(student, teacher, labels, alpha=0).item() == pytest.approx(hard.item())
    soft = token_mean(forward_kl(student, teacher, 3.0), labels)
    expected = 0.25 * 9 * soft + 0.75 * hard
    got = distillation_loss(student, teacher, labels, 3.0, alpha=0.25)
    assert got.item() == pytest.approx(expected.item())


def test_no_judged_token_costs_nothing_and_the_last_position_has_no_label():
    labels = next_labels(torch.tensor([[5, 6, 7]]))
    assert labels.tolist() == [[6, 7, -100]]
    nothing = token_mean(torch.ones(1, 3), torch.full((1, 3), -100))
    assert nothing.item() == 0 and math.isfinite(nothing)
