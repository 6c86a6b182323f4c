"""Latent attention: absorbed beside naive and beside MQA; prefill beside `transformers`.

One layer, float32, 2 threads, the same weights on both sides where they are comparable; the sides
take turns, medians are compared. Decode adds one token to a cache of 4096. The MQA has as many
heads, as much cache (2 x 80 = 128 + 32 numbers a token) and nearly as many weights.
"""

import torch
from bench_decode import row
from bench_moe import in_turns
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

from course_utils.attention import (
    GroupedQueryAttention,
    LatentAttention,
    LayeredCache,
    MLAConfig,
)
from course_utils.layers import rope_tables

WIDTH, HEADS, CONTEXT, PROMPTS = 512, 16, 4096, (512, 2048)
MLA = MLAConfig(
    kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64, q_lora_rank=256
)
MQA_HEAD = (MLA.kv_lora_rank + MLA.qk_rope_head_dim) // 2
ROUNDS = {"decode": 41, "prefill": 7}


@torch.no_grad()
def shake(module: torch.nn.Module) -> torch.nn.Module:
    """Random weights of deviation 0.05, norms included."""
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05 + (weight.dim() == 1))
    return module.eval()


def decoding(module: torch.nn.Module, width: int, **options):
    """A step that adds one token to a full cache, again and again at the same place."""
    cache = LayeredCache([module.cache_layout()], 1, CONTEXT)
    x_BTD = torch.randn(1, CONTEXT, WIDTH, generator=torch.Generator().manual_seed(1))
    module(x_BTD[:, :-1], *rope_tables(torch.arange(CONTEXT - 1), width), cache=cache)
    cache.advance(CONTEXT - 1)
    tables = rope_tables(torch.tensor([CONTEXT - 1]), width)
    return lambda: module(x_BTD[:, -1:], *tables, cache=cache, **options)


def decode() -> list[dict]:
    """Tokens per second of absorbed, naive and MQA."""
    latent = shake(LatentAttention(WIDTH, HEADS, MLA))
    mqa = shake(GroupedQueryAttention(WIDTH, HEADS, 1, MQA_HEAD, False, 1e-6))
    sides = {
        "absorbed": decoding(latent, MLA.qk_rope_head_dim, absorbed=True),
        "naive": decoding(latent, MLA.qk_rope_head_dim, absorbed=False),
        "mqa": decoding(mqa, MQA_HEAD),
    }
    torch.testing.assert_close(sides["absorbed"](), sides["naive"](), rtol=0, atol=1e-5)
    times = in_turns(sides, ROUNDS["decode"], lambda: None)
    rate = {name: 1 / seconds for name, seconds in times.items()}
    label = f"decode at {CONTEXT}, tokens/s: absorbed MLA, "
    return [
        row(label + "naive MLA", rate["absorbed"], rate["naive"], 4.0),
        row(label + "MQA of the same cache", rate["absorbed"], rate["mqa"], 1 / 1.5),
    ]


def twin(implementation: str, latent: LatentAttention) -> DeepseekV3Attention:
    """`DeepseekV3Attention` on the same weights."""
    config = DeepseekV3Config(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        q_lora_rank=MLA.q_lora_rank,
        kv_lora_rank=MLA.kv_lora_rank,
        qk_nope_head_dim=MLA.qk_nope_head_dim,
        qk_rope_head_dim=MLA.qk_rope_head_dim,
        v_head_dim=MLA.v_head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    config._attn_implementation = implementation
    theirs = DeepseekV3Attention(config, 0).eval()
    theirs.load_state_dict(latent.state_dict())
    return theirs


def prefill(tokens: int) -> list[dict]:
    """Tokens per second of a prompt, beside both implementations of `transformers`."""
    latent = shake(LatentAttention(WIDTH, HEADS, MLA))
    x_BTD = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    cos, sin = rope_tables(torch.arange(tokens), MLA.qk_rope_head_dim)
    unseen = torch.full((1, 1, tokens, tokens), float("-inf")).triu(1)
    masks = {"eager": unseen, "sdpa": None}  # without a mask their SDPA path is causal by itself
    sides = {"ours": lambda: latent(x_BTD, cos, sin)}
    for name, mask in masks.items():
        theirs = twin(name, latent)
        sides[name] = lambda theirs=theirs, mask=mask: theirs(x_BTD, (cos[None], sin[None]), mask)[
            0
        ]
    for name in masks:
        torch.testing.assert_close(sides["ours"](), sides[name](), rtol=0, atol=1e-4)
    times = in_turns(sides, ROUNDS["prefill"], lambda: None)
    ours = tokens / times["ours"]
    label = f"prefill of {tokens}, tokens/s: MLA, transformers' "
    return [row(label + name, ours, tokens / times[name], 1.0) for name in masks]


@torch.no_grad()
def run() -> list[dict]:
    """Rows for `course bench attention`."""
    torch.set_num_threads(2)
    return [*decode(), *(line for tokens in PROMPTS for line in prefill(tokens))]
