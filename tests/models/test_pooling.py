"""Averaged key-value heads: exact where heads were alike, refused where nothing can be pooled."""

import pytest
import torch

from course_utils.models import DecoderLM, ModelConfig
from course_utils.models.pooling import pool_heads, pool_kv_heads


def small(kv_heads: int) -> DecoderLM:
    return DecoderLM(ModelConfig(64, 32, 48, 2, 4, kv_heads), seed=1).eval()


def test_the_mean_of_neighbouring_heads():
    weight = torch.arange(8.0)[:, None].expand(8, 3)  # 4 heads of 2 channels
    assert pool_heads(weight, 4, 2)[:, 0].tolist() == [1.0, 2.0, 5.0, 6.0]
    assert torch.equal(pool_heads(weight, 4, 4), weight)


@torch.no_grad()
def test_a_model_whose_heads_are_alike_loses_nothing():
    model, ids = small(4), torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
    for layer in model.model.layers:
        for part in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            heads = part.weight.view(2, 2, 8, 32)
            heads[:, 1] = heads[:, 0]
    pooled = pool_kv_heads(model, 2)
    assert pooled.new_cache().elements_per_token() * 2 == model.new_cache().elements_per_token()
    torch.testing.assert_close(pooled(ids), model(ids), rtol=0, atol=1e-6)
    assert not torch.allclose(pool_kv_heads(model, 1)(ids), model(ids), atol=1e-3)


def test_what_does_not_divide_is_refused():
    for groups in (0, 3):
        with pytest.raises(ValueError, match=f"kv_heads is {groups}"):
            pool_kv_heads(small(4), groups)
