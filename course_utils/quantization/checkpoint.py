"""Quantized checkpoints: safetensors whose bytes are as small as promised.

A file holds the packed codes, scales and zero points of every quantized weight, the other weights
in bfloat16 (a routing bias in 32 bits), and in its header what a course checkpoint has (`config`,
`lineage`) plus `quantization`: the scheme of each weight. Loading gives the same logits, bit for
bit where the other weights are bfloat16 already. For files that other software reads, see
`formats`.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from course_utils.models.checkpoints import kept_dtype, read_header
from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM
from course_utils.quantization.linear import QuantizedEmbedding
from course_utils.quantization.model import HEAD, TABLE, install_weights, packed_weights
from course_utils.quantization.packed import PARTS, PackedWeight
from course_utils.quantization.schemes import QuantizationArgs


def save_quantized(
    model: DecoderLM, path: Path | str, lineage: dict, dtype: torch.dtype = torch.bfloat16
) -> int:
    """Write a model of which `quantize_model` has replaced layers; returns the file's bytes.

    dtype is that of the weights that are not quantized. A tied table is written once.
    """
    weights, tied = packed_weights(model), model.config.tie_word_embeddings
    tensors = {
        name: tensor.detach().to("cpu", kept_dtype(name, dtype)).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith(PARTS) and not (tied and name == f"{HEAD}.weight")
    }
    for name, weight in weights.items():
        parts = weight.tensors().items()
        tensors |= {f"{name}.{part}": tensor.cpu().contiguous() for part, tensor in parts}
    schemes = {n: asdict(w.args) | {"columns": w.shape[-1]} for n, w in weights.items()}
    header = {"config": model.config.to_dict(), "lineage": lineage, "quantization": schemes}
    partial = Path(path).with_suffix(".partial")
    save_file(tensors, partial, {"format": "pt"} | {k: json.dumps(v) for k, v in header.items()})
    partial.replace(path)
    return Path(path).stat().st_size


def load_quantized(
    path: Path | str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **parts,
) -> DecoderLM:
    """The model of such a file, ready to run; `parts` go to `DecoderLM`.

    dtype is that of the weights that are not quantized, and of the model between its products.
    Raises ValueError, naming the file, for one that is damaged or has no quantized weights.
    """
    config = ModelConfig.from_dict(read_header(path)["config"])
    with safe_open(path, "pt") as file:
        schemes = json.loads((file.metadata() or {}).get("quantization", "null"))
        tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}
    if schemes is None:
        raise ValueError(f"{path} has no quantized weights: use load_checkpoint")
    weights = {name: _take(tensors, name, dict(s), path) for name, s in schemes.items()}
    with torch.device("meta"):
        model = DecoderLM(config, **parts)
    install_weights(model, weights)
    rest = {name: tensor.to(kept_dtype(name, dtype)) for name, tensor in tensors.items()}
    if config.tie_word_embeddings and HEAD not in weights:
        rest[f"{HEAD}.weight"] = rest[f"{TABLE}.weight"]
    try:
        model.load_state_dict(rest, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its own config: {error}") from None
    if config.tie_word_embeddings and not isinstance(model.model.embed_tokens, QuantizedEmbedding):
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def _take(tensors: dict, name: str, scheme: dict, path: Path | str) -> PackedWeight:
    """One packed weight, taken out of the file's tensors."""
    own = {part: tensors.pop(f"{name}.{part}") for part in PARTS if f"{name}.{part}" in tensors}
    columns = scheme.pop("columns")
    try:
        return PackedWeight.from_tensors(own, QuantizationArgs(**scheme), columns)
    except ValueError as error:
        raise ValueError(f"{path}, {name}: {error}") from None
