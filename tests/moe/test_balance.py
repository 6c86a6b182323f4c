"""Balancing losses against references and by hand; what has a gradient; what a bias does."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from course_utils.moe import balance as balance_module
from course_utils.moe import (
    expert_counts,
    load_balancing_loss,
    max_violation,
    pooled_load_balancing_loss,
    router_z_loss,
    sequence_balance_loss,
    update_bias,
)


def random_logits(T: int, E: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    skew_E = 2 * torch.randn(E, generator=generator, dtype=dtype)
    return torch.randn(T, E, generator=generator, dtype=dtype) + skew_E


def chosen(scores_TE: torch.Tensor, k: int) -> torch.Tensor:
    return scores_TE.topk(k, dim=-1).indices


def collapsed(first: int, T: int = 32, E: int = 8) -> torch.Tensor:
    """Logits that send every token to experts `first` and `first` + 1, half and half."""
    logits_TE = torch.full((T, E), -40.0)
    logits_TE[:, first : first + 2] = 0.0
    return logits_TE


@given(st.integers(1, 40), st.integers(2, 9), st.data())
def test_equals_a_loop_over_tokens(T, E, data):
    k = data.draw(st.integers(1, E))
    probabilities_TE = random_logits(T, E, seed=T * E, dtype=torch.float64).softmax(-1)
    experts_TK = chosen(probabilities_TE, k)
    loss = 0.0
    for e in range(E):
        share = sum(e in row for row in experts_TK.tolist()) / (T * k)
        loss += E * share * sum(row[e] for row in probabilities_TE.tolist()) / T
    got = load_balancing_loss(experts_TK, probabilities_TE)
    assert float(got) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_one_at_even_use_and_e_over_k_at_collapse(k):
    E, T = 8, 16
    even_TK = (torch.arange(T * k) % E).view(T, k)
    assert float(load_balancing_loss(even_TK, torch.full((T, E), 1 / E))) == pytest.approx(1)
    collapsed_TK = torch.arange(k).expand(T, k)
    probabilities_TE = torch.zeros(T, E)
    probabilities_TE[:, :k] = 1 / k
    assert float(load_balancing_loss(collapsed_TK, probabilities_TE)) == pytest.approx(E / k)


@pytest.mark.parametrize(("layers", "E", "k"), [(1, 8, 2), (4, 8, 2), (3, 16, 4), (2, 5, 1)])
def test_pooled_loss_equals_transformers(layers, E, k):
    logits = [random_logits(50, E, seed).requires_grad_() for seed in range(layers)]
    probabilities = [logits_TE.softmax(-1) for logits_TE in logits]
    ours = pooled_load_balancing_loss([chosen(p, k) for p in probabilities], probabilities)
    theirs = load_balancing_loss_func(tuple(logits), E, k)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    if layers == 1:
        one = load_balancing_loss(chosen(probabilities[0], k), probabilities[0])
        torch.testing.assert_close(ours, k * one)
    for mine, reference in zip(
        torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-7)


def test_four_collapsed_layers_score_as_perfect_when_pooled():
    logits = [collapsed(first) for first in (0, 2, 4, 6)]
    probabilities = [logits_TE.softmax(-1) for logits_TE in logits]
    experts = [chosen(p, 2) for p in probabilities]
    assert float(pooled_load_balancing_loss(experts, probabilities)) == pytest.approx(2.0)
    assert float(load_balancing_loss_func(tuple(logits), 8, 2)) == pytest.approx(2.0)
    assert float(pooled_load_balancing_loss(experts[:1], probabilities[:1])) == pytest.approx(8.0)
    assert float(load_balancing_loss_func(tuple(logits[:1]), 8, 2)) == pytest.approx(8.0)
    for layer_TK, p in zip(experts, probabilities, strict=True):  # one by one nothing is hidden
        assert float(load_balancing_loss(layer_TK, p)) == pytest.approx(8 / 2)


def test_only_the_probabilities_have_a_gradient():
    T, E, k = 12, 6, 2
    probabilities_TE = random_logits(T, E).softmax(-1).requires_grad_()
    experts_TK = chosen(probabilities_TE, k)
    load_balancing_loss(experts_TK, probabilities_TE).backward()
    shares_E = expert_counts(experts_TK, E) / (T * k)
    expected_TE = (E * shares_E / T).expand(T, E)  # f_e is a constant: no term from the choice
    torch.testing.assert_close(probabilities_TE.grad, expected_TE)


def test_a_step_down_its_gradient_balances():
    logits_TE, k = random_logits(256, 8).requires_grad_(), 2
    before = max_violation(expert_counts(chosen(logits_TE, k), 8))
    for _ in range(60):
        loss = load_balancing_loss(chosen(logits_TE, k), logits_TE.softmax(-1))
        (gradient_TE,) = torch.autograd.grad(loss, logits_TE)
        with torch.no_grad():  # one bias for all tokens, as a router without inputs would learn
            logits_TE -= 2 * gradient_TE.sum(0)
    assert before > 1 and max_violation(expert_counts(chosen(logits_TE, k), 8)) < 0.3


def test_sequence_loss_by_equations_17_to_20():
    B, T, E, k = 3, 7, 6, 2
    generator = torch.Generator().manual_seed(0)
    scores_BTE = torch.rand(B, T, E, generator=generator, dtype=torch.float64)
    experts_BTK = chosen(scores_BTE, k)
    losses = []
    for b in range(B):
        loss = 0.0
        for i in range(E):
            f = E / (k * T) * sum(i in experts_BTK[b, t].tolist() for t in range(T))
            p = sum(float(scores_BTE[b, t, i] / scores_BTE[b, t].sum()) for t in range(T)) / T
            loss += f * p
        losses.append(loss)
    got = sequence_balance_loss(experts_BTK, scores_BTE)
    assert float(got) == pytest.approx(sum(losses) / B, rel=1e-6)


def test_sequence_loss_sees_what_the_batch_hides():
    experts_BTK = torch.tensor([[[0, 1]] * 4, [[2, 3]] * 4])
    scores_BTE = torch.nn.functional.one_hot(experts_BTK, 4).sum(-2).float()
    assert float(sequence_balance_loss(experts_BTK, scores_BTE)) == pytest.approx(2)
    flat = experts_BTK.flatten(0, 1), scores_BTE.flatten(0, 1) / 2
    assert float(load_balancing_loss(*flat)) == pytest.approx(1)


def test_sequence_loss_does_not_depend_on_the_scale_of_the_scores():
    scores_BTE = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(1))
    experts_BTK = chosen(scores_BTE, 2)
    halved = sequence_balance_loss(experts_BTK, scores_BTE / 2)
    torch.testing.assert_close(sequence_balance_loss(experts_BTK, scores_BTE), halved)


def test_no_tokens_is_an_error_with_words():
    with pytest.raises(ValueError, match="no tokens"):
        load_balancing_loss(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 4))
    with pytest.raises(ValueError, match=r"\(0, 5, 2\)"):
        sequence_balance_loss(torch.zeros(0, 5, 2, dtype=torch.long), torch.zeros(0, 5, 4))


def test_z_loss_by_hand_and_its_gradient():
    logits_TE = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], requires_grad=True)
    loss = router_z_loss(logits_TE)
    assert float(loss.detach()) == pytest.approx((math.log(2) ** 2 + math.log(4) ** 2) / 2)
    loss.backward()
    z_T1 = logits_TE.detach().logsumexp(-1, keepdim=True)
    torch.testing.assert_close(logits_TE.grad, z_T1 * logits_TE.detach().softmax(-1))


def test_z_loss_survives_sixteen_bits():
    logits_TE = torch.full((4, 8), 300.0, dtype=torch.float16)
    assert float(router_z_loss(logits_TE)) == pytest.approx((300 + math.log(8)) ** 2, rel=1e-4)


def test_bias_update_by_hand():
    bias_E = torch.tensor([0.5, 0.0, -0.5, 0.25])
    counts_E = torch.tensor([9, 1, 1, 1])  # mean 3: one above, three below
    change_E = torch.tensor([-1.0, 1.0, 1.0, 1.0]) * 0.1
    expected_E = bias_E + change_E - change_E.mean()
    kept_E = bias_E.clone()
    torch.testing.assert_close(update_bias(bias_E, counts_E, 0.1), expected_E)
    assert torch.equal(bias_E, kept_E)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=10))
def test_bias_update_keeps_the_mean_and_the_order_of_loads(counts):
    bias_E = torch.randn(len(counts), generator=torch.Generator().manual_seed(sum(counts)))
    new_E = update_bias(bias_E, torch.tensor(counts), 0.01)
    assert float(new_E.mean()) == pytest.approx(float(bias_E.mean()), abs=1e-6)
    change_E = (new_E - bias_E).tolist()
    for i in range(len(counts)):
        for j in range(len(counts)):
            if counts[i] < counts[j]:
                assert change_E[i] >= change_E[j] - 1e-6
    if len(set(counts)) == 1:
        assert torch.equal(new_E, bias_E)


def test_bias_balances_without_touching_weights_or_gradients():
    scores_TE = random_logits(512, 8).sigmoid().requires_grad_()
    k, bias_E = 2, torch.zeros(8)
    before = max_violation(expert_counts(chosen(scores_TE, k), 8))
    for _ in range(300):
        experts_TK = chosen(scores_TE + bias_E, k)
        bias_E = update_bias(bias_E, expert_counts(experts_TK, 8), 0.01)
    experts_TK = chosen(scores_TE + bias_E, k)
    assert before > 1 and max_violation(expert_counts(experts_TK, 8)) < 0.15
    assert not bias_E.requires_grad and bias_E.abs().max() > 0.1
    # f follows the biased choice, P does not know the bias: the gradient is f alone.
    shares_TE = scores_TE / scores_TE.sum(-1, keepdim=True)
    (gradient_TE,) = torch.autograd.grad(load_balancing_loss(experts_TK, shares_TE), shares_TE)
    f_E = expert_counts(experts_TK, 8) / experts_TK.numel()
    torch.testing.assert_close(gradient_TE, (8 * f_E / 512).expand(512, 8))


def test_the_functions_are_short_enough_to_be_exercises():
    for _, function in inspect.getmembers(balance_module, inspect.isfunction):
        assert len(inspect.getsource(function).splitlines()) <= 30
