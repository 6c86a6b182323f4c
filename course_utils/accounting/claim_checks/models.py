"""Checks of claims about models: what they are made of, how many parameters, what they keep."""

from collections import Counter

from course_utils.accounting.cache import cache_bytes
from course_utils.accounting.catalog import catalog, find
from course_utils.accounting.chips import chip
from course_utils.accounting.conventions import (
    ALL,
    NO_EMBEDDING,
    NO_TABLES,
    WITH_MTP_NO_TABLES,
    checkpoint,
    conventions,
    fp8_scales,
)
from course_utils.accounting.feed_forward import MixtureOfExperts
from course_utils.accounting.spec import ModelSpec

CUSTOM = ("DeepSeek Model", "Community", "Qwen License", "Model Agreement")


def _billions(value: float, digits: int = 3) -> str:
    return f"{value / 1e9:.{digits}f}"


def _experts(spec: ModelSpec) -> MixtureOfExperts | None:
    found = (layer.feed_forward for layer in reversed(spec.layers))
    return next((part for part in found if isinstance(part, MixtureOfExperts)), None)


def _chosen(name: str) -> str:
    experts = _experts(find(name).spec)
    assert experts is not None, f"{name} has no experts"
    return f"{experts.num_experts_per_tok} of {experts.num_experts}"


def r1_is_sparse() -> dict[str, str]:
    """R1's config beside V3's."""
    r1, v3 = find("DeepSeek-R1"), find("DeepSeek-V3")
    keys = set(r1.config) | set(v3.config)
    return {
        "config keys that differ from V3's": str(
            sum(r1.config.get(key) != v3.config.get(key) for key in keys)
        ),
        "parameters": f"{r1.spec.count().total:,}",
        "experts chosen": _chosen("DeepSeek-R1"),
    }


def v3_is_no_405b(claimed: float) -> dict[str, str]:
    """V3 from its config, and the way from 671 to 685 billion."""
    spec = find("DeepSeek-V3").spec
    return {
        "parameters, billions": _billions(spec.count().total),
        "times the claim": f"{spec.count().total / claimed:.2f}",
        "MTP module, billions": _billions(spec.mtp_count().total),
        "second embedding and head, billions": _billions(2 * spec.table),
        "FP8 block scales": f"{fp8_scales(spec):,}",
        "numbers stored": f"{checkpoint(spec).total:,}",
    }


def who_is_sparse() -> dict[str, str]:
    """Total and activated of two sparse models; Qwen3's sizes by kind."""

    def both(name: str) -> str:
        count = find(name).spec.count()
        return f"{count.total / 1e9:,.1f}B, {count.activated / 1e9:.1f}B"

    qwen = [entry.spec for name, entry in catalog().items() if name.startswith("Qwen3-")]
    first = [spec for spec in qwen if spec.model_type in ("qwen3", "qwen3_moe")]
    sparse = sum(_experts(spec) is not None for spec in first)
    return {
        "Kimi K2, total and activated": both("Kimi-K2"),
        "MiniMax M2, total and activated": both("MiniMax-M2"),
        "Qwen3 sizes: dense, sparse": f"{len(first) - sparse}, {sparse}",
    }


def experts_per_token() -> dict[str, str]:
    """How many experts a token gets: the same number for every token."""
    names = ("DeepSeek-V3", "Kimi-K2", "MiniMax-M2", "Qwen3-30B-A3B", "GLM-4.5")
    return {name: _chosen(name) for name in names}


def cost_of_running_all_experts(experts: int, chosen: int) -> dict[str, str]:
    """Running all experts instead of the chosen ones."""
    few = MixtureOfExperts(experts, chosen, 1).weights(1)
    work = [sum(w.total for w in few if "experts" in w.name)]
    work.append(sum(w.activated for w in few if "experts" in w.name))
    return {"times the work of the chosen experts": f"{work[0] / work[1]:.0f}"}


def copied_head() -> dict[str, str]:
    """Qwen1.5-0.5B: a tied head, stored a second time."""
    spec = find("Qwen1.5-0.5B").spec
    return {
        "parameters": f"{spec.count().total:,}",
        "copy of the tied head": f"{spec.table:,}",
        "stored": f"{spec.count().total + spec.table:,}",
    }


def licences() -> dict[str, str]:
    """Licences of the catalog's models, checkpoint by checkpoint."""

    def kind(text: str) -> str:
        if any(word in text for word in CUSTOM):
            return "custom"
        return text or "not stated"

    counts = Counter(kind(entry.license) for entry in catalog().values())
    return {name: str(number) for name, number in sorted(counts.items())}


def qwen_tokens() -> dict[str, str]:
    """Training tokens of the open series."""
    names = {"Qwen2.5, trillions": "Qwen2.5-72B", "Qwen3, trillions": "Qwen3-235B-A22B"}
    tokens = {label: find(name).training["tokens"]["value"] for label, name in names.items()}
    return {label: f"{value / 1e12:.0f}" for label, value in tokens.items()}


def kimi_characters(
    characters: float, characters_per_token: list[float], tokens: int
) -> dict[str, str]:
    """Characters as tokens, and what a cache for that many tokens would take."""
    fewest, most = (characters / each / 1e6 for each in characters_per_token)
    kept = cache_bytes(find("Kimi-K2").spec, tokens)
    return {
        "tokens, millions": f"{fewest:.2f} to {most:.2f}",
        "cache of K2 for 2 million tokens, GB": f"{kept / 1e9:.1f}",
    }


def v3_beside_sonnet(**scores: list[float]) -> dict[str, str]:
    """Differences in points, V3 minus Claude 3.5 Sonnet."""
    gaps = {name: ours - theirs for name, (ours, theirs) in scores.items()}
    return {
        "ahead": ", ".join(f"{name} {gap:+.1f}" for name, gap in gaps.items() if gap > 0),
        "behind": ", ".join(f"{name} {gap:+.1f}" for name, gap in gaps.items() if gap < 0),
    }


def who_sees_pictures(models: list[str]) -> dict[str, str]:
    """How many of these configs have a vision part."""
    seeing = sum("vision_config" in find(name).config for name in models)
    return {"with a vision part": f"{seeing} of {len(models)}"}


def both_ends() -> dict[str, str]:
    """The largest and a small one."""
    digits = {"Kimi-K2": 1, "Ling-1T": 1, "Qwen3-0.6B": 3}
    return {
        f"{name}, billions": _billions(find(name).spec.count().total, places)
        for name, places in digits.items()
    }


def ascend_beside_h100() -> dict[str, str]:
    """Peaks per chip."""
    ours, theirs = chip("Ascend 910C"), chip("H100")
    return {
        "bf16 peak, of an H100": f"{ours.bf16_tflops / theirs.bf16_tflops:.0%}",
        "memory bandwidth, of an H100": f"{ours.bandwidth_tb_s / theirs.bandwidth_tb_s:.0%}",
    }


def v3_activated() -> dict[str, str]:
    """V3's activated parameters under three conventions."""
    counts = conventions(find("DeepSeek-V3").spec)
    return {
        "with both, billions": _billions(counts[ALL].activated),
        "without the input embedding, billions": _billions(counts[NO_EMBEDDING].activated),
        "without both, billions": _billions(counts[NO_TABLES].activated),
    }


def k2_total() -> dict[str, str]:
    """K2 as stored, and as if its dense layer had experts."""
    entry = find("Kimi-K2")
    total = entry.spec.count().total
    all_sparse = ModelSpec.from_hf_config(entry.config | {"first_k_dense_replace": 0})
    return {
        "stored": f"{total:,}",
        "against 1.04T": f"{total / 1.04e12 - 1:+.1%}",
        "all layers with experts, billions": _billions(all_sparse.count().total, 2),
    }


def glm_caption() -> dict[str, str]:
    """The caption's rule, and the same without MTP, for both models."""
    large, air = (conventions(find(name).spec) for name in ("GLM-4.5", "GLM-4.5-Air"))
    return {
        "GLM-4.5 by the rule, billions": _billions(large[WITH_MTP_NO_TABLES].total, 1),
        "GLM-4.5 without MTP, billions": _billions(large[ALL].total, 1),
        "Air by the rule, billions": _billions(air[WITH_MTP_NO_TABLES].total, 1),
        "Air without MTP, billions": _billions(air[NO_TABLES].total, 1),
    }
