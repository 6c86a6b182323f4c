"""The exercises of chapter 01: parameters, activated parameters, caches, costs, conventions.

Cases mix generated sizes, all different so that no two keys can be confused, with real configs.
"""

import random
from typing import Any

from course_utils.accounting.conventions import fitting_conventions
from course_utils.accounting.formulas import (
    kv_bytes_per_token,
    llama_parameters,
    mla_parameters,
    moe_parameters,
)
from course_utils.accounting.tensors import Count
from course_utils.accounting.training import training_cost
from course_utils.exercises import _c01_cost_mistakes as cost
from course_utils.exercises import _c01_size_mistakes as size
from course_utils.exercises.spec import Case, ExerciseSpec

EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 0.0}  # counts are compared to the last digit

LLAMA_405B = {
    "vocab_size": 128256, "hidden_size": 16384, "num_hidden_layers": 126,
    "intermediate_size": 53248, "num_attention_heads": 128, "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}  # fmt: skip
SMOLLM2_135M = {
    "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
DEEPSEEK_V3 = {
    "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "intermediate_size": 18432,
    "first_k_dense_replace": 3, "num_attention_heads": 128, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1,
    "moe_intermediate_size": 2048, "tie_word_embeddings": False,
}  # fmt: skip
DEEPSEEK_V2_LITE = DEEPSEEK_V3 | {
    "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27, "intermediate_size": 10944,
    "first_k_dense_replace": 1, "num_attention_heads": 16, "num_key_value_heads": 16,
    "q_lora_rank": None, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
    "moe_intermediate_size": 1408,
}  # fmt: skip
QWEN3_30B = {
    "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128,
}  # fmt: skip


def _dense(rng: random.Random, tied: bool, with_width: bool) -> dict[str, Any]:
    groups, per_group, head = rng.randint(2, 3), rng.randint(2, 4), rng.choice((8, 16))
    heads = groups * per_group
    config = {
        "vocab_size": rng.randint(101, 199), "hidden_size": heads * head,
        "num_hidden_layers": rng.randint(2, 5), "intermediate_size": rng.randint(200, 300),
        "num_attention_heads": heads, "num_key_value_heads": groups, "tie_word_embeddings": tied,
    }  # fmt: skip
    return config | ({"head_dim": head + 4} if with_width else {})


def _latent(rng: random.Random, q_rank: bool = True) -> dict[str, Any]:
    heads = rng.randint(3, 6)
    return {
        "hidden_size": rng.randint(70, 90), "num_hidden_layers": rng.randint(4, 6),
        "num_attention_heads": heads, "num_key_value_heads": heads,
        "q_lora_rank": rng.randint(20, 29) if q_rank else None,
        "kv_lora_rank": rng.randint(10, 19), "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
        "v_head_dim": 10, "vocab_size": rng.randint(101, 199),
        "intermediate_size": rng.randint(200, 300), "first_k_dense_replace": rng.randint(1, 2),
        "n_routed_experts": rng.randint(8, 12), "num_experts_per_tok": rng.randint(2, 4),
        "n_shared_experts": rng.randint(1, 2), "moe_intermediate_size": rng.randint(30, 50),
        "tie_word_embeddings": False,
    }  # fmt: skip


# ---- a dense model


def _llama_cases(rng: random.Random) -> list[Case]:
    one = {
        "vocab_size": 10, "hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 6,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False,
    }  # fmt: skip
    return [
        Case((one,), "one tiny layer, two query heads that share one key-value head"),
        Case((one | {"tie_word_embeddings": True},), "the same with a tied head"),
        Case((one | {"head_dim": 3},), "the same with its own head_dim of 3, not 4 // 2"),
        Case((_dense(rng, False, False),)),
        Case((_dense(rng, True, True),)),
        Case((SMOLLM2_135M,), "SmolLM2-135M"),
        Case((LLAMA_405B,), "Llama-3.1-405B"),
    ]


LLAMA_PARAMETERS = ExerciseSpec(
    name="c01.llama_parameters",
    title="Count a dense model",
    why="Every other model is counted as a change of this one.",
    reference=llama_parameters,
    cases=_llama_cases,
    wrong_answers=size.LLAMA_PARAMETERS,
    hints=(
        "Two tables (or one), then L times the same layer, then one last norm.",
        "A layer: q_proj and o_proj are D x H d, k_proj and v_proj D x G d, three matrices D x F, "
        "two norms of D.",
        "tables + L * (2*D*H*d + 2*D*G*d + 3*D*F + 2*D) + D, where tables is V*D or 2*V*D.",
    ),
    **EXACT,
)


# ---- latent attention


def _mla_cases(rng: random.Random) -> list[Case]:
    tiny = {
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 3, "q_lora_rank": 5,
        "kv_lora_rank": 4, "qk_nope_head_dim": 2, "qk_rope_head_dim": 1, "v_head_dim": 6,
    }  # fmt: skip
    return [
        Case((tiny,), "a tiny block"),
        Case((tiny | {"q_lora_rank": None},), "q_lora_rank null: one matrix makes the queries"),
        Case((_latent(rng),)),
        Case((_latent(rng, q_rank=False),)),
        Case((DEEPSEEK_V2_LITE,), "DeepSeek-V2-Lite"),
        Case((DEEPSEEK_V3,), "DeepSeek-V3"),
    ]


MLA_PARAMETERS = ExerciseSpec(
    name="c01.mla_parameters",
    title="Count a block of latent attention",
    why="Six of its seven keys are missing from the usual formulas for attention.",
    reference=mla_parameters,
    cases=_mla_cases,
    wrong_answers=size.MLA_PARAMETERS,
    hints=(
        "Follow the token: down to a query latent, norm, up to H query heads. Then the same for "
        "keys and values. Then out.",
        "q_a D x q_rank, norm q_rank, q_b q_rank x H (nope + rope); kv_a D x (kv_rank + rope), "
        "norm kv_rank, kv_b kv_rank x H (nope + v); o H v x D.",
        "queries = D*q + q + q*H*(nope + rope), or D*H*(nope + rope) if q is None; then "
        "D*(kv + rope) + kv + kv*H*(nope + v) + H*v*D.",
    ),
    **EXACT,
)


# ---- a sparse model


def _moe_cases(rng: random.Random) -> list[Case]:
    tiny = _latent(random.Random(5)) | {
        "vocab_size": 10, "hidden_size": 4, "num_hidden_layers": 3, "intermediate_size": 20,
        "n_routed_experts": 5, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "moe_intermediate_size": 6, "first_k_dense_replace": 1,
    }  # fmt: skip
    return [
        Case((tiny, 100), "3 layers, the first dense, then 2 of 5 experts and 1 shared"),
        Case((tiny | {"first_k_dense_replace": 0}, 100), "the same without a dense layer"),
        Case((_latent(rng), rng.randint(900, 1000))),
        Case((_latent(rng), rng.randint(900, 1000))),
        Case((DEEPSEEK_V2_LITE, 12_000_000), "sizes of DeepSeek-V2-Lite"),
        Case((DEEPSEEK_V3, 187_107_328), "DeepSeek-V3"),
    ]


MOE_PARAMETERS = ExerciseSpec(
    name="c01.moe_parameters",
    title="Total and activated parameters",
    why='They are the two numbers in a name such as "671B, 37B activated".',
    reference=moe_parameters,
    cases=_moe_cases,
    wrong_answers=size.MOE_PARAMETERS,
    hints=(
        "First what every token uses: tables, attention and norms in all layers, the dense layers. "
        "It is the same in both numbers.",
        "An MoE layer adds its router, D*E + E, and experts of 3*D*moe_intermediate_size: "
        "how many are stored, how many does a token use?",
        "total: everywhere + (L - dense) * (router + (E + shared) * expert); activated: the same "
        "with k in place of E.",
    ),
    **EXACT,
)


# ---- the cache


def _cache_cases(rng: random.Random) -> list[Case]:
    tiny = {
        "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    few = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "kv_lora_rank": 24, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16, "v_head_dim": 12, "q_lora_rank": 40,
    }  # fmt: skip
    old = {key: value for key, value in tiny.items() if key != "head_dim"}
    odd = {key: 8 * rng.randint(2, 9) for key in ("kv_lora_rank", "qk_rope_head_dim")}
    layers = rng.randint(5, 9)
    return [
        Case((tiny, 16), "2 layers, 4 query heads on 2 key-value heads of 16 channels, bf16"),
        Case((old, 16), "the same without head_dim: 96 // 4 channels"),
        Case((few, 16), "3 layers of latent attention, bf16"),
        Case((tiny, 8), "grouped queries, a cache of 8 bits"),
        Case((few | odd | {"num_hidden_layers": layers}, 6), "latents in 6 bits"),
        Case((tiny | {"num_hidden_layers": layers, "num_key_value_heads": 1}, 32), "MQA in fp32"),
        Case((QWEN3_30B, 16), "Qwen3-30B-A3B in bf16"),
        Case((LLAMA_405B,), "Llama-3.1-405B, bits left at their default"),
        Case((DEEPSEEK_V3, 16), "DeepSeek-V3 in bf16"),
        Case((DEEPSEEK_V2_LITE | {"q_lora_rank": None}, 8), "DeepSeek-V2-Lite in 8 bits"),
    ]


KV_BYTES_PER_TOKEN = ExerciseSpec(
    name="c01.kv_bytes_per_token",
    title="Bytes of the cache for one token",
    why="It decides how many users and how long a text one card can serve.",
    reference=kv_bytes_per_token,
    cases=_cache_cases,
    wrong_answers=cost.KV_BYTES_PER_TOKEN,
    hints=(
        "What must be kept of a token so that later tokens can look at it? In every layer.",
        "Grouped queries: a key and a value for each of num_key_value_heads. MLA (kv_lora_rank is "
        "there): one latent and one RoPE key.",
        "layers * numbers * bits / 8, where numbers is 2*G*head_width(config), or "
        "kv_lora_rank + qk_rope_head_dim.",
    ),
    **EXACT,
)


# ---- the price of training


def _training_cases(rng: random.Random) -> list[Case]:
    activated = rng.randint(2, 9) * 10**9
    large = Count(activated * rng.randint(5, 20), activated)
    return [
        Case((Count(40, 6), 100, 1.0, 0.5, 2.0), "6 of 40 parameters, 100 tokens, 1 operation/s"),
        Case((Count(10**9, 10**9), 20 * 10**9, 312e12, 0.4, 1.5), "a dense model on A100"),
        Case((large, rng.randint(1, 9) * 10**12, 989e12, rng.uniform(0.2, 0.5), 2.5)),
        Case((large, rng.randint(1, 9) * 10**12, 148e12, 1.0, 0.8), "every operation used"),
        Case((Count(671_026_419_200, 37_552_297_472), 14.8e12, 989e12, 0.346, 2.0), "DeepSeek-V3"),
    ]


TRAINING_COST = ExerciseSpec(
    name="c01.training_cost",
    title="GPU-hours and dollars of a training run",
    why="It turns a headline about money into three numbers that can be checked.",
    reference=training_cost,
    cases=_training_cases,
    wrong_answers=cost.TRAINING_COST,
    hints=(
        "How many operations does the whole run take? 6 for each parameter that a token uses, and "
        "each token.",
        "A chip does peak_flops * mfu operations a second. How many seconds, and how many hours?",
        "hours = 6 * count.activated * tokens / (peak_flops * mfu) / 3600; dollars = hours * price",
    ),
    rtol=1e-6,
    atol=0.0,
)


# ---- conventions


def _convention_cases(rng: random.Random) -> list[Case]:
    three = {
        "all": 10_760_000_000,
        "without input embedding": 10_330_000_000,
        "bare": 9_900_000_000,
    }
    near = {
        "all": 36_980_000_000,
        "without input embedding": 36_740_000_000,
        "bare": 36_440_000_000,
    }
    base = rng.randint(20, 60) * 10**9
    drawn = {"a": base + 620_000_000, "b": base + 280_000_000, "c": base - 330_000_000}
    return [
        Case(("9.9", three), "one decimal"),
        Case(("10", three), "two of three round to 10"),
        Case(("11", three), "10.76 rounds to 11, and cut off it would be 10"),
        Case(("36.7", near), "36.74 rounds to 36.7, the others do not"),
        Case(("37.0", near), "36.98 rounds to 37.0, and 36.74 only to 37"),
        Case(("10.4", three), "nothing rounds to 10.4, though 10.33 is near"),
        Case((str(base // 10**9), drawn)),
        Case((f"{(base + 620_000_000) / 1e9:.1f}", drawn)),
        Case(("5.13", {"all": 5_160_000_000, "without input embedding": 5_132_850_048})),
    ]


FITTING_CONVENTIONS = ExerciseSpec(
    name="c01.fitting_conventions",
    title="The convention behind a published number",
    why='It tells an honest "A10B" from a wrong one.',
    reference=fitting_conventions,
    cases=_convention_cases,
    wrong_answers=cost.FITTING_CONVENTIONS,
    hints=(
        'How many digits stand after the point in "36.7", in "37", in "5.13"?',
        "Round each count, in billions, to that many digits. Does it print the same?",
        'digits = len(printed.partition(".")[2]); keep the names with '
        'f"{count / 1e9:.{digits}f}" == printed',
    ),
)

EXERCISES = [
    LLAMA_PARAMETERS,
    MLA_PARAMETERS,
    MOE_PARAMETERS,
    KV_BYTES_PER_TOKEN,
    TRAINING_COST,
    FITTING_CONVENTIONS,
]
