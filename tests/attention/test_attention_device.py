"""Every kind of attention on a GPU: values, gradients and decoding are those of the CPU."""

import copy

import pytest
import torch

from course_utils.attention import (
    IndexerConfig,
    LayeredCache,
    LinearAttentionConfig,
    MLAConfig,
    indexer_loss,
    indexer_parameters,
)
from course_utils.models import DecoderLM, ModelConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
MLA = MLAConfig(**LATENT, q_lora_rank=12)
DSA = MLAConfig(**LATENT, index=IndexerConfig(2, 8, 5))
DELTA = LinearAttentionConfig("gated_deltanet", 2, 4, 8, 6)
KDA = LinearAttentionConfig("kda", 4, 4, 8, 8)
LIGHTNING = LinearAttentionConfig("lightning", 4, 4, 8, 8)
VARIANTS = {
    "MHA": {"num_key_value_heads": 4},
    "GQA": {},
    "MQA": {"num_key_value_heads": 1},
    "window": {"layer_types": [SLIDING] * 3, "sliding_window": 5},
    "window and full": {"layer_types": [SLIDING, SLIDING, FULL], "sliding_window": 5},
    "MLA": {"mla": MLA},
    "DSA": {"mla": DSA},
    "Gated DeltaNet": {"layer_types": [LINEAR] * 3, "linear": DELTA},
    "KDA and MLA": {"layer_types": [LINEAR, LINEAR, FULL], "linear": KDA, "mla": MLA},
    "lightning": {"layer_types": [LINEAR] * 3, "linear": LIGHTNING},
}
T = 70  # more than a chunk of the linear forms
IDS = torch.randint(40, (2, T), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def pair(name: str, dtype: torch.dtype) -> tuple[DecoderLM, DecoderLM]:
    """The same model with lively weights on the CPU and on the GPU."""
    values = {"num_key_value_heads": 2, "max_position_embeddings": 128, **VARIANTS[name]}
    config = ModelConfig.from_dict(
        {
            "vocab_size": 40,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            **values,
        }
    )
    here, generator = DecoderLM(config, seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, weight in here.named_parameters():
            if weight.dim() > 1 and "A_log" not in key and "conv" not in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15)
    here = here.to(dtype)
    return here, copy.deepcopy(here).to("cuda")


# float64 as well has RoPE's angles in 32 bits, as transformers, and cosines differ by device
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)]
)


@DTYPES
@pytest.mark.parametrize("name", VARIANTS)
def test_values_and_gradients_are_those_of_the_cpu(name, dtype, tolerance):
    if name == "DSA" and dtype == torch.float32:
        pytest.skip("a choice between nearly equal scores may fall either way in 32 bits")
    here, there = pair(name, dtype)
    found = []
    for model, device in ((here, "cpu"), (there, "cuda")):
        logits = model(IDS.to(device))
        logits.square().mean().backward()
        gradients = [w.grad.cpu() for w in model.parameters() if w.grad is not None]
        found.append([logits.detach().cpu(), *gradients])
    assert len(found[0]) == len(found[1]) > 10
    for expected, got in zip(*found, strict=True):
        atol = tolerance * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_decoding_by_cache_equals_the_cpu_at_once(name):
    here, there = pair(name, torch.float64)
    expected = here(IDS)
    cache, parts, ids = there.new_cache(2), [], IDS.cuda()
    for part in ids.split([5, 1, 1, 40, 2, 1, 20], dim=1):
        parts.append(there(part, cache).cpu())
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=1e-6)
    if isinstance(cache, LayeredCache):
        assert all(t.device.type == "cuda" for store in cache.stores for t in store.tensors)


def test_the_indexer_learns_the_same():
    here, there = pair("DSA", torch.float64)
    found = []
    for model, device in ((here, "cpu"), (there, "cuda")):
        loss = indexer_loss(model, IDS.to(device))
        loss.backward()
        found.append([loss.detach().cpu(), *(w.grad.cpu() for w in indexer_parameters(model))])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "DSA"])
@torch.no_grad()
def test_in_16_bits(name):
    here, there = pair(name, torch.float32)
    expected = here(IDS)
    got = there.to(torch.bfloat16)(IDS.cuda()).float().cpu()
    assert (got - expected).abs().mean() < 0.05 * expected.abs().mean()
