"""The losses against TRL's generalised JSD, and torch's `kl_div`: values and gradients.

TRL's has no factor T^2, so ours, divided by it, must agree. These run in the oracles' environment
(`make oracles`).
"""

import pytest
import torch

from course_utils.distillation import distillation_loss, generalized_jsd, token_mean

gkd = pytest.importorskip(
    "trl.experimental.gkd", reason="the oracles' environment has it: make oracles"
)


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_jsd_and_its_gradient_are_those_of_trl(beta, temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 11, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(11, (3, 5), generator=generator)
    labels[0, 2:], labels[2, :1] = -100, -100
    student.requires_grad_()
    theirs = gkd.GKDTrainer.generalized_jsd_loss(
        student, teacher, labels=labels, beta=beta, temperature=temperature
    )
    (their_gradient,) = torch.autograd.grad(theirs, student)
    ours = token_mean(generalized_jsd(student, teacher, beta, temperature), labels)
    (our_gradient,) = torch.autograd.grad(ours, student)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_gradient, their_gradient)


def test_the_square_is_ours_and_the_normalizer_is_theirs_too():
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 2, 4, 7, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 2, 3, -100], [4, -100, -100, -100]])
    theirs = gkd.GKDTrainer.generalized_jsd_loss(
        student, teacher, labels=labels, beta=0, temperature=3.0, num_items_in_batch=9
    )
    ours = distillation_loss(student, teacher, labels, temperature=3.0, normalizer=9)
    torch.testing.assert_close(ours / 9, theirs)  # 3.0 squared
