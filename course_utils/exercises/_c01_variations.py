"""The wrong answers of chapter 01, as variations of the right computation.

Each function below takes what can go wrong as options, so that a mistake stands in one line beside
its diagnosis in `_c01_size_mistakes.py` and `_c01_cost_mistakes.py`. The defaults give the right
answer.
"""

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]


def width(config: Config) -> int:
    """Channels of a head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def llama(
    groups: str = "num_key_value_heads",
    head: Callable[[Config], int] = width,
    key_values: int = 2,
    query_output: int = 2,
    output: str = "num_attention_heads",
    matrices: int = 3,
    norms: int = 2,
    last_norm: int = 1,
    tables: Callable[[bool], int] = lambda tied: 1 if tied else 2,
    layers: bool = True,
    square: int = 0,
    scale: float = 1,
) -> Callable[[Config], float]:
    """A count of a dense model; square: attention as that many D x D matrices."""

    def llama_parameters(config: Config) -> float:
        D, H, d = config["hidden_size"], config["num_attention_heads"], head(config)
        attention = (query_output - 1) * D * H * d + D * config[output] * d
        attention += key_values * D * config[groups] * d
        attention = square * D * D if square else attention
        layer = attention + matrices * D * config["intermediate_size"] + norms * D
        table = tables(config["tie_word_embeddings"]) * config["vocab_size"] * D
        count = table + (config["num_hidden_layers"] if layers else 1) * layer + last_norm * D
        return count if scale == 1 else count * scale

    return llama_parameters


def latent(
    q_norm: int = 1,
    kv_norm: int = 1,
    down_rope: Callable[[int], int] = lambda H: 1,
    query_rope: int = 1,
    up_nope: int = 1,
    up_rope: int = 0,
    up_values: int = 1,
    latents: Callable[[int], int] = lambda H: 1,
    output: str = "values",
    extra: Callable[[Config], int] = lambda config: 0,
    layers: bool = False,
    values: str = "v_head_dim",
    no_rank: str = "one matrix",
) -> Callable[[Config], int]:
    """A count of a block of latent attention; no_rank: what becomes of queries without a rank."""

    def mla_parameters(config: Config) -> int:
        D, H, kv = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
        nope, rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
        v, q = config["v_head_dim"], config["q_lora_rank"]
        if q is None and no_rank == "one matrix":
            queries = D * H * (nope + query_rope * rope)
        else:
            q = 0 if q is None and no_rank == "zero" else q
            queries = D * q + q_norm * q + q * H * (nope + query_rope * rope)
        down = D * (latents(H) * kv + down_rope(H) * rope) + kv_norm * kv
        up = kv * H * (up_nope * nope + up_rope * rope + up_values * config[values])
        ends = {
            "values": H * v,
            "width": D,
            "none": 0,
            "queries": H * (nope + rope),
            "keys": H * nope,
        }
        block = queries + down + up + ends[output] * D + extra(config)
        return block * (config["num_hidden_layers"] if layers else 1)

    return mla_parameters


def plain_attention(config: Config) -> int:
    """Attention without latents: four full matrices."""
    D, H = config["hidden_size"], config["num_attention_heads"]
    queries = H * (config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
    return D * (2 * queries + 2 * H * config["v_head_dim"])


def sparse(
    shared_total: int = 1,
    shared_activated: int = 1,
    one_shared: bool = False,
    router: Callable[[int, int, int], int] = lambda D, E, k: D * E + E,
    router_activated: Callable[[int, int, int], int] | None = None,
    dense: str = "intermediate_size",
    tables: int = 2,
    norms: int = 2,
    last_norm: int = 1,
    matrices: int = 3,
    activated: str = "chosen",
    idle: Callable[[Config], int] = lambda config: 0,
    sparse_layers: Callable[[Config], int] | None = None,
    attention_times: Callable[[Config], int] = lambda config: config["num_hidden_layers"],
    swapped: bool = False,
) -> Callable[[Config, int], tuple]:
    """A count of an MoE model. dense: the width of the first layers, or "sparse" or "skipped"."""

    def moe_parameters(config: Config, attention: int) -> tuple:
        D, E, k = config["hidden_size"], config["n_routed_experts"], config["num_experts_per_tok"]
        L, first = config["num_hidden_layers"], config["first_k_dense_replace"]
        every = tables * config["vocab_size"] * D + last_norm * D + L * norms * D
        every += attention * attention_times(config)
        times = L if dense == "sparse" else L - first
        times = sparse_layers(config) if sparse_layers else times
        if dense not in ("sparse", "skipped"):
            every += first * matrices * D * config[dense]
        expert = matrices * D * config["moe_intermediate_size"]
        n = 1 if one_shared else config["n_shared_experts"]
        scores = router(D, E, k)
        few = (router_activated or router)(D, E, k)
        total = every + times * (scores + (E + shared_total * n) * expert)
        small = every - idle(config) + times * (few + (k + shared_activated * n) * expert)
        small = {"chosen": small, "all": total, "share": total * k / E}[activated]
        return (small, total) if swapped else (total, small)

    return moe_parameters


def cached(
    groups: str = "num_key_value_heads",
    head: Callable[[Config], int] = width,
    pairs: int = 2,
    latent: Callable[[Config], int] = lambda c: c["kv_lora_rank"] + c["qk_rope_head_dim"],
    plain: Callable[[Config], int] | None = None,
    layers: bool = True,
    asks: Callable[[Config], Any] = lambda config: config.get("kv_lora_rank"),
    scale: Callable[[float], float] = lambda bits: bits / 8,
) -> Callable[..., float]:
    """Bytes of a token in the cache; plain: other numbers a layer without latents."""

    def kv_bytes_per_token(config: Config, bits: float = 16) -> float:
        if asks(config):
            numbers = latent(config)
        else:
            numbers = plain(config) if plain else pairs * config[groups] * head(config)
        return (config["num_hidden_layers"] if layers else 1) * numbers * scale(bits)

    return kv_bytes_per_token


def trained(
    which: str = "activated",
    passes: float = 6,
    used: Callable[[float], float] = lambda share: share,
    seconds: float = 3600,
    peak: float = 1,
    swapped: bool = False,
    money: float = 1,
    show: Callable[[float], float] = lambda value: value,
) -> Callable[..., tuple[float, float]]:
    """Hours and dollars of a run; seconds: what an hour is taken for; money: a factor on it."""

    def training_cost(count, tokens, peak_flops, mfu, dollars_per_hour) -> tuple[float, float]:
        flops = passes * getattr(count, which) * tokens
        hours = flops / (peak_flops * peak * used(mfu)) / seconds
        dollars = hours * dollars_per_hour * money
        return (show(dollars), show(hours)) if swapped else (show(hours), show(dollars))

    return training_cost
