"""The decoder with experts against `transformers`: same weights, same logits and gradients."""

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.mixtral import modeling_mixtral
from transformers.models.qwen3_moe import modeling_qwen3_moe

from course_utils.accounting.spec import ModelSpec
from course_utils.generation import generate
from course_utils.models import DecoderLM, ModelConfig, load_checkpoint, moe_layers, save_checkpoint
from course_utils.models.checkpoints import read_header
from course_utils.moe import MoEConfig, experts_dense, experts_loop, experts_sorted, route
from course_utils.training import TrainingConfig, train

FAMILIES = ("qwen3_moe", "mixtral")
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)]
)
DENSE = ModelConfig(50, 32, 64, 2, 4, 2, 16, 64)


def config_for(family: str, **changes) -> ModelConfig:
    first = 1 if family == "qwen3_moe" else 0
    moe = MoEConfig(6, 2, 20, first_k_dense_replace=first, norm_topk_prob=True)
    values = dict(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=500.0,
        tie_word_embeddings=False,
        use_qk_norm=family == "qwen3_moe",
        moe=moe,
    )
    return ModelConfig(**values | changes)


def twin_of(config: ModelConfig) -> nn.Module:
    """The model of `transformers` with the same shape; eager experts work in every precision."""
    values = config.to_dict()
    moe, theta = values.pop("moe"), values.pop("rope_theta")
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    values["num_experts_per_tok"] = moe["num_experts_per_tok"]
    if values.pop("use_qk_norm"):
        values |= {
            "num_experts": moe["num_experts"],
            "moe_intermediate_size": moe["moe_intermediate_size"],
            "norm_topk_prob": moe["norm_topk_prob"],
            "mlp_only_layers": list(range(moe["first_k_dense_replace"])),
        }
        twin = Qwen3MoeForCausalLM(Qwen3MoeConfig(**values))
    else:
        values |= {
            "num_local_experts": moe["num_experts"],
            "intermediate_size": moe["moe_intermediate_size"],
        }
        twin = MixtralForCausalLM(MixtralConfig(**values, sliding_window=None))
    twin.set_experts_implementation("eager")
    return twin.eval()


def in_our_names(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights or gradients of the twin under our names: gate and up apart, as x @ w."""
    ours = {}
    for name, tensor in theirs.items():
        stem, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            gate, up = tensor.mT.chunk(2, dim=-1)
            ours |= {f"{stem}.w_gate_EDF": gate, f"{stem}.w_up_EDF": up}
        elif last == "down_proj" and tensor.dim() == 3:
            ours[f"{stem}.w_down_EFD"] = tensor.mT
        else:
            ours[name] = tensor
    return {name: tensor.contiguous() for name, tensor in ours.items()}


@torch.no_grad()
def pair(family: str, dtype: torch.dtype, monkeypatch, **changes) -> tuple[DecoderLM, nn.Module]:
    """Ours and the twin with the same random weights, norms included."""
    if dtype == torch.float64:
        in_full_precision(monkeypatch)
    config = config_for(family)
    theirs = twin_of(config)
    generator = torch.Generator().manual_seed(0)
    for weight in theirs.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else 0.2 * noise)
    ours = DecoderLM(config, **changes)
    ours.load_state_dict(in_our_names(theirs.state_dict()))
    return ours.eval().to(dtype), theirs.to(dtype)


def in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the twin's norm and router compute in the model's precision: they round to float32."""

    def norm(self, x):
        mean_square = x.pow(2).mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(mean_square + self.variance_epsilon)

    def router(self, x):
        logits = nn.functional.linear(x.reshape(-1, self.hidden_dim), self.weight)
        weights, experts = logits.softmax(-1).topk(self.top_k, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), experts

    for family, prefix in ((modeling_qwen3_moe, "Qwen3Moe"), (modeling_mixtral, "Mixtral")):
        monkeypatch.setattr(getattr(family, f"{prefix}RMSNorm"), "forward", norm)
        monkeypatch.setattr(getattr(family, f"{prefix}TopKRouter"), "forward", router)


def ids_of(batch: int, length: int) -> torch.Tensor:
    return torch.randint(37, (batch, length), generator=torch.Generator().manual_seed(1))


@PRECISIONS
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_same_logits_at_once_in_parts_and_token_by_token(family, dtype, tolerance, monkeypatch):
    ours, theirs = pair(family, dtype, monkeypatch)
    ids = ids_of(3, 11)
    expected = theirs(ids).logits
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(ours(ids), expected, rtol=0, atol=tolerance)
    for lengths in ([5, 1, 3, 2], [1] * 11):
        cache = ours.new_cache(3)
        got = torch.cat([ours(part, cache) for part in ids.split(lengths, dim=1)], dim=1)
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@PRECISIONS
@pytest.mark.parametrize("family", FAMILIES)
def test_same_gradients_of_every_weight(family, dtype, tolerance, monkeypatch):
    ours, theirs = pair(family, dtype, monkeypatch)
    ids = ids_of(2, 9)
    ours(ids).logsumexp(-1).mean().backward()
    theirs(ids).logits.logsumexp(-1).mean().backward()
    expected = in_our_names({name: weight.grad for name, weight in theirs.named_parameters()})
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        assert weight.grad.abs().max() > 0, name
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=tolerance)


@torch.no_grad()
def test_every_dispatch_gives_the_same_model(monkeypatch):
    ours, _ = pair("qwen3_moe", torch.float64, monkeypatch)
    for dispatch in (experts_loop, experts_sorted, experts_dense):
        other = DecoderLM(ours.config, dispatch=dispatch).double()
        other.load_state_dict(ours.state_dict())
        torch.testing.assert_close(other(ids_of(2, 7)), ours(ids_of(2, 7)), rtol=0, atol=1e-12)


def test_a_wrong_twin_is_noticed(monkeypatch):
    ours, theirs = pair("mixtral", torch.float64, monkeypatch)
    expected = theirs(ids_of(2, 7)).logits
    for name in ("gate.weight", "experts.w_down_EFD"):
        weight = dict(moe_layers(ours)[1].named_parameters())[name]
        before = weight.detach().clone()
        weight.data.copy_(before.flip(0))
        assert (ours(ids_of(2, 7)) - expected).abs().max() > 1e-2
        weight.data.copy_(before)
    torch.testing.assert_close(ours(ids_of(2, 7)), expected, rtol=0, atol=1e-9)


def test_the_config_says_which_layers_have_experts():
    for first in (0, 1, 3):
        moe = MoEConfig(6, 2, 20, first_k_dense_replace=first)
        model = DecoderLM(config_for("mixtral", moe=moe))
        kinds = [type(layer.mlp).__name__ for layer in model.model.layers]
        assert kinds == ["MLP"] * first + ["MoE"] * (3 - first)
        assert moe_layers(model) == [layer.mlp for layer in model.model.layers[first:]]
    assert moe_layers(DecoderLM(DENSE)) == []


def test_the_learner_s_router_runs_in_every_layer():
    calls = []

    def counting(logits_TE, config, bias_E):
        calls.append(len(logits_TE))
        return route(logits_TE, config, bias_E)

    DecoderLM(config_for("qwen3_moe"), route=counting)(ids_of(2, 7))
    assert calls == [14, 14]


@torch.no_grad()
def test_experts_begin_like_the_projections_they_replace():
    config = config_for("mixtral", hidden_size=64, moe=MoEConfig(8, 2, 64, n_shared_experts=1))
    model = DecoderLM(config, seed=4)
    for layer in moe_layers(model):
        small = 0.02 / 6**0.5
        shared, experts = layer.shared_experts, layer.experts
        for weight in (layer.gate.weight, experts.w_gate_EDF, experts.w_up_EDF):
            assert weight.std() == pytest.approx(0.02, rel=0.1)
        for weight in (experts.w_down_EFD, shared.down_proj.weight):
            assert weight.std() == pytest.approx(small, rel=0.1)
    again, other = DecoderLM(config, seed=4), DecoderLM(config, seed=5)
    for a, b, c in zip(model.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.dim() == 1 or not torch.equal(a, c)


@torch.no_grad()
def test_a_dense_model_begins_with_the_weights_it_always_had():
    """Recorded before there were experts; records and checkpoints of chapter 02 rest on it."""
    model = DecoderLM(DENSE, seed=3)
    first, second = (layer.mlp for layer in model.model.layers)
    gate, down = first.gate_proj.weight.flatten()[:2], second.down_proj.weight.flatten()[:2]
    assert gate.tolist() == pytest.approx([0.0128184231, 0.0170274712], rel=1e-6)
    assert down.tolist() == pytest.approx([-0.0036192082, -0.0030717548], rel=1e-6)
    squares = sum(weight.double().pow(2).sum().item() for weight in model.parameters())
    assert squares == pytest.approx(232.07962059879168, rel=1e-6)
    assert len(model.state_dict()) == 25 and "moe" not in DENSE.to_dict()


@pytest.mark.parametrize(
    "moe",
    [
        MoEConfig(6, 2, 20),
        MoEConfig(6, 2, 20, first_k_dense_replace=2, n_shared_experts=2),
        MoEConfig(
            8, 3, 20, n_shared_experts=1, use_shared_expert_gate=True, zero_expert_num=4,
            use_routing_bias=True, scoring_func="sigmoid", routed_scaling_factor=2.5,
        ),
    ],
)  # fmt: skip
def test_counts_are_those_of_the_ledger(moe):
    config = config_for("qwen3_moe", moe=moe)
    model, count = DecoderLM(config), ModelSpec.from_hf_config(config.to_dict()).count()
    assert model.count_parameters() == count.total
    assert model.activated_parameters() == count.activated
    tables = 2 * 37 * 24
    assert model.activated_parameters(embedding=False) == count.activated - tables
    assert DecoderLM(DENSE).activated_parameters() == DecoderLM(DENSE).count_parameters()


def test_counts_are_those_of_qwen3_moe_s_own_config():
    config = config_for("qwen3_moe", moe=MoEConfig(6, 2, 20))
    theirs = {
        "model_type": "qwen3_moe", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False,
        "max_position_embeddings": 64, "norm_topk_prob": True,
    }  # fmt: skip
    count, model = ModelSpec.from_hf_config(theirs).count(), DecoderLM(config)
    assert (model.count_parameters(), model.activated_parameters()) == (
        count.total,
        count.activated,
    )


def test_checkpoints_carry_experts_and_the_whole_bias(tmp_path):
    moe = MoEConfig(6, 2, 20, scoring_func="sigmoid", use_routing_bias=True)
    config = config_for("qwen3_moe", moe=moe)
    model = DecoderLM(config)
    for layer in moe_layers(model):
        layer.gate.e_score_correction_bias.copy_(torch.linspace(0.1, 0.1005, 6))
    save_checkpoint(model, tmp_path / "moe.safetensors", {"steps": 1})
    header = read_header(tmp_path / "moe.safetensors")["config"]
    assert header["moe"]["num_experts"] == 6 and ModelConfig.from_dict(header) == config
    again = load_checkpoint(tmp_path / "moe.safetensors", dispatch=experts_loop)
    assert moe_layers(again)[0].experts.dispatch is experts_loop
    for mine, read in zip(moe_layers(model), moe_layers(again), strict=True):
        bias, kept = mine.gate.e_score_correction_bias, read.gate.e_score_correction_bias
        assert torch.equal(bias, kept) and len(bias.unique()) == 6  # bfloat16 has fewer
        rounded = mine.experts.w_up_EDF.bfloat16().float()
        assert torch.equal(read.experts.w_up_EDF, rounded)
    low = load_checkpoint(tmp_path / "moe.safetensors", torch.bfloat16)
    assert moe_layers(low)[0].gate.e_score_correction_bias.dtype == torch.float32


@pytest.mark.parametrize(
    ("moe", "words"),
    [
        ({"num_experts": 4}, "incomplete MoE config"),
        ({"num_experts": 4, "top_k": 2}, "unknown MoE config key 'top_k'"),
        (MoEConfig(4, 2, 8, first_k_dense_replace=4), "first_k_dense_replace 4 is more than"),
        (MoEConfig(4, 2, 8, num_hash_layers=1), "num_hash_layers is 1: .* token ids"),
        ("mixtral", "moe is 'mixtral': it must be an MoEConfig"),
    ],
)
def test_what_cannot_be_is_refused(moe, words):
    values = config_for("mixtral").to_dict() | {"moe": moe}
    with pytest.raises(ValueError, match=words):
        ModelConfig.from_dict(values)


def test_it_trains_and_generates():
    model = DecoderLM(config_for("qwen3_moe"))
    stream = torch.arange(400) % 7
    config = TrainingConfig(60, batch=4, length=16, warmup_steps=5)
    losses = train(model, stream, config, progress=False).losses
    assert losses[-1] < 0.5 * losses[0]
    ids = generate(model.eval(), torch.arange(6)[None], 5)
    cached = model(ids).argmax(-1)[:, 5:-1]
    assert torch.equal(ids[:, 6:], cached)
