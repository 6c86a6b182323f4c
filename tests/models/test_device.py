"""The same code on a GPU, in float32 and bfloat16, where there is one."""

import pytest
import torch

from course_utils.generation import generate
from course_utils.models import DecoderLM, ModelConfig
from course_utils.training import TrainingConfig, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
CONFIG = ModelConfig(50, 32, 64, 2, 4, 2, 16, 64)


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


# float64 as well has RoPE's angles in 32 bits, as transformers, and cosines differ by device
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_logits_are_those_of_the_cpu(dtype, tolerance, padded):
    model = DecoderLM(CONFIG).eval()
    ids = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :5] = 0
    expected = model.double()(ids, attention_mask=mask)
    model.to("cuda", dtype)
    cache = model.new_cache(3)
    assert (cache.kv.device.type, cache.kv.dtype) == ("cuda", dtype)
    ids, mask, done, parts = ids.cuda(), mask.cuda(), 0, []
    for part in ids.split([6, 1, 4, 1], dim=1):
        done += part.shape[1]
        parts.append(model(part, cache, mask[:, :done]))
    for got in (model(ids, attention_mask=mask), torch.cat(parts, dim=1)):
        real = mask.bool().cpu()
        got = got.double().cpu()[real]
        torch.testing.assert_close(got, expected[real], rtol=0, atol=tolerance)


def test_generation_and_training_run_there():
    model = DecoderLM(CONFIG).to("cuda")
    stream = torch.arange(400) % 7
    config = TrainingConfig(30, batch=4, length=16, warmup_steps=5)
    losses = train(model, stream, config, progress=False).losses
    assert losses[-1] < 0.5 * losses[0]
    mixed = train(DecoderLM(CONFIG).to("cuda"), stream, config, progress=False, autocast=True)
    assert mixed.losses[-1] < 0.5 * mixed.losses[0]
    prompt = torch.arange(6, device="cuda")[None]
    ids = generate(model, prompt, 5)
    assert ids.device.type == "cuda"
    for options in ({}, {"temperature": 1.0, "top_p": 0.9}):
        first = generate(model, prompt, 5, seed=1, **options)
        assert torch.equal(first, generate(model, prompt, 5, seed=1, **options))
