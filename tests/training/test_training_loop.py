"""The training loop: schedule, determinism to the bit, resuming, and what it refuses."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from course_utils.models import DecoderLM, ModelConfig
from course_utils.training import TrainingConfig, TrainingState, learning_rate, train
from course_utils.training.loop import make_optimizer

MODEL = ModelConfig(16, 16, 24, 2, 4, 2, 4, 32)
CONFIG = TrainingConfig(
    steps=12, batch=4, length=8, peak_learning_rate=1e-2, warmup_steps=3, seed=5
)
STREAM = torch.randint(16, (300,), generator=torch.Generator().manual_seed(0))


def run(config: TrainingConfig = CONFIG, **options) -> TrainingState:
    return train(DecoderLM(MODEL), STREAM, config, progress=False, **options)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_schedule_warms_up_peaks_and_ends_at_a_tenth():
    config = TrainingConfig(1000, peak_learning_rate=0.5, warmup_steps=100)
    rates = [learning_rate(step, config) for step in range(1001)]
    assert rates[0] == pytest.approx(0.005) and rates[99] == rates[100] == pytest.approx(0.5)
    assert rates[550] == pytest.approx(0.275)  # half way down the cosine: mean of 1 and 1/10
    assert rates[1000] == pytest.approx(0.05)
    rises = [later - sooner for sooner, later in itertools.pairwise(rates)]
    assert all(rise > 0 for rise in rises[:99]) and all(rise < 0 for rise in rises[100:])
    assert all(rise == pytest.approx(rises[0]) for rise in rises[:99])
    assert min(rates) > 0 and max(rates) == pytest.approx(0.5)


def test_schedule_by_its_formula():
    config = TrainingConfig(30, peak_learning_rate=2.0, warmup_steps=10)
    for step in range(10, 30):
        cosine = math.cos(math.pi * (step - 10) / 20)
        assert learning_rate(step, config) == pytest.approx(0.2 + 0.9 * (1 + cosine))


@pytest.mark.parametrize("warmup", [1, 5, 6, 50])
def test_schedule_with_a_warm_up_as_long_as_the_run(warmup):
    config = TrainingConfig(5, peak_learning_rate=1.0, warmup_steps=warmup)
    rates = [learning_rate(step, config) for step in range(6)]
    assert all(0 < rate <= 1 for rate in rates)


def test_every_step_uses_its_rate(monkeypatch):
    used = []
    real = torch.optim.AdamW.step

    def step(self, *a, **k):
        used.append([group["lr"] for group in self.param_groups])
        return real(self, *a, **k)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run()
    assert used == [[learning_rate(n, CONFIG)] * 2 for n in range(12)]


def test_overfits_one_batch():
    stream = torch.randint(16, (8,), generator=torch.Generator().manual_seed(1))
    config = TrainingConfig(150, batch=1, length=8, peak_learning_rate=1e-2, warmup_steps=10)
    state = train(DecoderLM(MODEL), stream, config, progress=False)
    assert state.losses[0] == pytest.approx(math.log(16), abs=0.1)
    assert state.losses[-1] < 0.02
    with torch.no_grad():
        assert torch.equal(state.model(stream[None])[0, :-1].argmax(-1), stream[1:])


def test_twice_the_same_to_the_bit():
    one, other = run(), run()
    assert one.losses == other.losses and len(one.losses) == 12
    assert same_weights(one.model, other.model)
    assert run(replace(CONFIG, seed=6)).losses != one.losses


def test_the_global_generator_has_no_part_in_it():
    first = run().losses
    torch.manual_seed(123)
    assert run().losses == first


@pytest.mark.parametrize("pause", [1, 5, 11])
@pytest.mark.parametrize("tied", [True, False])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, pause, tied):
    config = replace(MODEL, tie_word_embeddings=tied)

    def model(seed=0):
        return DecoderLM(config, seed=seed)

    whole = train(model(), STREAM, CONFIG, progress=False)
    half = train(model(), STREAM, CONFIG, until=pause, progress=False)
    assert half.step == pause
    path = tmp_path / "run.safetensors"
    half.save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    state = TrainingState(model(seed=9), CONFIG)  # other weights: all must come from the file
    state.load(path)
    assert state.losses == half.losses and same_weights(state.model, half.model)
    train(state.model, STREAM, CONFIG, state=state, progress=False)
    assert state.losses == whole.losses
    assert same_weights(state.model, whole.model)


def test_going_on_in_memory_equals_the_uninterrupted_run():
    state = run(until=4)
    train(state.model, STREAM, CONFIG, state=state, progress=False)
    assert state.losses == run().losses


def test_a_finished_run_takes_no_further_step():
    state = run()
    before = {name: weight.clone() for name, weight in state.model.state_dict().items()}
    train(state.model, STREAM, CONFIG, state=state, progress=False)
    assert state.step == 12
    assert all(torch.equal(before[name], w) for name, w in state.model.state_dict().items())


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.safetensors"
    run(until=3).save(path)
    return path


@pytest.mark.parametrize("change", [{"seed": 6}, {"steps": 13}, {"peak_learning_rate": 2e-2}])
def test_resuming_with_another_config(saved, change):
    state = TrainingState(DecoderLM(MODEL), replace(CONFIG, **change))
    with pytest.raises(ValueError, match=r"run\.safetensors was saved by a run with"):
        state.load(saved)
    assert state.step == 0


@pytest.mark.parametrize(
    ("change", "weight"),
    [
        (
            {"vocab_size": 17},
            r"model\.embed_tokens\.weight has shape \(16, 16\) in the file and \(17, 16\) here",
        ),
        ({"intermediate_size": 25}, r"layers\.0\.mlp\.gate_proj\.weight has shape \(24, 16\)"),
        ({"num_hidden_layers": 1}, r"layers\.1\.\S+ is in the file alone"),
        ({"num_hidden_layers": 3}, r"layers\.2\.\S+ is in your model alone"),
        ({"tie_word_embeddings": False}, r"lm_head\.weight is in your model alone"),
    ],
)
def test_resuming_with_another_model(saved, change, weight):
    state = TrainingState(DecoderLM(replace(MODEL, **change), seed=9), CONFIG)
    weights = {name: value.clone() for name, value in state.model.state_dict().items()}
    generator = state.generator.get_state()
    with pytest.raises(ValueError, match=rf"run\.safetensors holds another model: .*{weight}"):
        state.load(saved)
    assert state.step == 0 and torch.equal(state.generator.get_state(), generator)
    assert state.optimizer.state_dict()["state"] == {}
    assert all(torch.equal(weights[name], w) for name, w in state.model.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_resuming_from_a_truncated_file(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"run\.safetensors is not a readable saved run"):
        TrainingState(DecoderLM(MODEL), CONFIG).load(saved)


def test_resuming_from_no_file(tmp_path):
    with pytest.raises(ValueError, match="not a readable saved run"):
        TrainingState(DecoderLM(MODEL), CONFIG).load(tmp_path / "none.safetensors")


def test_resuming_from_another_kind_of_file(saved):
    save_file({"w": torch.zeros(2)}, saved)
    with pytest.raises(ValueError, match="was saved by a run with None"):
        TrainingState(DecoderLM(MODEL), CONFIG).load(saved)


def test_the_moments_are_in_the_file(saved):
    stored = load_file(saved)
    matrices = sum(1 for weight in DecoderLM(MODEL).parameters())
    assert sum(name.endswith("exp_avg_sq") for name in stored) == matrices
    assert stored["losses"].dtype == torch.float64 and len(stored["losses"]) == 3


def test_a_loss_that_is_no_number_names_the_step():
    calls = []

    def loss(logits, ids):
        calls.append(1)
        return logits.sum() * (float("nan") if len(calls) == 3 else 0.0)

    with pytest.raises(ValueError, match="the loss at step 2 is nan: lower peak_learning_rate"):
        run(loss_function=loss)
    assert len(calls) == 3


def test_the_gradient_is_clipped(monkeypatch):
    norms = []
    real = torch.optim.AdamW.step

    def step(self, *a, **k):
        grads = [w.grad for group in self.param_groups for w in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return real(self, *a, **k)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(replace(CONFIG, clip_norm=0.01))
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_norms_are_not_decayed():
    model = DecoderLM(MODEL)
    decayed, free = make_optimizer(model, CONFIG).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {weight.dim() for weight in decayed["params"]} == {2}
    assert {weight.dim() for weight in free["params"]} == {1}
    count = len(decayed["params"]) + len(free["params"])
    assert count == len(list(model.parameters()))


def test_one_step_is_adamws_formula():
    """At the first step AdamW moves every weight by the rate against the gradient's sign."""
    model, config = DecoderLM(MODEL).double(), replace(CONFIG, weight_decay=0.0, clip_norm=1e9)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(model, STREAM, config, until=1, progress=False)
    rate = learning_rate(0, config)
    for name, weight in model.named_parameters():
        moved = (weight.detach() - before[name]).abs()
        assert float(moved.max()) == pytest.approx(rate, rel=1e-2), name


def test_modes_before_and_after():
    modes = []

    class Spy(DecoderLM):
        def forward(self, *a, **k):
            modes.append(self.training)
            return super().forward(*a, **k)

    model = Spy(MODEL).eval()
    state = train(model, STREAM, CONFIG, until=2, progress=False)
    assert modes == [True, True] and not state.model.training


def test_autocast_computes_in_bfloat16_and_keeps_float32_weights():
    kinds = set()

    class Spy(DecoderLM):
        def forward(self, *a, **k):
            logits = super().forward(*a, **k)
            kinds.add(logits.dtype)
            return logits

    state = train(Spy(MODEL), STREAM, CONFIG, until=3, autocast=True, progress=False)
    assert kinds == {torch.bfloat16}
    assert {weight.dtype for weight in state.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps is 0: it must be at least 1"),
        ({"batch": -1}, "batch is -1: it must be at least 1"),
        ({"warmup_steps": 0}, "warmup_steps is 0"),
        ({"length": 1}, "length is 1: predicting needs at least 2 tokens"),
        ({"peak_learning_rate": 0.0}, "peak_learning_rate and clip_norm must be > 0"),
        ({"clip_norm": 0.0}, "peak_learning_rate and clip_norm must be > 0"),
        ({"weight_decay": -0.1}, "weight_decay >= 0"),
    ],
)
def test_configs_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **changes)


def test_the_tokens_of_a_run():
    assert CONFIG.tokens == 12 * 4 * 8


def test_a_stream_shorter_than_a_window():
    with pytest.raises(ValueError, match="windows of 8 ids from 5 ids"):
        train(DecoderLM(MODEL), STREAM[:5], CONFIG, progress=False)
