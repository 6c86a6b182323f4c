"""The decoder with experts against `transformers`: same weights, same logits and gradients."""

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.mixtral import modeling_mixtral
from transformers.models.qwen3_moe import modeling_qwen3_moe

from course_utils.models import DecoderLM, ModelConfig
from course_utils.moe import MoEConfig

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
