"""The decoder against `transformers`: the same weights, carried over both ways, the same logits."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from course_utils.models import DecoderLM, ModelConfig

FAMILIES = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
in_both_precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float64, 1e-9)],
    ids=["float32", "float64"],
    indirect=["dtype"],
)


def norm_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the twin an RMSNorm that computes in the model's own precision.

    The one of `transformers` rounds to float32 inside, whatever the model's precision. In a float64
    comparison that alone costs 1e-7; the float32 comparisons use it as it is.
    """

    def forward(self, x):
        mean_square = x.pow(2).mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(mean_square + self.variance_epsilon)

    for norm in (Qwen3RMSNorm, LlamaRMSNorm):
        monkeypatch.setattr(norm, "forward", forward)


@pytest.fixture
def dtype(request, monkeypatch) -> torch.dtype:
    if request.param == torch.float64:
        norm_in_full_precision(monkeypatch)
    return request.param


@pytest.fixture
def float64(monkeypatch) -> torch.dtype:
    norm_in_full_precision(monkeypatch)
    return torch.float64


def config_for(family: str, tied: bool, groups: int = 2) -> ModelConfig:
    return ModelConfig(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=groups,
        head_dim=8,  # 4 x 8 is not 24: a head may be wider than its share
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=500.0,
        tie_word_embeddings=tied,
        use_qk_norm=family == "qwen3",
    )


def twin_of(config: ModelConfig) -> nn.Module:
    values = config.to_dict()
    family = "qwen3" if values.pop("use_qk_norm") else "llama"
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    config_class, model_class = FAMILIES[family]
    return model_class(config_class(**values, rope_parameters=rope)).eval()


@torch.no_grad()
def shake(model: nn.Module, seed: int) -> None:
    """Random values for every weight; norms too, which begin at 1 and would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else 0.15 * noise)


def pair(
    config: ModelConfig, direction: str, dtype: torch.dtype, seed: int = 0
) -> tuple[DecoderLM, nn.Module]:
    """Ours and theirs with the same weights, made in one and loaded into the other, strictly."""
    ours, theirs = DecoderLM(config).eval(), twin_of(config)
    source, target = (ours, theirs) if direction == "to transformers" else (theirs, ours)
    shake(source, seed)
    target.load_state_dict(source.state_dict())
    return ours.to(dtype), theirs.to(dtype)


def random_ids(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(37, (batch, length), generator=torch.Generator().manual_seed(seed))


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert theirs.abs().max() > 0.5  # logits near zero would agree by themselves
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@in_both_precisions
@pytest.mark.parametrize("direction", ["to transformers", "from transformers"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", list(FAMILIES))
@torch.no_grad()
def test_same_logits_single_batched_and_cached(family, tied, direction, dtype, tolerance):
    ours, theirs = pair(config_for(family, tied), direction, dtype)
    for batch in (1, 3):
        ids = random_ids(batch, 11)
        expected = theirs(ids).logits
        close(ours(ids), expected, tolerance)
        close(ours(ids, last_only=True), expected[:, -1:], tolerance)
        cache, their_cache = ours.new_cache(batch, 11), None
        for part in ids.split([5, 1, 2, 1, 1, 1], dim=1):
            step = theirs(part, past_key_values=their_cache, use_cache=True)
            their_cache = step.past_key_values
            close(ours(part, cache), step.logits, tolerance)


@in_both_precisions
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", list(FAMILIES))
@torch.no_grad()
def test_same_logits_with_padding(family, side, dtype, tolerance):
    ours, theirs = pair(config_for(family, True), "from transformers", dtype)
    ids, lengths = random_ids(3, 9), (9, 5, 1)
    mask = torch.zeros_like(ids)
    for row, length in zip(mask, lengths, strict=True):
        row[slice(9 - length, None) if side == "left" else slice(length)] = 1
    # `transformers` wants the positions spelled out; the padding's own do not matter
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=mask, position_ids=places).logits
    real = mask.bool()
    close(ours(ids, attention_mask=mask)[real], expected[real], tolerance)

    cache, their_cache, done = ours.new_cache(3, 9), None, 0
    for part in ids.split([4, 1, 3, 1], dim=1):
        now = slice(done, done + part.shape[1])
        seen, done = mask[:, : now.stop], now.stop
        step = theirs(
            part,
            attention_mask=seen,
            position_ids=places[:, now],
            past_key_values=their_cache,
            use_cache=True,
        )
        their_cache = step.past_key_values
        logits, here = ours(part, cache, seen), real[:, now]
        torch.testing.assert_close(logits[here], step.logits[here], rtol=0, atol=tolerance)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("family", list(FAMILIES))
@torch.no_grad()
def test_multi_query_and_multi_head_are_the_same_code(family, groups, float64):
    ours, theirs = pair(config_for(family, False, groups), "to transformers", float64)
    ids = random_ids(2, 7)
    close(ours(ids), theirs(ids).logits, 1e-9)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_same_gradients(family, float64):
    ours, theirs = pair(config_for(family, True), "to transformers", float64)
    ids = random_ids(2, 7)
    ours(ids).logsumexp(-1).sum().backward()
    theirs(ids).logits.logsumexp(-1).sum().backward()
    expected = dict(theirs.named_parameters())
    assert expected.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        assert weight.grad.abs().max() > 0
        torch.testing.assert_close(weight.grad, expected[name].grad, rtol=1e-8, atol=1e-8)


def test_a_wrong_twin_is_noticed(float64):
    """The comparison has teeth: another RoPE base or norm weight moves the logits far more."""
    ours, theirs = pair(config_for("qwen3", True), "to transformers", float64)
    ids = random_ids(1, 11)
    with torch.no_grad():
        expected = theirs(ids).logits
        ours.model.layers[1].self_attn.k_norm.weight[0] += 0.01
        assert (ours(ids) - expected).abs().max() > 1e-5
    other = ModelConfig.from_dict(ours.config.to_dict() | {"rope_theta": 501.0})
    moved = DecoderLM(other).double()
    moved.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert (moved(ids) - expected).abs().max() > 1e-6
