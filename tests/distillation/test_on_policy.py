"""On-policy distillation: which positions count, whose texts, which gradients."""

import torch
from torch import nn

from course_utils.data.puzzles import END_ID, SYMBOLS, encode, questions
from course_utils.distillation.losses import IGNORED, forward_kl, reverse_kl
from course_utils.distillation.on_policy import (
    completion_labels,
    distill_on_policy,
    on_policy_loss,
    sampled_reverse_kl,
)
from course_utils.distillation.sequence import pad_left
from course_utils.models import DecoderLM, ModelConfig
from course_utils.training import TrainingConfig

V = len(SYMBOLS)


def small_model(seed: int) -> DecoderLM:
    model = DecoderLM(ModelConfig(V, 16, 32, 2, 2, 2), seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() > 1 else 1)
    return model


def test_labels_are_the_completion_with_its_end_and_nothing_else():
    ids_BT = torch.tensor([[0, 9, 8, 5, 6, 1, 1], [7, 9, 8, 5, 6, 7, 4]])
    assert completion_labels(ids_BT, 3, end_id=1).tolist() == [
        [IGNORED, IGNORED, 5, 6, 1, IGNORED, IGNORED],
        [IGNORED, IGNORED, 5, 6, 7, 4, IGNORED],
    ]


def test_the_loss_is_the_mean_divergence_on_the_students_own_tokens():
    student, teacher = small_model(0), small_model(1)
    prompt_BT, mask_BT = pad_left([encode(q) for q in questions(0, 3)], 0)
    new_BN = torch.tensor([[5, 6, END_ID, END_ID], [END_ID] * 4, [7, 8, 9, 10]])
    asked = []

    def draw(model, *given):
        asked.append((model, torch.is_grad_enabled()))
        return new_BN

    for divergence in (reverse_kl, forward_kl):
        loss = on_policy_loss(student, teacher, prompt_BT, mask_BT, draw, END_ID, divergence)
        values = []
        for row, length in zip(range(3), (3, 1, 4), strict=True):  # one by one, without padding
            prompt = prompt_BT[row][mask_BT[row] == 1]
            ids = torch.cat([prompt, new_BN[row, :length]])[None]
            found = divergence(student(ids), teacher(ids))[0]
            values.append(found[len(prompt) - 1 : -1])
        torch.testing.assert_close(loss, torch.cat(values).mean(), rtol=1e-4, atol=1e-6)
    assert asked == [(student, False)] * 2
    loss.backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(weight.grad is not None for weight in student.parameters())


def test_the_sampled_loss_has_the_gradient_of_reverse_kl_on_average():
    generator = torch.Generator().manual_seed(0)
    logits_V = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher_V = torch.randn(6, generator=generator, dtype=torch.float64)
    (exact_V,) = torch.autograd.grad(reverse_kl(logits_V, teacher_V), logits_V)
    student_V, given_V = logits_V.log_softmax(-1), teacher_V.log_softmax(-1)
    estimated_V, plain_V = torch.zeros(6).double(), torch.zeros(6).double()
    for token in range(6):  # every token that could be drawn, by its chance
        chance, label = student_V[token].exp().detach(), torch.tensor([token])
        pair = student_V[token : token + 1], given_V[token : token + 1]
        for total_V, loss in (
            (estimated_V, sampled_reverse_kl(*pair, label)),
            (plain_V, (pair[0] - pair[1]).mean()),
        ):
            (found_V,) = torch.autograd.grad(loss, logits_V, retain_graph=True)
            total_V += chance * found_V
    torch.testing.assert_close(estimated_V, exact_V)
    assert float(exact_V.abs().max()) > 0.1 and float(plain_V.abs().max()) < 1e-12


def test_a_student_comes_nearer_to_its_teacher_and_the_teacher_stays():
    student, teacher = small_model(0), small_model(1)
    before = nn.utils.parameters_to_vector(teacher.parameters()).clone()
    prompts = [encode(question) for question in questions(0, 32)]
    config = TrainingConfig(12, 16, peak_learning_rate=1e-2, warmup_steps=2)
    losses = distill_on_policy(student, teacher, prompts, config, 8, end_id=END_ID, progress=False)
    assert len(losses) == 12 and sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert torch.equal(before, nn.utils.parameters_to_vector(teacher.parameters()))
