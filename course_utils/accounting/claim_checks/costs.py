"""Checks of claims about efficiency, cost and memory: caches, operations, hours, money."""

from course_utils.accounting.attention import GroupedQueryAttention, LatentAttention
from course_utils.accounting.cache import (
    cache_bytes,
    cache_bytes_per_token,
    cache_elements_per_token,
)
from course_utils.accounting.catalog import find
from course_utils.accounting.chips import chip
from course_utils.accounting.flops import six_n_d, training_flops_per_token
from course_utils.accounting.formats import stored_bytes
from course_utils.accounting.training import achieved_flops, cost, days, mfu, saving


def _fact(model: str, key: str) -> float:
    """A published figure of a training run, from the catalog."""
    return find(model).training[key]["value"]


def _v3_hours() -> float:
    kinds = ("pretraining", "context_extension", "post_training")
    return sum(_fact("DeepSeek-V3", f"gpu_hours_{kind}") for kind in kinds)


def ling_saving(
    cost_on_d: float,
    cost_on_mix: float,
    activated: float,
    tokens: float,
    devices: dict[str, list[float]],
) -> dict[str, str]:
    """Ling-plus: the saving, and what MFU it assumes on either device."""
    flops = six_n_d(activated, tokens)
    hours = {name: cost_on_d / price if name == "D" else cost_on_mix / price
             for name, (_, price) in devices.items()}  # fmt: skip
    peak = {name: tflops * 1e12 for name, (tflops, _) in devices.items()}
    price = {name: each / (tflops / 1000) for name, (tflops, each) in devices.items()}
    ordered = sorted(price, key=lambda name: price[name])
    return {
        "saved": f"{saving(cost_on_d, cost_on_mix):.1%}",
        "hours on D, thousands": f"{hours['D'] / 1e3:.1f}",
        "MFU on D": f"{mfu(flops, hours['D'], peak['D']):.1%}",
        "MFU if all were A": f"{mfu(flops, hours['A'], peak['A']):.1%}",
        "RMB per peak PFLOP-hour": ", ".join(f"{name} {price[name]:.1f}" for name in ordered),
    }


def input_price(miss: float, hit: float) -> dict[str, str]:
    """The price of input when a share of it is found in the cache."""
    prices = [miss * (1 - share) + hit * share for share in (0, 0.5, 1)]
    return {"dollars at 0%, 50% and 100% hits": ", ".join(f"{price:.2f}" for price in prices)}


def mla_93_percent(bits: float, table_9: list[float]) -> dict[str, str]:
    """V2's cache beside the dense 67B's, beside its own heads uncompressed, and in 6 bits."""
    dense, latent = find("DeepSeek-LLM-67B").spec, find("DeepSeek-V2").spec
    before, after = cache_elements_per_token(dense), cache_elements_per_token(latent)
    wide, small = cache_bytes_per_token(dense), cache_bytes_per_token(latent, bits)
    attention = latent.layers[0].attention
    assert isinstance(attention, LatentAttention)
    heads, width = attention.num_attention_heads, attention.v_head_dim
    full = GroupedQueryAttention(heads, heads, width).keeps()[0].amount * len(latent.layers)
    return {
        "numbers a token, 67B": f"{before:,}",
        "numbers a token, V2": f"{after:,}",
        "MLA alone": f"{-saving(before, after):.2%}",
        "bytes, 67B in bf16": f"{wide:,}",
        "bytes, V2 in 6 bits": f"{small:,}",
        "with 6 bits": f"{-saving(wide, small):.2%}",
        "against MHA of the same shape": f"{-saving(full, after):.2%}",
        "the report's own MHA": f"{-saving(*table_9):.2%}",
        "groups of grouped queries with the same cache": str(
            after / len(latent.layers) / 2 / width
        ),
    }


def v3_cost() -> dict[str, str]:
    """V3's hours in money, and where its hours come from."""
    price = _fact("DeepSeek-V3", "dollars_per_gpu_hour")
    kinds = ("pretraining", "context_extension", "post_training")
    hours = [_fact("DeepSeek-V3", f"gpu_hours_{kind}") for kind in kinds]
    millions = [f"{cost(each, price) / 1e6:.3f}" for each in hours]
    per_trillion = _fact("DeepSeek-V3", "gpu_hours_per_trillion_tokens")
    gpus = int(_fact("DeepSeek-V3", "gpus"))
    trillions = _fact("DeepSeek-V3", "tokens") / 1e12
    return {
        "pre-training, $M": millions[0],
        "context extension, $M": millions[1],
        "post-training, $M": millions[2],
        "total, $M": f"{cost(sum(hours), price) / 1e6:.3f}",
        "hours from tokens, thousands": f"{trillions * per_trillion / 1e3:,.0f}",
        "days per trillion tokens": f"{days(per_trillion, gpus):.2f}",
        "days of pre-training": f"{days(hours[0], gpus):.1f}",
    }


def a_tenth_of_the_compute(
    activated: float, llama: float, qwen: float, gpt4_flops: float
) -> dict[str, str]:
    """V3 beside Llama-3.1-405B and others, in hours and in operations."""
    tokens = _fact("DeepSeek-V3", "tokens")
    hours = _fact("Llama-3.1-405B", "gpu_hours") / _v3_hours()
    theirs = six_n_d(llama, _fact("Llama-3.1-405B", "tokens"))
    ours = six_n_d(activated, tokens)
    with_attention = tokens * training_flops_per_token(find("DeepSeek-V3").spec, 4096)
    published = _fact("Llama-3.1-405B", "flops")
    printed = float(f"{with_attention:.2e}")  # unrounded it is 10.25, which two digits cannot say
    qwen_flops = six_n_d(qwen, _fact("Qwen2.5-72B", "tokens"))
    return {
        "hours": f"{hours:.2f}x",
        "share of the hours": f"{1 / hours:.1%}",
        "Llama-3.1-405B, 6ND": f"{theirs:.2e}",
        "DeepSeek-V3, 6ND": f"{ours:.2e}",
        "6ND": f"{theirs / ours:.1f}x",
        "DeepSeek-V3 with attention": f"{with_attention:.2e}",
        "published 3.8e25 against that, as printed": f"{published / printed:.1f}x",
        "against GPT-4's estimate": f"{gpt4_flops / ours:.1f}x",
        "against Qwen2.5-72B": f"{qwen_flops / ours:.1f}x",
    }


def fair_comparison(gpt4_dollars: float) -> dict[str, str]:
    """The same rent for Llama-3.1-405B, and the press's number for GPT-4."""
    price = _fact("DeepSeek-V3", "dollars_per_gpu_hour")
    ours = cost(_v3_hours(), price)
    theirs = cost(_fact("Llama-3.1-405B", "gpu_hours"), price)
    return {
        "Llama-3.1-405B at $2 an hour, $M": f"{theirs / 1e6:.1f}",
        "times V3": f"{theirs / ours:.0f}",
        "GPT-4's figure, times V3": f"{gpt4_dollars / ours:.1f}",
    }


def mfu_behind_the_price(sequence: int, activated: float) -> dict[str, str]:
    """Operations per token three ways, over the published hours per trillion tokens."""
    names = ("DeepSeek-V3", "DeepSeek-V2", "DeepSeek-LLM-67B")
    hours = {name: _fact(name, "gpu_hours_per_trillion_tokens") for name in names}
    specs = {name: find(name).spec for name in names}
    causal = {name: training_flops_per_token(specs[name], sequence) for name in names}
    square = training_flops_per_token(specs["DeepSeek-V3"], sequence, causal=False)
    bf16, fp8 = chip("H800").bf16_tflops * 1e12, chip("H800").fp8_tflops * 1e12
    rule = 1e12 * six_n_d(activated, 1)
    v3, v2, dense = names
    counts = [specs[name].count().activated for name in (dense, v2)]
    return {
        "6ND, TFLOPS per GPU": f"{achieved_flops(rule, hours[v3]) / 1e12:.1f}",
        "6ND, of bf16": f"{mfu(rule, hours[v3], bf16):.1%}",
        "6ND, of fp8": f"{mfu(rule, hours[v3], fp8):.1%}",
        "GFLOPs a token, causal": f"{causal[v3] / 1e9:.1f}",
        "causal, TFLOPS per GPU": f"{achieved_flops(1e12 * causal[v3], hours[v3]) / 1e12:.1f}",
        "causal, of bf16": f"{mfu(1e12 * causal[v3], hours[v3], bf16):.1%}",
        "full square, of bf16": f"{mfu(1e12 * square, hours[v3], bf16):.1%}",
        "V2, GFLOPs a token": f"{causal[v2] / 1e9:.1f}",
        "V2, of bf16": f"{mfu(1e12 * causal[v2], hours[v2], bf16):.1%}",
        "67B, of bf16": f"{mfu(1e12 * causal[dense], hours[dense], bf16):.1%}",
        "V2 against 67B, operations by 6ND": f"-{counts[0] / counts[1]:.2f}x",
        "V2 against 67B, hours": f"-{hours[dense] / hours[v2]:.2f}x",
    }


def v2_training_saving() -> dict[str, str]:
    """Hours per trillion tokens, V2 beside the dense 67B."""
    names = ("DeepSeek-LLM-67B", "DeepSeek-V2")
    hours = [_fact(name, "gpu_hours_per_trillion_tokens") for name in names]
    return {"saved": f"{saving(*hours):.2%}"}


def deepseek_moe_computations(dense: float, tokens: int) -> dict[str, str]:
    """DeepSeekMoE-16B beside a dense 7B: the published share, and our own count."""
    published = _fact("DeepSeekMoE-16B", "flops_per_4k_tokens")
    counted = tokens * training_flops_per_token(find("DeepSeekMoE-16B").spec, tokens)
    return {
        "published share": f"{published / dense:.1%}",
        "counted, forward and backward, T": f"{counted / 1e12:.1f}",
    }


def caches_per_token() -> dict[str, str]:
    """Bytes of one token in bf16: latents beside grouped queries."""
    names = ("DeepSeek-V3", "Qwen2.5-72B", "Llama-3.1-405B")
    sizes = {name: cache_bytes_per_token(find(name).spec) for name in names}
    first = sizes["DeepSeek-V3"]
    found = {f"{name}, KB": f"{size / 1e3:.3f}" for name, size in sizes.items()}
    return found | {f"{name} against V3": f"{sizes[name] / first:.2f}x" for name in names[1:]}


def cache_of_a_long_prompt(tokens: int) -> dict[str, str]:
    """What has to be moved when prefill and decode run on different machines."""
    kept = cache_bytes(find("Llama-3.1-70B").spec, tokens)
    return {"Llama-3.1-70B, 128K tokens, GB": f"{kept / 1e9:.1f}"}


def wint2(published_bytes: float, card_bytes: float, trillion: float) -> dict[str, str]:
    """ERNIE-4.5-300B under the recipe; and a trillion parameters at the same rate."""
    spec = find("ERNIE-4.5-300B-A47B").spec
    bits = 8 * published_bytes / spec.count().total
    large = trillion * bits / 8
    return {
        "recipe, GB": f"{stored_bytes(spec, 'wint2') / 1e9:.1f}",
        "bits a weight of the published 89 GB": f"{bits:.2f}",
        "bf16, GB": f"{stored_bytes(spec) / 1e9:.0f}",
        "a trillion parameters, GB": f"{large / 1e9:.0f}",
        "fits one card": "yes" if large <= card_bytes else "no",
    }


def serving_margin(
    nodes: float,
    gpus: int,
    dollars_per_hour: float,
    tokens_billions: list[float],
    prices: list[float],
    published_income: float,
) -> dict[str, str]:
    """A day of DeepSeek's fleet: rent against income, prices per million tokens."""
    spent = cost(nodes * gpus * 24, dollars_per_hour)
    pairs = zip(tokens_billions, prices, strict=True)
    income = sum(billions * 1e3 * price for billions, price in pairs)
    return {
        "cost a day, $": f"{spent:,.0f}",
        "income a day, $": f"{income:,.0f}",
        "margin from the published income": f"{published_income / spent - 1:.1%}",
    }
