"""Looking at attention changes nothing, and a choice is obeyed."""

import pytest
import torch

from course_utils.attention import LinearAttentionConfig, window_mask
from course_utils.models import DecoderLM, ModelConfig
from course_utils.models.attention_maps import look

IDS = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(0))


def model(**more) -> DecoderLM:
    made = DecoderLM(ModelConfig(30, 16, 24, 2, 4, 2, head_dim=4, **more), seed=1)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) / 2)
    return made


def test_the_logits_are_the_models_and_the_model_is_as_before():
    made = model()
    attend = made.model.layers[0].self_attn.attend
    before = made(IDS)
    found = look(made, IDS)
    torch.testing.assert_close(found.logits_BTV, before.detach(), rtol=0, atol=1e-4)
    assert made.model.layers[0].self_attn.attend is attend
    assert torch.equal(made(IDS), before)
    assert len(found.inputs) == len(found.weights) == len(found.read) == 2


def test_weights_sum_to_one_and_never_look_ahead():
    found = look(model(), IDS)
    for weights_BHTT, target_BTT in zip(found.weights, found.targets(), strict=True):
        torch.testing.assert_close(weights_BHTT.sum(-1), torch.ones(2, 4, 12))
        torch.testing.assert_close(target_BTT.sum(-1), torch.ones(2, 12))
        assert not weights_BHTT.triu(1).any()


def test_a_window_as_a_choice_is_sliding_attention():
    made = model()
    place_T = torch.arange(12)
    seen_TT = window_mask(place_T, place_T, 3)
    found = look(made, IDS, lambda layer, x_BTD, p_BTT: seen_TT.expand_as(p_BTT))
    sliding = model(sliding_window=3, layer_types=("sliding_attention",) * 2)
    sliding.load_state_dict(made.state_dict())
    torch.testing.assert_close(found.logits_BTV, sliding(IDS).detach(), rtol=0, atol=1e-4)
    assert all(torch.equal(read_BTT[0], seen_TT) for read_BTT in found.read)


def test_a_choice_gets_the_layer_and_cannot_open_the_future():
    asked = []

    def everything(layer, x_BTD, p_BTT):
        asked.append((layer, x_BTD.shape))
        return torch.ones_like(p_BTT, dtype=torch.bool)

    made = model()
    found = look(made, IDS, everything)
    assert asked == [(0, (2, 12, 16)), (1, (2, 12, 16))]
    torch.testing.assert_close(found.logits_BTV, made(IDS).detach(), rtol=0, atol=1e-4)


def test_linear_layers_have_no_map():
    linear = LinearAttentionConfig("gated_deltanet", 1, 1, 4, 4)
    made = model(linear=linear, layer_types=("linear_attention", "full_attention"))
    with pytest.raises(ValueError, match="give a model of GQA"):
        look(made, IDS)
