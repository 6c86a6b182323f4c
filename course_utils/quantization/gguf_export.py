"""A dense model of the course as a GGUF file that llama.cpp runs.

Matrices are written in one block type ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "F16"), embedding and head
in another, norms in float32. Rows that blocks do not divide fall back to Q8_0, else to F16:
SmolLM2's 576 columns are no multiple of 256, so its Q4_K file has Q4_K where columns are 1536.

Models without norms on queries and keys are written as "llama", whose rotary channels lie
interleaved, with them as "qwen3", whose lie in two halves as in the course. The tokenizer goes into
the metadata, under the rule that llama.cpp calls "smollm": digits one by one, then byte-level BPE.

Left out: experts, latent and linear attention, chat templates. Source: `convert_hf_to_gguf.py` in
the llama.cpp repository.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from course_utils.data.tokenizer import Tokenizer
from course_utils.formats.gguf_blocks import TYPES
from course_utils.formats.gguf_write import write_gguf
from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM
from course_utils.models.pretrained import BLOCK_NAMES, CONTROL

HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
NORMAL = 1  # type of a token that is merged from bytes
FALLBACKS = ("Q8_0", "F16")
FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q4_K": 14}


def save_gguf(
    model: DecoderLM,
    tokenizer: Tokenizer,
    path: Path | str,
    kind: str = "Q8_0",
    head_kind: str = "Q8_0",
) -> int:
    """Write the model and its tokenizer; returns the file's bytes.

    Quantized layers are written as what their codes stand for, rounded again to `kind`. Raises
    ValueError for an unknown type, and for models that are not dense with grouped-query attention.
    """
    config = model.config
    if config.moe or config.mla or config.layer_types or config.linear:
        raise ValueError("only dense models with grouped-query attention are written to GGUF here")
    if kind not in FILE_TYPES:
        raise ValueError(f"unknown type {kind!r}: choose one of {', '.join(FILE_TYPES)}")
    modules, tensors = dict(model.named_modules()), {}
    for name, source in tensor_names(config).items():
        weight = _weight(modules[source], name, config)
        wanted = head_kind if name in ("token_embd.weight", "output.weight") else kind
        tensors[name] = (weight, "F32" if weight.dim() == 1 else _fitting(weight, wanted))
    return write_gguf(path, _metadata(config, tokenizer, kind), tensors)


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """The module that each tensor of the file comes from; a tied head is left out."""
    names = {"token_embd.weight": "model.embed_tokens", "output_norm.weight": "model.norm"}
    if not config.tie_word_embeddings:
        names["output.weight"] = "lm_head"
    parts = BLOCK_NAMES | (HEAD_NORMS if config.use_qk_norm else {})
    for layer in range(config.num_hidden_layers):
        names |= {f"blk.{layer}.{k}.weight": f"model.layers.{layer}.{v}" for k, v in parts.items()}
    return names


def _weight(module: nn.Module, name: str, config: ModelConfig) -> Tensor:
    weight = module.weight.detach()
    if config.use_qk_norm or not name.endswith(("attn_q.weight", "attn_k.weight")):
        return weight
    # rows (head, 2, pair) of half-split RoPE become (head, pair, 2) of interleaved RoPE
    halves = weight.view(-1, 2, config.head_dim // 2, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def _fitting(weight: Tensor, kind: str) -> str:
    """The type, or the first fallback whose blocks divide the rows."""
    sizes = {entry.name: entry.weights for entry in TYPES.values()}
    return next(name for name in (kind, *FALLBACKS) if weight.shape[-1] % sizes[name] == 0)


def _metadata(config: ModelConfig, tokenizer: Tokenizer, kind: str) -> dict[str, Any]:
    family = "qwen3" if config.use_qk_norm else "llama"
    values = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_theta),
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    head = {"general.architecture": family, "general.file_type": FILE_TYPES[kind]}
    head["general.quantization_version"] = 2
    return head | {f"{family}.{k}": v for k, v in values.items()} | _tokenizer_metadata(tokenizer)


def _tokenizer_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    model = json.loads(tokenizer.inner.to_str())["model"]
    special = tokenizer.inner.get_added_tokens_decoder()
    by_id = {number: token for token, number in tokenizer.inner.get_vocab().items()}
    ids = range(len(by_id))
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [by_id[number] for number in ids],
        "tokenizer.ggml.token_type": [CONTROL if n in special else NORMAL for n in ids],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokenizer.end_id,
        "tokenizer.ggml.eos_token_id": tokenizer.end_id,
        "tokenizer.ggml.add_bos_token": False,
    }
