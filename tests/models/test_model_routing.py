"""What is reported as chosen was chosen; an expert that is off gets no token, and comes back."""

import pytest
import torch

from course_utils.models import (
    DecoderLM,
    ModelConfig,
    chosen_experts,
    moe_layers,
    without_expert,
)
from course_utils.moe import MoEConfig

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
EXPERTS = MoEConfig(6, 2, 8, first_k_dense_replace=1, scoring_func="sigmoid", use_routing_bias=True)
IDS = torch.randint(50, (3, 11), generator=torch.Generator().manual_seed(1))


def model(experts: MoEConfig | None = EXPERTS) -> DecoderLM:
    return DecoderLM(ModelConfig(**SIZES, moe=experts), seed=0)


def test_chosen_experts_of_every_layer():
    lm = model()
    chosen_LNK = chosen_experts(lm, IDS)
    assert chosen_LNK.shape == (2, 33, 2) and not chosen_LNK.is_floating_point()
    for layer, experts_NK in zip(moe_layers(lm), chosen_LNK, strict=True):
        assert torch.equal(layer.routing.experts_TK, experts_NK)
    one = chosen_experts(lm, IDS[1:2])
    assert torch.equal(one, chosen_LNK[:, 11:22])  # rows follow one another


def test_a_dense_model_has_no_routing():
    with pytest.raises(ValueError, match="no MoE layer"):
        chosen_experts(model(None), IDS)


def test_an_expert_that_is_off_is_used_by_nobody_and_comes_back():
    lm = model()
    before = chosen_experts(lm, IDS)
    layer, off = moe_layers(lm)[1], int(before[1, 0, 0])
    kept = layer.gate.e_score_correction_bias.clone()
    with without_expert(layer, off):
        during = chosen_experts(lm, IDS)
        assert not (during[1] == off).any()
        assert torch.equal(during[0], before[0])  # the layer before is untouched
        others_N = ~(before[1] == off).any(-1)
        assert torch.equal(during[1][others_N], before[1][others_N])  # and so are other tokens
        assert layer.routing.weights_TK.isfinite().all()
    assert torch.equal(layer.gate.e_score_correction_bias, kept)
    assert torch.equal(chosen_experts(lm, IDS), before)


def test_it_comes_back_after_an_error():
    layer = moe_layers(model())[0]
    with pytest.raises(RuntimeError), without_expert(layer, 3):
        raise RuntimeError
    assert layer.gate.e_score_correction_bias.isfinite().all()


def test_what_cannot_be_switched_off_is_refused():
    plain = moe_layers(model(MoEConfig(4, 2, 8)))[0]
    with pytest.raises(ValueError, match="no bias"), without_expert(plain, 0):
        pass
    full = moe_layers(model(MoEConfig(2, 2, 8, use_routing_bias=True)))[0]
    with pytest.raises(ValueError, match="none can be left out"), without_expert(full, 0):
        pass
