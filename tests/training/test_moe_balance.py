"""Hooks of the training loop, and the balancing that stands on them, with a small router."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn

from course_utils.models import DecoderLM, ModelConfig
from course_utils.moe import (
    MoEConfig,
    Routing,
    load_balancing_loss,
    router_z_loss,
    sequence_balance_loss,
)
from course_utils.training import (
    AuxiliaryLoss,
    BalanceTrace,
    BiasUpdate,
    SequenceLoss,
    TrainingConfig,
    TrainingState,
    ZLoss,
    layer_counts,
    train,
)

V, E, K = 12, 8, 2
CONFIG = TrainingConfig(20, batch=8, length=16, peak_learning_rate=1e-2, warmup_steps=3, seed=1)
STREAM = torch.randint(V, (400,), generator=torch.Generator().manual_seed(0))


class Layer(nn.Module):
    """The least that routes as an MoE layer does: k of E vectors, weighted by sigmoid scores."""

    def __init__(self, bias: bool):
        super().__init__()
        self.gate = nn.Linear(6, E)
        self.values_ED = nn.Parameter(torch.randn(E, 6))
        with torch.no_grad():
            self.gate.bias[:2] += 3  # two favourites
        if bias:
            self.gate.register_buffer("e_score_correction_bias", torch.zeros(E))
        self.routing = None

    def forward(self, x_BTD):
        logits_TE = self.gate(x_BTD.flatten(0, 1))
        scores_TE = logits_TE.sigmoid()
        choice_TE = scores_TE + getattr(self.gate, "e_score_correction_bias", 0.0)
        experts_TK = choice_TE.topk(K).indices
        weights_TK = scores_TE.gather(1, experts_TK)
        self.routing = Routing(experts_TK, weights_TK, scores_TE, logits_TE)
        y_TD = (weights_TK[..., None] * self.values_ED[experts_TK]).sum(1)
        return x_BTD + y_TD.view_as(x_BTD)


class Model(nn.Module):
    def __init__(self, bias: bool = True):
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(V, 6)
        self.layers = nn.Sequential(Layer(bias), Layer(bias))
        self.head = nn.Linear(6, V)

    def forward(self, ids_BT):
        return self.head(self.layers(self.embedding(ids_BT)))


def run(bias: bool = True, config: TrainingConfig = CONFIG, **options) -> TrainingState:
    return train(Model(bias), STREAM, config, progress=False, **options)


@pytest.fixture
def model() -> Model:
    model = Model()
    model(STREAM[:32].view(2, 16))
    return model


def test_hooks_that_do_nothing_change_no_bit():
    plain, calls = run(), []
    hooked = run(
        extra_losses=[lambda model: torch.zeros(())], after_step=[lambda model: calls.append(model)]
    )
    assert hooked.losses == plain.losses and calls == [hooked.model] * CONFIG.steps
    for one, other in zip(plain.model.parameters(), hooked.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_extra_losses_are_learned_and_not_recorded():
    def pull(model):
        return (model.head.bias - 1).square().sum()

    plain, pulled = run(), run(extra_losses=[pull, pull])
    assert pulled.losses[0] == plain.losses[0]  # before the first step nothing has changed
    assert pulled.losses[-1] != plain.losses[-1]
    assert float(pull(pulled.model).detach()) < 0.9 * float(pull(plain.model).detach())


def test_after_step_sees_the_new_weights_in_order():
    seen = []
    model = Model()
    before = model.head.weight.detach().clone()
    hooks = [
        lambda m: seen.append(("first", not torch.equal(m.head.weight, before))),
        lambda m: seen.append(("second", m.head.weight.grad is None)),
    ]
    train(model, STREAM, CONFIG, until=1, after_step=hooks, progress=False)
    assert seen == [("first", True), ("second", True)]


def test_an_extra_loss_that_is_no_number_stops_before_the_step():
    model = Model()
    before = model.head.weight.detach().clone()
    with pytest.raises(ValueError, match="the loss at step 0 is nan"):
        train(
            model,
            STREAM,
            CONFIG,
            extra_losses=[lambda m: torch.tensor(float("nan"))],
            progress=False,
        )
    assert torch.equal(model.head.weight, before)


def test_losses_sum_over_layers(model):
    routings = [layer.routing for layer in model.layers]
    shares = [r.scores_TE / r.scores_TE.sum(-1, keepdim=True) for r in routings]
    auxiliary = sum(
        load_balancing_loss(r.experts_TK, s) for r, s in zip(routings, shares, strict=True)
    )
    torch.testing.assert_close(AuxiliaryLoss(0.5)(model), 0.5 * auxiliary)
    z = sum(router_z_loss(r.logits_TE) for r in routings)
    torch.testing.assert_close(ZLoss(0.1)(model), 0.1 * z)
    sequence = sum(
        sequence_balance_loss(r.experts_TK.view(2, 16, K), r.scores_TE.view(2, 16, E))
        for r in routings
    )
    torch.testing.assert_close(SequenceLoss(2.0, length=16)(model), 2 * sequence)


@pytest.mark.parametrize("loss", [AuxiliaryLoss(1.0), SequenceLoss(1.0, 16), ZLoss(1.0)])
def test_losses_reach_the_router_and_nothing_after_it(model, loss):
    loss(model).backward()
    assert all(layer.gate.weight.grad.abs().sum() > 0 for layer in model.layers)
    assert model.head.weight.grad is None and model.layers[1].values_ED.grad is None


def test_counts_per_layer(model):
    counts_LE = layer_counts(model)
    assert counts_LE.shape == (2, E) and counts_LE.sum(1).tolist() == [32 * K] * 2
    for layer, counts_E in zip(model.layers, counts_LE.tolist(), strict=True):
        assert counts_E == [int((layer.routing.experts_TK == e).sum()) for e in range(E)]


def test_balancing_balances_and_the_trace_shows_it():
    config = replace(CONFIG, steps=120, peak_learning_rate=2e-2)
    ends = {}
    for name, options in {
        "none": {},
        "auxiliary": {"extra_losses": [AuxiliaryLoss(0.3)]},
        "bias": {"after_step": [BiasUpdate(0.02)]},
    }.items():
        trace = BalanceTrace()
        run(config=config, **options | {"after_step": [*options.get("after_step", []), trace]})
        assert len(trace.max_violations_SL) == len(trace.counts_SLE) == 120
        assert all(len(row) == 2 for row in trace.max_violations_SL + trace.entropies_SL)
        worst = max(map(max, trace.max_violations_SL[-10:]))
        ends[name] = worst, min(map(min, trace.entropies_SL[-10:]))
    assert ends["none"][0] > 1.5
    for name in ("auxiliary", "bias"):
        assert ends[name][0] < 0.7 * ends["none"][0] and ends[name][1] > ends["none"][1]


def test_the_bias_moves_by_hook_alone_and_is_no_parameter():
    still, moved = run(), run(after_step=[BiasUpdate(0.01)])
    for layer in still.model.layers:
        assert not layer.gate.e_score_correction_bias.any()
    for layer in moved.model.layers:
        bias_E = layer.gate.e_score_correction_bias
        assert bias_E.abs().max() > 0.05 and not bias_E.requires_grad and bias_E.grad is None
        assert float(bias_E.mean()) == pytest.approx(0, abs=1e-6)
    moments = sum(len(group["params"]) for group in moved.optimizer.param_groups)
    assert moments == len(list(moved.model.parameters()))


def test_a_resumed_run_keeps_the_bias(tmp_path):
    whole = run(after_step=[BiasUpdate(0.01)])
    run(until=7, after_step=[BiasUpdate(0.01)]).save(tmp_path / "run.safetensors")
    state = TrainingState(Model(), CONFIG)
    state.load(tmp_path / "run.safetensors")
    train(state.model, STREAM, CONFIG, state=state, after_step=[BiasUpdate(0.01)], progress=False)
    assert state.losses == whole.losses
    for one, other in zip(state.model.layers, whole.model.layers, strict=True):
        assert torch.equal(one.gate.e_score_correction_bias, other.gate.e_score_correction_bias)


@pytest.mark.parametrize("scoring_func", ["softmax", "sigmoid"])
def test_the_decoder_with_experts_trains_balanced(scoring_func):
    moe = MoEConfig(E, K, 12, scoring_func=scoring_func, use_routing_bias=True)
    size = ModelConfig(V, 16, 24, 2, 4, 2, 4, 32, moe=moe)

    def end(**options) -> tuple[float, nn.Module]:
        trace = BalanceTrace()
        options["after_step"] = [*options.get("after_step", []), trace]
        config = replace(CONFIG, steps=40)
        model = DecoderLM(size, seed=2)
        with torch.no_grad():  # tokens share a direction that two experts like
            model.model.embed_tokens.weight += 0.02
            for layer in model.model.layers:
                layer.mlp.gate.weight[:2] += 0.04
        model = train(model, STREAM, config, progress=False, **options).model
        assert all(counts.sum(1).tolist() == [8 * 16 * K] * 2 for counts in trace.counts_SLE)
        return max(map(max, trace.max_violations_SL[-5:])), model

    none, _ = end()
    by_bias, model = end(after_step=[BiasUpdate(0.003)])
    by_loss, _ = end(extra_losses=[AuxiliaryLoss(1.0), SequenceLoss(0.1, 16), ZLoss(0.001)])
    assert none > 1.5 and by_bias < 0.7 * none and by_loss < 0.7 * none
    names = [name for name, _ in model.named_parameters()]
    assert not any("bias" in name for name in names)
    for layer in model.model.layers:
        bias_E = layer.mlp.gate.e_score_correction_bias
        assert bias_E.abs().max() > 0.01 and bias_E.grad is None


def test_what_is_missing_is_named(model):
    dense = DecoderLM(ModelConfig(16, 16, 24, 2, 4, 2, 4, 32))
    for hook in (AuxiliaryLoss(1.0), ZLoss(1.0), BiasUpdate(0.1), BalanceTrace()):
        with pytest.raises(ValueError, match="no MoE layer has routed tokens"):
            hook(dense)
    with pytest.raises(ValueError, match="length 5 does not divide the 32 tokens"):
        SequenceLoss(1.0, length=5)(model)
    with pytest.raises(ValueError, match="use_routing_bias"):
        run(bias=False, after_step=[BiasUpdate(0.1)])


def test_the_hooks_are_in_the_open():
    parameters = inspect.signature(train).parameters
    assert parameters["extra_losses"].default == () == parameters["after_step"].default
