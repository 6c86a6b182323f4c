"""The engine on models that others use: SmolLM2 beside `transformers`, and weights in 8 bits."""

import pytest
import torch

from course_utils.data.fetch import available
from course_utils.generation import generate
from course_utils.models import DecoderLM, shipped
from course_utils.models.pretrained import smollm2
from course_utils.quantization import QuantizationArgs, fuse, quantize_model
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import Engine, Generation, SamplingParams

SYSTEM = "You are a helpful AI assistant. Answer in one short sentence and in plain words."
QUESTIONS = ("Name three rivers.", "Why is the sky blue?")


def logits_of(engine: Engine) -> dict[Generation, list[torch.Tensor]]:
    """Run to the end; the logits from which every request's tokens were chosen."""
    found, head = {made: [] for made in engine.live.values()}, []
    hook = engine.model.lm_head.register_forward_hook(lambda part, inputs, out: head.append(out))
    while engine.live:
        if updates := engine.step():
            for update, logits_V in zip(updates, head.pop(), strict=True):
                found[update.generation].append(logits_V)
    hook.remove()
    return found


@pytest.mark.skipif(not available("smollm2"), reason="needs SmolLM2: run `course fetch`")
def test_logits_of_smollm2_are_those_of_transformers():
    """In blocks of 16, chunks of at most 24 tokens, with a prefix found; and the same text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    smol, new = smollm2(), 6
    values = smol.model.config.to_dict()
    values.pop("use_qk_norm")
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    with torch.device("meta"):
        twin = LlamaForCausalLM(LlamaConfig(**values, rope_parameters=rope)).eval()
    twin.load_state_dict(smol.model.state_dict(), assign=True)
    twin.tie_weights()
    twin.model.rotary_emb = type(twin.model.rotary_emb)(twin.config)

    engine = Engine(smol.model, SchedulerConfig(40, 16, max_tokens=24, max_requests=1))
    for question in QUESTIONS:
        engine.add(smol.chat_ids(question, SYSTEM)[0].tolist(), SamplingParams(new))
    found = logits_of(engine)
    assert engine.steps > 2 * new  # prompts were read in chunks
    assert next(reversed(found)).request.cached_tokens == 16
    for made, rows in found.items():
        ids_1T, start = torch.tensor([made.ids]), made.prompt_length
        with torch.no_grad():
            theirs_LV = twin(ids_1T[:, :-1]).logits[0, start - 1 :]
        assert (theirs_LV - torch.stack(rows)).abs().max() < 1e-4
        assert theirs_LV.argmax(-1).tolist() == made.new_ids


def packed(kernel: str, joined: bool) -> DecoderLM:
    model = quantize_model(shipped("dense"), QuantizationArgs(8), kernel)
    return fuse(model) if joined else model


@pytest.mark.parametrize("joined", [False, True])
def test_packed_weights_give_the_same_tokens_in_the_engine(joined):
    model = packed("dequantize", joined)
    engine = Engine(model, SchedulerConfig(30, 8, max_tokens=20, max_requests=2))
    prompts = [list(range(100, 118)), list(range(200, 209)), list(range(100, 130))]
    made = [engine.add(prompt, SamplingParams(6)) for prompt in prompts]
    engine.run()
    for prompt, one in zip(prompts, made, strict=True):
        assert one.new_ids == generate(model, torch.tensor([prompt]), 6)[0].tolist()
    assert made[2].request.cached_tokens == 16


@pytest.mark.parametrize("joined", [False, True])
def test_a_kernel_that_depends_on_the_rows_agrees_where_these_are_the_same(joined):
    """It computes few rows otherwise than many; one request in whole passes has generate's rows."""
    model = packed("int8", joined)
    engine = Engine(model, SchedulerConfig(30, 8, max_requests=1, prefix_cache=False))
    prompts = [list(range(100, 140)), list(range(200, 203))]
    made = [engine.add(prompt, SamplingParams(6)) for prompt in prompts]
    engine.run()
    for prompt, one in zip(prompts, made, strict=True):
        assert one.new_ids == generate(model, torch.tensor([prompt]), 6)[0].tolist()
