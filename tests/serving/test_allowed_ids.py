"""Constrained decoding: no id but the allowed ones is ever chosen, with drafts too."""

import pytest
import torch

from course_utils.generation.drafts import NgramDraft
from course_utils.models import DecoderLM, ModelConfig
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import Engine, SamplingParams, probabilities

ALLOWED = (2, 5, 7)


def test_the_others_have_probability_zero_and_these_share_theirs():
    logits_LV = torch.randn(3, 11, generator=torch.Generator().manual_seed(0))
    kept = logits_LV.clone()
    p_LV = probabilities(logits_LV, SamplingParams(temperature=0.7, allowed_ids=ALLOWED))
    expected_LA = (logits_LV[:, list(ALLOWED)] / 0.7).softmax(-1)
    assert torch.allclose(p_LV[:, list(ALLOWED)], expected_LA)
    assert p_LV.sum() == pytest.approx(3) and torch.equal(logits_LV, kept)
    greedy_LV = probabilities(logits_LV, SamplingParams(allowed_ids=ALLOWED))
    best_L = torch.tensor(ALLOWED)[logits_LV[:, list(ALLOWED)].argmax(-1)]
    assert torch.equal(greedy_LV.argmax(-1), best_L)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("draft", [None, lambda: NgramDraft(11)])
def test_the_engine_chooses_among_them(temperature, draft):
    config = ModelConfig(11, 16, 24, 2, 4, 2, head_dim=8, max_position_embeddings=64)
    model = DecoderLM(config, seed=0).eval()
    engine = Engine(model, SchedulerConfig(40, 4), draft=draft)
    free = engine.add([1, 2, 0, 1, 2, 0], SamplingParams(12, temperature, seed=1))
    bound = engine.add(
        [1, 2, 0, 1, 2, 0], SamplingParams(12, temperature, seed=1, allowed_ids=ALLOWED)
    )
    engine.run()
    assert set(bound.new_ids) <= set(ALLOWED) and len(bound.new_ids) == 12
    assert not set(free.new_ids) <= set(ALLOWED)
