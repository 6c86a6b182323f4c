"""Decode and prefill of SmolLM2-135M in float32: the course's model beside `transformers`.

Same weights, same ids, same process; the two sides take turns, medians are compared. Reported too:
how close decoding comes to the memory bandwidth measured in the same run, since every token must
read all weights once.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.display.timing import alternate, seconds
from course_utils.generation import generate
from course_utils.models.pretrained import smollm2

NEW_TOKENS, PROMPT = 32, 512


def transformers_twin(model) -> LlamaForCausalLM:
    """`LlamaForCausalLM` on the very weights of the course's model."""
    config = model.config.to_dict()
    config.pop("use_qk_norm")
    theta = config.pop("rope_theta")
    rope = {"rope_type": "default", "rope_theta": theta}
    with torch.device("meta"):
        twin = LlamaForCausalLM(LlamaConfig(**config, rope_parameters=rope))
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    twin.model.rotary_emb = type(twin.model.rotary_emb)(twin.config)
    twin.generation_config.eos_token_id = None
    return twin.eval()


def bandwidth() -> float:
    """Bytes per second that PyTorch reads when it sums 512 MiB: the best of ten."""
    numbers = torch.ones(128 * 1024 * 1024)
    numbers.sum()
    return numbers.nbytes / min(seconds(numbers.sum) for _ in range(10))


@torch.no_grad()
def run() -> list[dict]:
    """Rows for `course bench decode`."""
    model = smollm2().model
    twin = transformers_twin(model)
    prompt = torch.arange(8)[None] + 1000
    long = torch.randint(40_000, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    options = {"do_sample": False, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    ours, theirs = alternate(
        lambda: generate(model, prompt, NEW_TOKENS),
        lambda: twin.generate(prompt, attention_mask=torch.ones_like(prompt), **options),
    )
    ours_long, theirs_long = alternate(
        lambda: model(long, model.new_cache(1, PROMPT), last_only=True),
        lambda: twin(long, use_cache=True, logits_to_keep=1),
    )
    bound = bandwidth() / sum(weight.nbytes for weight in model.parameters())
    rate = NEW_TOKENS / ours
    return [
        row("decode, batch 1, tokens/s", rate, NEW_TOKENS / theirs, 1.3),
        row("prefill of 512, tokens/s", PROMPT / ours_long, PROMPT / theirs_long, 1.0),
        row("decode against the bandwidth bound", rate, bound, 0.55),
    ]


def row(name: str, ours: float, peer: float, target: float | None) -> dict:
    """One line of the report: both sides, their ratio, and the ratio to reach."""
    return {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "target": target}
