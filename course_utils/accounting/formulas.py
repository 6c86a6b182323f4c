"""Counts as closed formulas over the keys of a config: what one would write on paper.

    config = find("Llama-3.1-405B").config
    llama_parameters(config)          # 405,853,388,800

A ModelSpec reaches the same numbers another way, from a list of every weight with its shape; tests
hold the two to each other. In the formulas: V vocabulary, D model width, L layers, H query heads,
G key-value heads, d head width, F expert width, E experts, k experts per token.

Left out: biases, windows, shared layers, indexers, linear attention. A ModelSpec counts them.
Sources: shapes as in `transformers` 5.23; latents: arXiv 2405.04434, section 2.1.
"""


def head_width(config: dict) -> int:
    """Channels of one head: head_dim, or the model's width over the heads where it is missing."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def llama_parameters(config: dict) -> int:
    """All parameters of a dense model of Llama's kind: grouped queries, SwiGLU, no biases."""
    V, D, L = config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]
    H, G, d = config["num_attention_heads"], config["num_key_value_heads"], head_width(config)
    attention = 2 * D * H * d + 2 * D * G * d  # queries and output; keys and values
    feed_forward = 3 * D * config["intermediate_size"]  # gate, up, down
    tables = V * D if config["tie_word_embeddings"] else 2 * V * D
    return tables + L * (attention + feed_forward + 2 * D) + D


def mla_parameters(config: dict) -> int:
    """Parameters of one layer's latent attention, the norms of its latents included.

    q_lora_rank None: one matrix makes the queries, with no latent and no norm.
    """
    D, H = config["hidden_size"], config["num_attention_heads"]
    nope, rope, v = (config[key] for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    q, kv = config["q_lora_rank"], config["kv_lora_rank"]
    queries = D * H * (nope + rope)
    if q is not None:
        queries = D * q + q + q * H * (nope + rope)  # down, norm, up
    keys_values = D * (kv + rope) + kv + kv * H * (nope + v)  # down, norm, up
    return queries + keys_values + H * v * D


def moe_parameters(config: dict, attention: int) -> tuple[int, int]:
    """Total and activated parameters of a model of DeepSeek-V3's kind, MTP left out.

    attention: parameters of one layer's attention. The head is a table of its own, and a router
    has a matrix and one correction bias for each expert.
    """
    V, D, L = config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]
    E, k = config["n_routed_experts"], config["num_experts_per_tok"]
    shared, dense = config["n_shared_experts"], config["first_k_dense_replace"]
    everywhere = 2 * V * D + D + L * (attention + 2 * D)
    everywhere += dense * 3 * D * config["intermediate_size"]
    router, expert = D * E + E, 3 * D * config["moe_intermediate_size"]
    total = everywhere + (L - dense) * (router + (E + shared) * expert)
    activated = everywhere + (L - dense) * (router + (k + shared) * expert)
    return total, activated


def kv_bytes_per_token(config: dict, bits: float = 16) -> float:
    """Bytes that one token leaves in the cache of all layers: grouped queries, or latents (MLA)."""
    if config.get("kv_lora_rank"):
        numbers = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    else:
        numbers = 2 * config["num_key_value_heads"] * head_width(config)
    return config["num_hidden_layers"] * numbers * bits / 8
